"""What the methods without a network share: a mean over frames, a normalisation, a plain classifier.

The shapes add to those of `adapt.model`: V videos, k the width after the alignment, P points of the nearest
neighbour, M classes that the source has. Fits are float64 in NumPy and scikit-learn; what prediction needs of
them are buffers, so that a checkpoint is tensors only and prediction is torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.data import TrainingData
from adapt.losses import float64
from adapt.rows import Rows
from store.errors import RunError
from store.options import option

READS = frozenset({"frames"})
SHARED: dict[str, Any] = {"classifier": "svm", "normalisation": "z-score"}
"""Everything but the alignment is equal.

The papers z-score their features (CORAL; the geodesic flow kernel with the nearest neighbour); for subspace
alignment and for video features the choice is ours, as are the frames, those of every other method.
"""

_BATCH = 256
_BELOW = 50.0
"""How far below the least logit a class stands that the source does not have: a probability of 0."""


@dataclass(frozen=True, kw_only=True)
class ShallowOptions(AdaptConfig):
    """What stands before and after the alignment."""

    classifier: str = field(
        default="svm",
        metadata=option(
            "svm: linear support vector machines, one class against the rest, with C chosen by "
            "cross-validation on the source; nearest: the class of the nearest source video.",
            choices=("svm", "nearest"),
        ),
    )
    normalisation: str = field(
        default="z-score",
        metadata=option(
            "What is done to a video's mean feature. l2: length 1; z-score: each channel has mean 0 and "
            "deviation 1 over the training videos of its domain.",
            choices=("none", "l2", "z-score"),
        ),
    )


class Shallow(nn.Module):
    """Mean over frames, normalisation, projection (if there is one), classifier.

    Logits are decision values of the support vector machines, or with `nearest` minus the square distance
    to each class's nearest source video, in units of the mean square distance between a source video and
    its nearest other one. Their softmax is what is reported as probabilities, which are not calibrated. A
    class without a source video stands 50 below the least of the others.
    """

    shift_D: Tensor
    scale_D: Tensor
    classes_M: Tensor
    projection_Dk: Tensor
    points_Pk: Tensor
    labels_P: Tensor
    spread: Tensor
    weight_Mk: Tensor
    bias_M: Tensor

    def __init__(self, config: ShallowOptions, width: int, classes: int, *, projects: bool) -> None:
        super().__init__()
        self.classes, self.normalisation = classes, config.normalisation
        self.nearest, self.projects = config.classifier == "nearest", projects
        self.register_buffer("shift_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.register_buffer("classes_M", torch.zeros(0, dtype=torch.long))
        if projects:
            self.register_buffer("projection_Dk", torch.zeros(width, 0))
        if self.nearest:
            self.register_buffer("points_Pk", torch.zeros(0, 0))
            self.register_buffer("labels_P", torch.zeros(0, dtype=torch.long))
            self.register_buffer("spread", torch.ones(()))
        else:
            self.register_buffer("weight_Mk", torch.zeros(0, 0))
            self.register_buffer("bias_M", torch.zeros(0))

    def keep(self, values: Mapping[str, Any]) -> None:
        """Replace buffers by arrays, of any size."""
        for name, value in values.items():
            old = getattr(self, name)
            setattr(self, name, torch.as_tensor(value).to(old.device, old.dtype))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        """Take buffers of the sizes that the fit gave them."""
        for name, old in list(self.named_buffers(recurse=False)):
            new = state_dict.get(prefix + name)
            if new is not None and new.dim() == old.dim():
                setattr(self, name, old.new_empty(new.shape))
        super()._load_from_state_dict(state_dict, prefix, *more)

    def align(self, features_BTD: Tensor) -> Tensor:
        """Features (B, T, D) of the target -> what the classifier sees (B, k)."""
        video_BD = features_BTD.mean(dim=1)
        if self.normalisation == "l2":
            video_BD = nn.functional.normalize(video_BD, dim=1)
        video_BD = (video_BD - self.shift_D) / self.scale_D
        return video_BD @ self.projection_Dk if self.projects else video_BD

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Features (B, T, D) of the target -> logits (B, N)."""
        z_Bk = self.align(features_BTD)
        known_BM = (
            self._by_distance(z_Bk) if self.nearest else z_Bk @ self.weight_Mk.T + self.bias_M
        )
        least_B1 = known_BM.min(dim=1, keepdim=True).values
        logits_BN = (least_B1 - _BELOW).repeat(1, self.classes)
        logits_BN[:, self.classes_M] = known_BM
        return logits_BN

    def _by_distance(self, z_Bk: Tensor) -> Tensor:
        square_BP = distances(z_Bk, self.points_Pk).square()
        none_BM = square_BP.new_full((len(z_Bk), len(self.classes_M)), torch.inf)
        index_BP = self.labels_P.expand(len(z_Bk), -1)
        return -none_BM.scatter_reduce(1, index_BP, square_BP, "amin") / self.spread


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances, each from its own differences: no batch changes them."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class Pooled:
    """The training videos of both domains, a mean over frames each, normalised: float64."""

    source_VD: np.ndarray
    labels_V: np.ndarray
    target_VD: np.ndarray
    target_shift_D: np.ndarray
    target_scale_D: np.ndarray


def pooled(data: TrainingData, config: ShallowOptions) -> Pooled:
    """Read the training videos at segment centres and normalise each domain.

    Raises:
        RunError: the source's videos are all of one class, or a domain has one video.
    """
    labels_V = data.labels_V.numpy()
    if len(np.unique(labels_V)) < 2 or len(data.target) < 2:
        raise RunError(
            f"--method {config.method} needs source videos of two classes and two target videos. Add "
            "videos, or choose another method."
        )
    domains = [mean_features(bank, config.frames) for bank in (data.source, data.target)]
    if config.normalisation == "l2":
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in domains]
        domains = [x / np.where(length, length, 1) for x, length in zip(domains, lengths)]
    normalised, shifts, scales = [], [], []
    for x_VD in domains:
        shift_D, scale_D = np.zeros(x_VD.shape[1]), np.ones(x_VD.shape[1])
        if config.normalisation == "z-score":
            shift_D, scale_D = x_VD.mean(axis=0), x_VD.std(axis=0)
            scale_D = np.where(scale_D > 0, scale_D, 1)
        normalised.append((x_VD - shift_D) / scale_D)
        shifts.append(shift_D)
        scales.append(scale_D)
    return Pooled(normalised[0], labels_V, normalised[1], shifts[1], scales[1])


def mean_features(bank: Bank, frames: int) -> np.ndarray:
    """The mean of each video's frames at segment centres, (V, D) float64."""
    means = Rows(len(bank))
    for videos_B in torch.arange(len(bank)).split(_BATCH):
        x_BTD = bank.gather(videos_B, sample(bank, videos_B, frames, None))
        means.add(float64(x_BTD.mean(dim=1)))
    result: np.ndarray = means.all().numpy()
    return result
