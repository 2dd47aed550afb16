"""Which T of a video's F frames: pure integer arithmetic, order always kept.

A video is cut into T segments; each gives one frame. With F < T neighbouring segments repeat a frame.

    F=10, T=4, segments 0-1 2-4 5-6 7-9:   .x.x..x.x. -> 1, 3, 6, 8   (centred)
"""

from __future__ import annotations

import torch
from torch import Tensor


def centred(counts_B: Tensor, frames: int) -> Tensor:
    """Segment centres floor((i + 1/2) F / T): (B,) long frame counts -> (B, T) long indices."""
    i_T = torch.arange(frames, device=counts_B.device)
    return (2 * i_T + 1) * counts_B[:, None] // (2 * frames)


def jittered(counts_B: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """One uniformly random frame of each segment: (B,) long frame counts -> (B, T) long indices."""
    i_T = torch.arange(frames, device=counts_B.device)
    begin_BT = i_T * counts_B[:, None] // frames
    end_BT = (i_T + 1) * counts_B[:, None] // frames
    length_BT = (end_BT - begin_BT).clamp(min=1)
    draw_BT = torch.randint(2**31, begin_BT.shape, generator=generator, device=counts_B.device)
    return begin_BT + draw_BT % length_BT
