"""What a training step of every method costs, with its authors' settings and with shared ones.

    python -m benchmarks.steps --threads 1

Random features; a step draws its batch as training does. In every round source only (shared) is timed
beside the method, and the last column divides by it, so that a machine whose speed changes from one method to
the next disturbs it little. A method that has no training steps is not in the table.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import torch

from adapt import methods
from adapt.compute import pick_device, resolve
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData, batches
from adapt.loop import TrainingState, step
from benchmarks.adapt import PROGRESS, make_data
from benchmarks.timing import COLUMNS, Timed, interleaved
from store.machine import keep_freed_memory

YARDSTICK = "source-only"


def timed_step(config: AdaptConfig, data: TrainingData) -> Timed:
    """A step with its data, of one training that goes on from call to call."""
    state = TrainingState(config, data)
    feed = _endless(config, data, state)
    return lambda: step(config, state, *next(feed), PROGRESS)


def _endless(
    config: AdaptConfig, data: TrainingData, state: TrainingState
) -> Iterator[tuple[SourceBatch, TargetBatch]]:
    streams, generators = (state.source, state.target), (state.source_frames, state.target_frames)
    while True:
        yield from batches(config, data, streams, generators)


@click.command()
@click.option("--method", "chosen", multiple=True, help="By name; default: all.")
@click.option("--settings", default="shared,own", show_default=True, help="Presets, with commas.")
@click.option("--rounds", default=5, show_default=True, help="Counted rounds of every method.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=int, help="Of the CPU; torch's choice if not given.")
def main(
    chosen: tuple[str, ...], settings: str, rounds: int, device: str, threads: int | None
) -> None:
    """Time a step of every method in every one of the presets that it has; prints Markdown."""
    where = pick_device(device)
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    data = make_data(where)

    def config_of(method: str, preset: str) -> AdaptConfig:
        domains = {"source": "ucf", "target": "hmdb"}
        return resolve(
            AdaptConfig.make(
                benchmark="ucf-hmdb-full", preset=preset, given={"method": method, **domains}
            ),
            where,
        )

    yardstick = config_of(YARDSTICK, "shared")
    click.echo(
        f"In {yardstick.compute}; as a multiple of {YARDSTICK} (shared) by least CPU time.\n"
    )
    click.echo(f"| method | {COLUMNS} | multiple |\n|---|---|---|---|---|---|")
    for name in chosen or methods.names():
        method = methods.find(name)
        presets = [p for p in settings.split(",") if p in method.settings]
        for preset in presets or [method.default_preset]:
            if method.function("fit") is not None:
                continue
            variants = {
                "yardstick": timed_step(yardstick, data),
                "method": timed_step(config_of(name, preset), data),
            }
            times = interleaved(variants, rounds, where)
            found = times["method"]
            multiple = found.least_cpu / times["yardstick"].least_cpu
            click.echo(f"| {name} ({preset}) | {' | '.join(found.cells())} | {multiple:.1f} |")


if __name__ == "__main__":
    main()
