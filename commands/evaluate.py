"""`evaluate`: the accuracy of finished runs again, from their checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import DEVICE, GivenPath
from commands.results import say_accuracy
from commands.text import say
from store.errors import RunError


@click.command("evaluate")
@click.argument("run", type=GivenPath(folder=True))
@click.option(
    "--features",
    type=GivenPath(folder=True),
    help="Where the features lie now, if they have moved.",
)
@click.option(
    "--manifests",
    "root",
    type=GivenPath(folder=True),
    help="Where your own benchmarks lie now, if they have moved.",
)
@DEVICE
def evaluate_command(run: Path, features: Path | None, root: Path | None, device: str) -> None:
    """Repeat a run's accuracy from its checkpoint; of a folder of seeds, that of every run in it.

    \b
    Example:
      python cli.py evaluate runs/ucf-hmdb/ma2l-td-robust-seed0-20260101-120000
    """
    from adapt.compute import pick_device
    from adapt.experiment import evaluate
    from adapt.runs import RunFolder

    inner = sorted(path.parent for path in run.glob("**/config.json"))
    for folder in [run] if run in inner or not inner else inner:
        config, result = evaluate(RunFolder(folder), pick_device(device), features, root)
        say_accuracy(config, result, folder)
        recorded = RunFolder(folder).result()
        if (recorded.overall, recorded.class_mean) != (result.overall, result.class_mean):
            raise RunError(
                f"The run recorded {recorded.overall:.2f} overall and {recorded.class_mean:.2f} class "
                f"mean, now it is {result.overall:.2f} and {result.class_mean:.2f}: another machine or "
                "version rounds otherwise, or the features or manifests were changed."
            )
        say("  the same as the run recorded")
