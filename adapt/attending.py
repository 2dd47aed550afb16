"""A method's attention over the time of evaluation videos, taken when training ends (`adapt.attention`).

It needs what exists in training only, such as MA2L-TD's slot discriminators, which no checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adapt import methods
from adapt.attention import FILE
from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.embedding import sample_evenly
from adapt.loading import Loaded
from adapt.loop import TrainingState
from adapt.methods import Networks, TimeWeights
from adapt.prediction import as_source, as_target
from adapt.rows import Rows
from adapt.run_files import write_json
from adapt.runs import RunFolder
from store.manifest import Video

SINGLE = 24
"""Videos of each domain whose own weights are kept."""
_BATCH = 64


def write_attention(
    config: AdaptConfig, state: TrainingState, loaded: Loaded, run: RunFolder
) -> None:
    """Write attention.json if the method, with these options, has attention over time.

    The weights are of the last epoch's networks, at segment centres, each domain with the batch norm
    statistics with which it is predicted. Training is over when this is called.

    Raises:
        RunError: the disk refuses.
    """
    if methods.find(config.method).function("attention") is None:
        return
    domains = [(config.target, False, loaded.held_out, loaded.held_out_bank)]
    if loaded.source_held_out_bank is not None:
        domains.insert(
            0, (config.source, True, loaded.source_held_out, loaded.source_held_out_bank)
        )
    rows, even_T, what = [], None, ""
    for domain, is_source, videos, bank in domains:
        as_predicted = as_source if is_source else as_target
        model = as_predicted(config, state.networks, loaded.data)
        found = weights_over_time(config, Networks(model, state.branch), bank, source=is_source)
        if found is None:
            return
        rows.append({"domain": domain, "source": is_source, **_summary(found, videos)})
        even_T, what = found.even_T, found.what
    assert even_T is not None
    record = {"what": what, "epoch": state.epoch, "even": _rounded(even_T), "domains": rows}
    write_json(run.path, FILE, record)


@torch.no_grad()
def weights_over_time(
    config: AdaptConfig, networks: Networks, bank: Bank, *, source: bool
) -> TimeWeights | None:
    """The weights of all videos of a bank, on the CPU; None where the method weighs nothing.

    Args:
        networks: they are in evaluation mode afterwards.
        source: whether the videos are the source's.
    """
    attention = methods.find(config.method).function("attention")
    networks.eval()
    weights, found = Rows(len(bank)), None
    for videos_B in torch.arange(len(bank)).split(_BATCH):
        features_BTD = bank.gather(videos_B, sample(bank, videos_B, config.frames, None))
        found = attention(networks, features_BTD, config, source=source)
        if found is None:
            return None
        weights.add(found.weights_BT)
    assert found is not None
    return TimeWeights(what=found.what, weights_BT=weights.all(), even_T=found.even_T.cpu())


def _summary(found: TimeWeights, videos: Sequence[Video]) -> dict[str, Any]:
    weights_VT = found.weights_BT.double()
    deviation_T = weights_VT.std(dim=0, correction=0)
    return {
        "videos": len(videos),
        "mean": _rounded(weights_VT.mean(dim=0)),
        "deviation": _rounded(deviation_T),
        "single": {
            videos[i].id: _rounded(weights_VT[i]) for i in sample_evenly(len(videos), SINGLE)
        },
    }


def _rounded(weights_T: torch.Tensor) -> list[float]:
    return [round(value, 7) for value in weights_T.tolist()]
