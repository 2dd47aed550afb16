"""Which T of a video's F frames: pure integer arithmetic, order always kept.

A video is cut into T segments; each gives one frame. With F < T there is nothing to choose from: training
takes the frames that evaluation takes, and neighbouring segments repeat one.

    F=10, T=4, segments 0-1 2-4 5-6 7-9:   .x.x..x.x. -> 1, 3, 6, 8   (centred)
    F=3, T=5:                              0, 0, 1, 2, 2              (centred, and any draw)
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_DRAW = 2**31
"""Above every number that a draw gives; far above the frames of a segment, so that all are as likely."""


def centred(counts_B: Tensor, frames: int) -> Tensor:
    """Segment centres floor((i + 1/2) F / T): (B,) long frame counts -> (B, T) long indices."""
    i_T = torch.arange(frames, device=counts_B.device)
    return (2 * i_T + 1) * counts_B[:, None] // (2 * frames)


def jittered(counts_B: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """One uniformly random frame of each segment: (B,) long frame counts -> (B, T) long indices.

    Of a video with F < T the frames of `centred`.
    """
    shape, device = (len(counts_B), frames), counts_B.device
    draws_BT = torch.randint(LARGEST_DRAW, shape, generator=generator, device=device)
    return drawn(counts_B, draws_BT)


def drawn(counts_B: Tensor, draws_BT: Tensor) -> Tensor:
    """The frame of each segment that a draw below `LARGEST_DRAW` means: (B,), (B, T) -> (B, T) long.

    Where F < T a segment is shorter than a frame, and its begin is not the frame that its centre is in: the
    draw means nothing there, and `centred` decides.
    """
    frames = draws_BT.shape[1]
    i_T = torch.arange(frames, device=counts_B.device)
    begin_BT = i_T * counts_B[:, None] // frames
    end_BT = (i_T + 1) * counts_B[:, None] // frames
    picked_BT = begin_BT + draws_BT % (end_BT - begin_BT).clamp(min=1)
    return torch.where(counts_B[:, None] < frames, centred(counts_B, frames), picked_BT)
