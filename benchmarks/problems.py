"""Write a problem with a known or a real gap as a benchmark, for `cli.py benchmark` and `cli.py adapt`.

    python -m benchmarks.problems exercises problems/exercises
    python cli.py benchmark --benchmark exercises --manifests problems/exercises/manifests \\
        --features problems/exercises/features --methods all --both-directions --seeds 0-4

`exercises` is a real gap (`benchmarks.exercises`). `gap-weak`, `gap-medium` and `gap-strong` are planted in
real features (`benchmarks.planted_gap`): the same kind of mixing of channels, which no statistics of single
channels undo, at three strengths.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import exercises, planted_gap
from benchmarks.common import Folders, working_folder
from benchmarks.planted_gap import Gap

GAPS = {
    "gap-weak": Gap(family="mix", mix=0.6, background=0.4, gap_seed=41),
    "gap-medium": Gap(family="mix", mix=1.1, background=0.5, gap_seed=42),
    "gap-strong": Gap(family="mix", mix=1.6, background=0.6, gap_seed=43),
}
EXERCISES, PLANTED = "exercise_mobilenetv2.npz", "ucf14_vgg16.npz"


@click.command()
@click.argument("problem", type=click.Choice([exercises.BENCHMARK, *GAPS]))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("../shared/features"),
    show_default=True,
    help=f"Folder that holds {EXERCISES} and {PLANTED}.",
)
@click.option(
    "--inputs",
    type=click.Choice(list(exercises.INPUTS)),
    default=exercises.PLAIN,
    show_default=True,
    help="What is done to the features of the exercises before they are stored.",
)
def write(problem: str, folder: Path, data: Path, inputs: str) -> None:
    """Write manifests and features of PROBLEM into FOLDER, which is new or empty."""
    if inputs != exercises.PLAIN and problem in GAPS:
        raise click.UsageError("--inputs is for the exercises only.")
    with working_folder(folder) as root:
        folders = Folders.below(root)
        if problem in GAPS:
            arrays = planted_gap.read_features(data / PLANTED)
            planted_gap.write_problem(arrays, GAPS[problem], folders, benchmark=problem)
            pair = (planted_gap.SOURCE, planted_gap.TARGET)
        else:
            exercises.write_problem(data / EXERCISES, folders, inputs)
            pair = exercises.DOMAINS
    click.echo(
        f"Written: {' and '.join(pair)}. Now run:\npython cli.py benchmark --benchmark {problem} "
        f"--manifests {folders.manifests} --features {folders.features} --source {pair[0]} --target {pair[1]}"
    )


if __name__ == "__main__":
    write()
