"""MA2L-TD's attention of the slots (eq. 12), followed from the last level of the pyramid to the frames.

Shapes as in `adapt.model`; S' slots of the level above.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapt.discriminators import SOURCE, TARGET
from adapt.geometry import Geometry
from adapt.methods import TimeWeights
from adapt.pyramid import AdaptationBranch, PyramidLosses

WHAT = (
    "the share of each sampled frame in the feature of the last level, by the attention of the slots alone "
    "(eq. 12): frames whose domain is hard to tell weigh more"
)


def frame_shares(geometry: Geometry, attention: Sequence[Tensor | None]) -> Tensor:
    """What each frame weighs in the last level by the weights w of eq. 12 alone, (B, T); rows sum to 1.

    f^{m+1}_j = H(...) + sum_s w_s f^m_{j + s d_m}: the product of these sums over the levels, without H and
    the norms between them.

    Args:
        attention: w of each aggregator (B, S', q), None for 1/q each; one row if all of them are None.
    """
    q = geometry.kernel
    shares_BS = torch.ones(1, 1, dtype=torch.float64)
    for dilation, w_BSq in zip(reversed(geometry.dilations), reversed(attention), strict=True):
        slots = shares_BS.shape[1]
        if w_BSq is None:
            w_BSq = shares_BS.new_full((1, slots, q), 1 / q)
        parts_BSq = shares_BS.to(w_BSq)[..., None] * w_BSq
        shares_BS = parts_BSq.new_zeros(len(parts_BSq), slots + (q - 1) * dilation)
        for s in range(q):
            shares_BS[:, s * dilation : s * dilation + slots] += parts_BSq[..., s]
    return shares_BS


def slot_attention(branch: AdaptationBranch, f1_BTC: Tensor, *, source: bool) -> TimeWeights:
    """The attention over the frames of a domain's videos.

    Args:
        f1_BTC: what the encoder gives of them.
    """
    config, B = branch.config, len(f1_BTC)
    domains_B = f1_BTC.new_full((B,), SOURCE if source else TARGET)
    pyramid: PyramidLosses = branch(f1_BTC, domains_B, 0.0, B if source else 0)
    losses = dict(zip(config.discriminated_levels, pyramid.slot_losses, strict=True))
    attention: list[Tensor | None] = [
        aggregator.attention(losses[level]) if level in losses else None  # type: ignore[operator]
        for level, aggregator in enumerate(branch.aggregators, 1)
    ]
    return TimeWeights(
        what=WHAT,
        weights_BT=frame_shares(config.geometry, attention).expand(B, -1),
        even_T=frame_shares(config.geometry, [None] * len(attention))[0],
    )
