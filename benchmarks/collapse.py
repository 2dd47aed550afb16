"""What the bound of the preset `paper` is for: scale, discriminators and accuracy, epoch by epoch.

Trains MA2L-TD on the planted gaps of `benchmarks.planted_gap` in four forms, from the letter of the
paper's eq. 2 and 9 to the preset, with the project's own loop. `docs/bound.md` explains the result.

    OMP_NUM_THREADS=1 python -m benchmarks.collapse measure docs/collapse.csv
    python -m benchmarks.collapse draw docs/collapse.csv docs/collapse.svg

Longer than the project's other modules because a benchmark is one script, read from top to bottom.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from adapt.accuracy import accuracy
from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.discriminators import domains_of
from adapt.listing import DataOptions
from adapt.loading import Loaded, load
from adapt.loop import TrainingState, train
from adapt.losses import source_loss, target_entropy
from adapt.methods.ma2l_td import Options
from adapt.prediction import predict
from benchmarks import common
from benchmarks.planted_gap import (
    BENCHMARK,
    NPZ,
    SOURCE,
    TARGET,
    Gap,
    read_features,
    write_problem,
)
from store.machine import keep_freed_memory

GAPS = {"constant": Gap(), "growing": Gap(drift=1.0, background=0.8)}
SIZES = {"levels": 4, "discriminator_width": 256}
LETTER = {"bound": "none", "adversarial_weight": 1.0, "entropy_reduction": "sum"}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "letter": LETTER,
    "letter, layer norm": {**LETTER, "bound": "layernorm"},
    "paper, no bound": {"bound": "none"},
    "paper": {},
    "source only": {"method": "source-only"},
}

# Colours that colour-blind readers tell apart (Okabe and Ito, Tol); broken lines have no bound.
STYLES = {
    "letter": ("#D55E00", "--"),
    "letter, layer norm": ("#882255", "-"),
    "paper, no bound": ("#009E73", "--"),
    "paper": ("#0072B2", "-"),
    "source only": ("#555555", ":"),
}
PANELS = {
    "rms_4": "RMS of the video feature f⁴\n(no unit, log scale)",
    "loss_4": "loss of its discriminator\n(nats, log scale)",
    "target_eval": "accuracy on target\nevaluation videos (%)",
}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Training videos of both domains at segment centres, the same after every epoch."""

    source: SourceBatch
    target: TargetBatch

    @classmethod
    def of(cls, data: TrainingData, config: AdaptConfig) -> Probe:
        """A batch of each domain, evenly spaced over its videos and so over its classes."""

        def features(bank: Bank) -> tuple[Tensor, Tensor]:
            videos_B = torch.linspace(0, len(bank) - 1, config.batch_size).long()
            return bank.gather(videos_B, sample(bank, videos_B, config.frames, None)), videos_B

        (source_BTD, videos_B), (target_BTD, _) = features(data.source), features(data.target)
        labels_B = data.labels_V[videos_B].to(data.device)
        return cls(source=SourceBatch(source_BTD, labels_B), target=TargetBatch(target_BTD))


def measure(
    state: TrainingState, config: Options, probe: Probe, coefficient: float
) -> dict[str, float]:
    """Look at both players of eq. 9 without changing them: on copies, as in training but without dropout.

    Args:
        coefficient: of the gradient reversal.

    Returns:
        `rms_m`: root mean square of the target's f^m. `loss_m`: mean loss of level m's slot
        discriminators in nats, ln 2 at chance, source and target together. `gradient_ratio`: norm of
        the adversarial gradient at f^1 over that of L_s + L_t.
    """
    model, branch = copy.deepcopy(state.model).train(), copy.deepcopy(state.branch)
    assert branch is not None
    for module in (*model.modules(), *branch.modules()):
        if isinstance(module, nn.Dropout):
            module.eval()
    branch.eval()
    levels: list[Tensor] = []
    for discriminators in branch.discriminators.values():
        discriminators.register_forward_pre_hook(
            lambda module, inputs: levels.append(inputs[0].detach())
        )
    f_source, f_target = (model.encode(b.features_BTD) for b in (probe.source, probe.target))
    domains_B = domains_of(probe.source, probe.target)
    pyramid = branch(torch.cat([f_source, f_target]), domains_B, coefficient)
    task = source_loss(model.classify(f_source), probe.source.labels_B)
    task = task + config.entropy_weight * target_entropy(
        model.classify(f_target), config.entropy_reduction
    )
    against, towards = (
        torch.cat(torch.autograd.grad(loss, (f_source, f_target), retain_graph=True)).norm().item()
        for loss in (pyramid.adversarial, task)
    )
    numbered = list(zip(config.discriminated_levels, levels, pyramid.slot_losses))
    return {
        **{f"rms_{m}": f[len(f_source) :].square().mean().sqrt().item() for m, f, _ in numbered},
        **{f"loss_{m}": losses.mean().item() for m, _, losses in numbered},
        "gradient_ratio": against / towards,
    }


