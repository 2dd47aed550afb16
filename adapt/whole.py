"""A run's answer for whole videos, each on its own: what `predict` says and what `export` writes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from adapt.config import AdaptConfig
from adapt.sampling import LARGEST_DRAW, centred, drawn
from adapt.schedule import generator


class WholeVideos(nn.Module):
    """Picks the frames that the run looks at, and predicts: (B, F, D) float32 -> (B, N) probabilities.

    With `eval_draws` the K draws are the same for every video, whatever is predicted beside it. In an
    evaluation one video is drawn after the other, so that their draws differ.

    Args:
        model: predicts, features (B, T, D) -> logits (B, N).
    """

    def __init__(self, model: nn.Module, config: AdaptConfig) -> None:
        super().__init__()
        self.model = model.eval()
        self._frames = config.frames
        random, shape = generator(config.seed, "evaluate"), (1, config.frames)
        draws = [
            torch.randint(LARGEST_DRAW, shape, generator=random) for _ in range(config.eval_draws)
        ]
        # No buffer: frames are picked on the CPU, wherever the model is.
        self._draws_KT = torch.cat(draws) if draws else None

    def pick(self, count: int) -> Tensor:
        """Which of a video's frames are looked at: (K, T) long on the CPU, K = 1 without draws."""
        counts_1 = torch.full((1,), count, dtype=torch.long)
        if self._draws_KT is None:
            return centred(counts_1, self._frames)
        return drawn(counts_1.expand(len(self._draws_KT)), self._draws_KT)

    def from_picked(self, picked_BKTD: Tensor) -> Tensor:
        """Features of the picked frames, float32 (B, K, T, D) -> probabilities (B, N)."""
        logits = [self.model(picked_BTD) for picked_BTD in picked_BKTD.unbind(dim=1)]
        return torch.stack(logits).mean(dim=0).softmax(dim=1)

    def forward(self, features_BFD: Tensor) -> Tensor:
        """See the class."""
        return self.from_picked(features_BFD[:, self.pick(features_BFD.shape[1])])


@torch.inference_mode()
def classify_picked(whole: WholeVideos, picked_KTD: np.ndarray, device: torch.device) -> np.ndarray:
    """Features of the frames that `WholeVideos.pick` named, (K, T, D) -> probabilities (N,)."""
    picked_BKTD = torch.from_numpy(picked_KTD)[None].float().to(device)
    probabilities_N: np.ndarray = whole.from_picked(picked_BKTD)[0].cpu().numpy()
    return probabilities_N
