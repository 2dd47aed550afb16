"""AdaBN (Li et al., Pattern Recognition 2018): the target is normalised by statistics of its own.

No loss sees the target. `--when during` is TA3N's form of it: batch norms for each domain, whose running
averages are taken while the source trains. `--when after` is Li et al.'s: the statistics of all target
training videos replace those of the trained network, with the source's scales and shifts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.domain_norm import DomainBatchNorm
from adapt.initialise import initialise
from adapt.losses import source_loss
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.parallel import BatchNorm
from adapt.prediction import take_statistics
from adapt.settings import ROBUST, TA3N_FAMILY
from store.errors import ConfigError
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """When the target's statistics are taken, and which scales and shifts go with them."""

    when: str = field(
        default="during",
        metadata=option(
            "When the statistics of the target are taken. during: running averages over its batches in "
            "training (TA3N); after: of all its training videos after a training without them.",
            choices=("during", "after"),
        ),
    )
    target_scale: str = field(
        default="start",
        metadata=option(
            "Scale and shift of the target's batch norms. start: 1 and 0, where they stay in TA3N's "
            "code, which never trains them; source: those that the source has trained (Li et al.).",
            choices=("start", "source"),
            read_with={"when": "during"},
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size * self.frames * self.draws == 1:
            raise ConfigError(
                "--method adabn with --batch-size 1 and --frames 1 gives batch norm a single value. "
                "Raise either."
            )


# The statistics of prediction are the method itself, so there is no choice of them beside it.
READS = names_of(TRAINING, ENCODER) - {"statistics"}
SETTINGS = {
    "own": TA3N_FAMILY,
    "shared": {
        **{name: value for name, value in ROBUST.items() if name in READS},
        "target_scale": "source",
    },
}


class DomainEncoder(nn.Sequential):
    """An encoder of `adapt.model` with a batch norm for each domain in place of each of its batch norms.

    The one-layer encoder, which has none, gets one between Linear and ReLU, as in TA3N.
    """

    def __init__(self, encoder: nn.Sequential, *, one_layer: bool) -> None:
        layers: list[nn.Module] = []
        for layer in encoder:
            layers.append(
                DomainBatchNorm(layer.num_features) if isinstance(layer, BatchNorm) else layer
            )
            if one_layer and isinstance(layer, nn.Linear):
                layers.append(DomainBatchNorm(layer.out_features))
        super().__init__(*layers)

    def forward(self, x: Tensor, *, source: bool = False) -> Tensor:
        """Features (rows, D) of one domain -> (rows, C)."""
        for layer in self:
            x = layer(x, source=source) if isinstance(layer, DomainBatchNorm) else layer(x)
        return x


class AdaBN(VideoClassifier):
    """Encoder with a batch norm per domain, mean over frames, classifier; predicts on the target."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__(config, backbone_width, classes)
        self.encoder = DomainEncoder(self.encoder, one_layer=config.encoder == "one-layer")

    def encode(self, features_BTD: Tensor, *, source: bool = False) -> Tensor:
        """Backbone features (B, T, D) of one domain -> (B, T, C)."""
        rows = self.encoder(features_BTD.flatten(0, 1), source=source)
        frames_BTC: Tensor = rows.unflatten(0, features_BTD.shape[:2])
        return frames_BTC


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network; no loss trains the scales and shifts of the target's batch norms."""
    model = AdaBN(config, width, classes)
    initialise(model, config.initialisation)
    for norm in [part for part in model.modules() if isinstance(part, DomainBatchNorm)]:
        if config.when == "during" and config.target_scale == "start":
            nn.init.ones_(norm.target.weight)
            nn.init.zeros_(norm.target.bias)
            norm.target.requires_grad_(False)
        else:
            norm.target.weight, norm.target.bias = norm.source.weight, norm.source.bias
    return Networks(model)


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s, the cross entropy on the source's labels; the target only moves its running averages."""
    model = networks.model
    logits_BN = model.classify(model.encode(source.features_BTD, source=True))
    loss = source_loss(logits_BN, source.labels_B)
    if config.when == "during":
        with torch.no_grad():
            model.encode(target.features_BTD)
    return StepLosses(total=loss, parts={"source": loss})


def remember(networks: Networks, data: TrainingData, config: Options) -> None:
    """With `--when after`, take the statistics of all target training videos at segment centres."""
    if config.when == "after":
        take_statistics(networks.model, data.target, config.frames)