def trace(config: AdaptConfig, loaded: Loaded) -> list[dict[str, float]]:
    """Train, and measure before the first and after every epoch.

    Returns:
        Per epoch what `measure` returns (of MA2L-TD) and `target_eval`, the accuracy in percent on the
        target's evaluation videos, which is for the picture alone: nothing is chosen by it.
    """
    state = TrainingState(config, loaded.data)
    probe = Probe.of(loaded.data, config)
    labels = [video.label for video in loaded.held_out]
    rows: list[dict[str, float]] = []

    def record(metrics: Mapping[str, Any]) -> None:
        seen = (
            {}
            if not isinstance(config, Options)
            else measure(state, config, probe, metrics["reversal"])
        )
        predicted_V = predict(state.model, loaded.held_out_bank, config).argmax(dim=1)
        overall = accuracy(predicted_V.tolist(), labels).overall
        rows.append({"epoch": metrics["epoch"], **seen, "target_eval": overall})

    record({"epoch": 0, "reversal": 0.0})
    train(config, loaded.data, state, record)
    return rows


@click.group()
def collapse() -> None:
    """Measure what bounded and unbounded aggregators do, and draw it."""


@collapse.command("measure")
@click.argument("csv", type=click.Path(path_type=Path, dir_okay=False))
@NPZ
@click.option("--seeds", default="0,1,2", show_default=True, help="Training seeds.")
@click.option("--epochs", default=15, show_default=True)
def measure_command(csv: Path, npz: Path, seeds: str, epochs: int) -> None:
    """Train every form on both gaps and write one line per epoch."""
    keep_freed_memory()
    features = read_features(npz)
    table: list[dict[str, Any]] = []
    for gap_name, gap in GAPS.items():
        with TemporaryDirectory(prefix="benchmark-") as folder:
            written = common.Folders.below(Path(folder))
            write_problem(features, gap, written)
            options = DataOptions(features=written.features, manifests=written.manifests)
            loaded = load(_config("paper", 0, epochs), options, torch.device("cpu"))
        for seed in map(int, seeds.split(",")):
            for form in FORMS:
                rows = trace(_config(form, seed, epochs), loaded)
                run = {"gap": gap_name, "form": form, "seed": seed}
                table += [{**run, **row} for row in rows]
                pd.DataFrame(table).to_csv(csv, index=False, float_format="%.6g")
                click.echo(f"{run}: {rows[-1]}")


def _config(form: str, seed: int, epochs: int) -> AdaptConfig:
    given = {
        **{"batch_size": 32, "frames": 23},
        "source": SOURCE,
        "target": TARGET,
        "seed": seed,
        "epochs": epochs,
        "compute": "float32",
    }
    return AdaptConfig.make(
        benchmark=BENCHMARK,
        preset="paper",
        given={**given, **({} if "method" in FORMS[form] else SIZES), **FORMS[form]},
    )


@collapse.command("draw")
@click.argument("csv", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("figure", type=click.Path(path_type=Path, dir_okay=False))
def draw_command(csv: Path, figure: Path) -> None:
    """Draw what `measure` wrote: a row of panels per gap, thin lines for seeds, thick for their means."""
    import matplotlib
    from matplotlib import pyplot

    # Text stays text, and the same table gives the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "collapse", "font.size": 9}
    table = pd.read_csv(csv)
    picture, panels = pyplot.subplots(
        len(GAPS), len(PANELS), figsize=(10, 5.4), sharex=True, sharey="col"
    )
    for row, gap in zip(panels, GAPS):
        for panel, column in zip(row, PANELS):
            _draw_panel(panel, table[table["gap"] == gap], column)
        row[0].set_ylabel(f"{gap} gap", fontweight="bold")
    for panel, title in zip(panels[0], PANELS.values()):
        panel.set_title(title, fontsize=9, loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    picture.tight_layout()
    picture.savefig(figure, facecolor="white", metadata={"Date": None})
    pyplot.close(picture)


def _draw_panel(panel: Any, table: pd.DataFrame, column: str) -> None:
    logarithmic = column != "target_eval"
    ends = {}
    for form, (colour, dashes) in STYLES.items():
        values_ES = table[table["form"] == form].pivot(index="epoch", columns="seed", values=column)
        if values_ES.isna().all(axis=None):  # source only has no levels
            continue
        mean_E = np.exp(np.log(values_ES).mean(axis=1)) if logarithmic else values_ES.mean(axis=1)
        panel.plot(values_ES, color=colour, linewidth=0.5, alpha=0.5)
        panel.plot(mean_E, color=colour, linestyle=dashes, linewidth=2)
        ends[form] = mean_E.iloc[-1]
    panel.spines[["top", "right"]].set_visible(False)
    if logarithmic:
        panel.set_yscale("log")
        panel.minorticks_off()
    else:
        _name_lines(panel, ends, table["epoch"].max())
    if column == "rms_4":
        panel.text(table["epoch"].max(), 1.3, "both with layer norm: 1", ha="right", va="bottom")
    if column == "loss_4":
        panel.axhline(math.log(2), color="black", linewidth=0.6, zorder=0)
        panel.text(table["epoch"].max(), 0.62, "chance: ln 2", ha="right", va="top")


def _name_lines(panel: Any, ends: Mapping[str, float], epoch: int) -> None:
    """Names at the lines' right ends, moved apart where they would overlap."""
    panel.set_ylim(0, 100)
    place = -math.inf
    for form, end in sorted(ends.items(), key=lambda item: item[1]):
        place = max(end, place + 9)
        panel.annotate(
            form,
            (epoch + 0.4, place),
            color=STYLES[form][0],
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


if __name__ == "__main__":
    collapse()
