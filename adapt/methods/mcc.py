"""MCC (Jin et al., ECCV 2020): minimum class confusion, no discriminator and no second network.

Few target videos should be torn between the same two classes. Like `infomax` it costs one loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.initialise import initialise
from adapt.losses import entropy, source_loss
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.parallel import gathered
from adapt.settings import PAPER, ROBUST, THUML_IMAGES
from store.errors import ConfigError
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """The weight and the temperature of the confusion."""

    confusion_weight: float = field(default=1.0, metadata=option("Weight of the class confusion."))
    confusion_temperature: float = field(
        default=2.5,
        metadata=option("What the target's logits are divided by; 2.5 is the authors'."),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confusion_temperature == 0:
            raise ConfigError("--confusion-temperature must be above 0, got 0.")


READS = names_of(TRAINING, ENCODER)
OWN = {**THUML_IMAGES, "batch_size": 28}
"""The settings of its authors' code (thuml/Versatile-Domain-Adaptation, `train_image_office.py`).

Chosen: no batch norm of the bottleneck, so that encoder and start are those of CDAN's authors.
"""
SETTINGS = {"shared": ROBUST, "own": OWN, "paper": PAPER}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing but the predicting network is trained."""
    model = VideoClassifier(config, width, classes)
    initialise(model, config.initialisation)
    return Networks(model)


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + weight * class confusion of the target."""
    # Passed separately, so that each domain's batch norm sees its own statistics.
    source_BN, target_BN = networks.model(source.features_BTD), networks.model(target.features_BTD)
    label = source_loss(source_BN, source.labels_B)
    confusion = class_confusion(gathered(target_BN), config.confusion_temperature)
    total = label + config.confusion_weight * confusion
    return StepLosses(total=total, parts={"source": label, "confusion": confusion})


def class_confusion(logits_BN: Tensor, temperature: float) -> Tensor:
    """(1/N) sum_j sum_{k != j} C_jk / sum_k C_jk with C_jk = sum_b w_b p_bj p_bk, in [0, 1 - 1/N].

    p = softmax(logits / temperature); w_b = B (1 + exp(-H(p_b))) / sum_b (1 + exp(-H(p_b))), without a
    gradient. 0 for sure predictions, 1 - 1/N for uniform ones; also nearly 0 if all become one class.
    """
    scaled_BN = logits_BN / temperature
    p_BN = scaled_BN.softmax(dim=1)
    w_B = 1 + torch.exp(-entropy(scaled_BN.detach()))
    w_B = len(w_B) * w_B / w_B.sum()
    with torch.autocast(p_BN.device.type, enabled=False):  # products of a loss are float32 too
        C_NN = (w_B[:, None] * p_BN).T @ p_BN
    C_NN = C_NN / C_NN.sum(dim=1, keepdim=True).clamp_min(torch.finfo(C_NN.dtype).tiny)
    return (C_NN.sum() - C_NN.trace()) / len(C_NN)
