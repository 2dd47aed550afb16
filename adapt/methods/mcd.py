"""MCD (Saito et al., CVPR 2018) on videos: two classifiers find where they disagree, the encoder mends it.

`three-steps` is the original: (A) everything learns the source's labels; (B) the two classifiers alone
learn them too and disagree as much as they can on the target; (C) the encoder alone makes them agree, four
times. Prediction is by the mean of both classifiers' logits. `one-pass` is the form of TA3N's code, with one
descent and gradient reversal; there prediction is by the first classifier alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import reverse
from adapt.initialise import initialise
from adapt.losses import source_loss
from adapt.methods import Descend, Networks, Progress
from adapt.model import VideoClassifier
from adapt.settings import ROBUST, TA3N_FAMILY
from store.options import option

ONE_PASS, THREE_STEPS = "one-pass", "three-steps"


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """Which form, and how hard the encoder works against the disagreement."""

    form: str = field(
        default=THREE_STEPS,
        metadata=option(
            "three-steps: the original; one-pass: one descent with gradient reversal, as in TA3N's "
            "code.",
            choices=(THREE_STEPS, ONE_PASS),
        ),
    )
    encoder_steps: int = field(
        default=4,
        metadata=option(
            "Descents of the encoder in a step.",
            least=1,
            most=100,
            read_with={"form": THREE_STEPS},
        ),
    )
    discrepancy_reversal: float = field(
        default=4.0,
        metadata=option(
            "How strongly the disagreement's gradient is reversed at the encoder (4 in ABG's script; "
            "TA3N's code as published has 0, which turns the method off).",
            read_with={"form": ONE_PASS},
        ),
    )


READS = names_of(TRAINING, ENCODER)
SETTINGS = {
    # The authors train on images with a network of their own: the encoder and linear heads are chosen.
    "own": {
        "batch_size": 128,
        "optimiser": "adam",
        "learning_rate": 2e-4,
        "rate_decay": "none",
        "weight_decay": 5e-4,
    },
    "shared": ROBUST,
    "ta3n": {**TA3N_FAMILY, "form": ONE_PASS},
}


class TwoClassifiers(VideoClassifier):
    """A second classifier of the same video feature."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__(config, backbone_width, classes)
        self.second = nn.Linear(config.width, classes)
        self._both = config.form == THREE_STEPS

    def pair(self, video_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Video features (B, C) -> logits (B, N) of each classifier."""
        logits_BN = self.classify_video(video_BC)
        return logits_BN, self.second(video_BC).to(logits_BN.dtype)

    def classify(self, frames_BTC: Tensor) -> Tensor:
        """f^1 (B, T, C) -> logits (B, N) of the prediction."""
        first_BN, second_BN = self.pair(self.pool(frames_BTC))
        return (first_BN + second_BN) / 2 if self._both else first_BN


def build(config: Options, width: int, classes: int) -> Networks:
    """The two classifiers differ by their random start alone."""
    model = TwoClassifiers(config, width, classes)
    initialise(model, config.initialisation)
    return Networks(model)


def step(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
    descend: Descend,
) -> Mapping[str, Tensor]:
    """One step of either form, see the top of this file."""
    model = networks.model

    def on_source() -> Tensor:
        pair = model.pair(model.pool(model.encode(source.features_BTD)))
        return source_loss(pair[0], source.labels_B) + source_loss(pair[1], source.labels_B)

    def on_target(reversal: float | None = None) -> Tensor:
        video_BC = model.pool(model.encode(target.features_BTD))
        return disagreement(
            *model.pair(video_BC if reversal is None else reverse(video_BC, reversal))
        )

    if config.form == ONE_PASS:
        label, apart = on_source(), on_target(config.discrepancy_reversal)
        descend(label - apart, [model])
        return {"source": label, "disagreement": apart}
    label = on_source()
    descend(label, [model])
    known, apart = on_source(), on_target()  # the authors' order, which batch norms remember
    descend(known - apart, [model.classifier, model.second])
    for _ in range(config.encoder_steps):
        agreed = on_target()
        descend(agreed, [model.encoder])
    return {"source": label, "disagreement": apart, "left": agreed}


def disagreement(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """mean over videos and classes of |softmax(first) - softmax(second)|, in [0, 2 / N]."""
    return (first_BN.softmax(dim=1) - second_BN.softmax(dim=1)).abs().mean()
