"""TCoN (Pan et al., AAAI 2020), after the paper's description: no code of its authors exists.

A co-attention between the segments of a source and of a target video makes source features that lie where
the target's do in time; they are matched adversarially with the target's, segment by segment and as videos.
What the description leaves open is chosen: every formula below, the pairing, the weights of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.config import ADVERSARY, ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import DomainClassifier, reverse
from adapt.dropout import Dropout
from adapt.initialise import initialise
from adapt.losses import exact, source_loss
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import encode, make_encoder
from adapt.schedule import reversal_coefficient
from adapt.settings import ROBUST, TA3N_FAMILY
from store.options import option

KEY_WIDTH = 256
"""Width of queries and keys."""
ONE_PROCESS = "a source video may be paired with any target video of the batch"


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """Weights of the losses, and when a pseudo-label counts."""

    segment_weight: float = field(
        default=1.0, metadata=option("Weight of the segments' domain loss.")
    )
    video_weight: float = field(default=1.0, metadata=option("Weight of the videos' domain loss."))
    attention_weight: float = field(
        default=1.0,
        metadata=option("Weight of the loss of the predicted attention against the co-attention."),
    )
    confident: float = field(
        default=0.8,
        metadata=option(
            "Probability from which a target video's prediction decides with which source videos it is "
            "paired; above 1 all pairs are random."
        ),
    )


READS = names_of(TRAINING, ADVERSARY, ENCODER)
SETTINGS = {
    "own": {**TA3N_FAMILY, "adversarial_ramp": "dann"},
    "shared": {**ROBUST, "adversarial_ramp": "dann"},
}


class TCoN(nn.Module):
    """Encoder, predicted attention over time, classifier; and the co-attention, which training alone uses."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__()
        C = config.width
        self.encoder = make_encoder(config, backbone_width)
        self.attention = nn.Sequential(nn.Linear(C, C), nn.Tanh(), nn.Linear(C, 1))
        self.dropout = Dropout(config.video_dropout)
        self.classifier = nn.Linear(C, classes)

    def encode(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> segment features f (B, T, C)."""
        return encode(self.encoder, features_BTD)

    def attend(self, segments_BTC: Tensor) -> Tensor:
        """f -> the predicted attention over time (B, T), rows that sum to 1."""
        scores_BT = self.attention(segments_BTC).squeeze(2)
        return exact(scores_BT).softmax(dim=1)

    def classify(self, segments_BTC: Tensor) -> Tensor:
        """f -> logits (B, N) of sum_i a_i f_i."""
        video_BC = self.dropout(weighted(self.attend(segments_BTC), segments_BTC))
        return exact(self.classifier(video_BC))

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N); no source video takes part."""
        return self.classify(self.encode(features_BTD))


class Branch(nn.Module):
    """Queries of the source, keys of the target, and both discriminators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, KEY_WIDTH, bias=False)
        self.key = nn.Linear(width, KEY_WIDTH, bias=False)
        self.segment = DomainClassifier(width)
        self.video = DomainClassifier(width)

    def coattention(self, source_BTC: Tensor, target_BTC: Tensor) -> Tensor:
        """Of pairs: softmax over the source's segments i of q_i k_j / 16, (B, i, j)."""
        scores_Bij = self.query(source_BTC) @ self.key(target_BTC).transpose(1, 2)
        return (exact(scores_Bij) / KEY_WIDTH**0.5).softmax(dim=1)


def weighted(weights_BT: Tensor, features_BTC: Tensor) -> Tensor:
    """sum_t w_t f_t: (B, C)."""
    return (weights_BT[:, :, None].to(features_BTC.dtype) * features_BTC).sum(dim=1)


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network, and the branch of the training."""
    networks = Networks(TCoN(config, width, classes), Branch(config.width))
    initialise(networks, config.initialisation)
    return networks


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + L_segment + L_video behind gradient reversal + KL(co-attention || predicted attention).

    Every target video j is paired with one source video. Aligned: f^_j = sum_i A_ij f_i^s for each of its
    segments. D_segment tells f^_j from f_j^t; D_video tells sum_j a_j f^_j from sum_j a_j f_j^t, a the
    attention predicted for the target. The co-attention of a source video is the mean of A over the
    segments of all target videos that it is paired with; as a truth it gets no gradient.
    """
    model, branch = networks.model, networks.branch
    coefficient = reversal_coefficient(config, progress.share)
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    source_BTC, target_BTC = model.encode(source.features_BTD), model.encode(target.features_BTD)
    label = source_loss(model.classify(source_BTC), source.labels_B)
    with torch.no_grad():
        P_BN = model.classify(target_BTC).softmax(dim=1)
    partner_B = partners(P_BN, source.labels_B, config.confident)
    paired_BTC = source_BTC[partner_B]
    A_Bij = branch.coattention(paired_BTC, target_BTC)
    aligned_BTC = A_Bij.transpose(1, 2).to(paired_BTC.dtype) @ paired_BTC
    attention_BT = model.attend(target_BTC)
    aligned_BC, target_BC = (weighted(attention_BT, x) for x in (aligned_BTC, target_BTC))
    parts = {
        "source": label,
        "segment": domain_loss(branch.segment, aligned_BTC, target_BTC, coefficient),
        "video": domain_loss(branch.video, aligned_BC, target_BC, coefficient),
        "attention": attention_loss(A_Bij, partner_B, model.attend(source_BTC)),
    }
    total = (
        label
        + config.segment_weight * parts["segment"]
        + config.video_weight * parts["video"]
        + config.attention_weight * parts["attention"]
    )
    return StepLosses(total=total, parts=parts)


def partners(P_BN: Tensor, labels_B: Tensor, confident: float) -> Tensor:
    """A source video for every target video, drawn at random: of the predicted class if it is sure.

    Args:
        P_BN: predictions of the target's videos.
        labels_B: of the source's videos.
    """
    sure_B, class_B = P_BN.max(dim=1)
    same_BS = (class_B[:, None] == labels_B) & (sure_B >= confident)[:, None]
    possible_BS = torch.where(same_BS.any(dim=1, keepdim=True), same_BS, True)
    return torch.multinomial(possible_BS.float().cpu(), 1).squeeze(1).to(P_BN.device)


def attention_loss(A_Bij: Tensor, partner_B: Tensor, predicted_BT: Tensor) -> Tensor:
    """Mean over the paired source videos of KL(a || predicted).

    a is the mean of A over the segments of all targets that a source video is paired with.
    """
    found_BT = torch.zeros_like(predicted_BT, dtype=A_Bij.dtype)
    found_BT = found_BT.index_add(0, partner_B, A_Bij.detach().mean(dim=2))
    sums_B = found_BT.sum(dim=1)
    paired_B = sums_B > 0
    a_BT = (found_BT / torch.where(paired_B, sums_B, 1.0)[:, None]).to(predicted_BT.dtype)
    log_predicted = predicted_BT.clamp_min(torch.finfo(predicted_BT.dtype).tiny).log()
    # Rows of zeros have the divergence 0. They are not taken out, which would wait for the GPU.
    return F.kl_div(log_predicted, a_BT, reduction="sum") / paired_B.sum()


def domain_loss(
    discriminator: nn.Module, source: Tensor, target: Tensor, coefficient: float
) -> Tensor:
    """Cross entropy of the domain, mean over all rows (..., C) of both, behind gradient reversal."""
    logits = exact(discriminator(reverse(torch.cat([source, target]), coefficient)))
    rows = logits.flatten(0, -2)
    domains = torch.arange(2, device=rows.device).repeat_interleave(len(rows) // 2)
    return F.cross_entropy(rows, domains)
