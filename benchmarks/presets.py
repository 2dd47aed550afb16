"""The search for the presets `light` and `robust` over planted gaps: chosen on some, confirmed on others.

    OMP_NUM_THREADS=1 python -m benchmarks.presets choose --record choose.jsonl
    OMP_NUM_THREADS=1 python -m benchmarks.presets confirm --record confirm.jsonl --seeds 0,1,2,3,4
    OMP_NUM_THREADS=1 python -m benchmarks.presets strong --record strong.jsonl --seeds 0,1,2,3,4

Every recipe is a line of options of `adapt`. A run that the record has is not repeated, so the command can
be stopped and given again, and several of one set may share a record. No target label is used within a run,
but for the row that says so; those of the first set of problems choose the recipe, so figures count on the
other two only.
"""

from __future__ import annotations

import functools
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.common import (
    Folders,
    choose_methods,
    complete_record,
    mean_and_deviation,
    measured,
    working_folder,
)
from benchmarks.options import record_options
from benchmarks.planted_gap import (
    BENCHMARK,
    LABELLED_TARGET,
    NPZ,
    QUICK,
    SOURCE,
    TARGET,
    Gap,
    read_features,
    write_problem,
)

CHOOSE = {
    "gain": Gap(),
    "mix": Gap(family="mix", mix=1.5, background=0.5),
    "drift": Gap(drift=1, background=0.8),
    "skew": Gap(skew=6, gap_seed=6),
    "strong drift": Gap(gain=1.8, shift=2.0, drop=0.6, drift=1, background=0.8, gap_seed=21),
    "strong mix": Gap(family="mix", mix=1.8, background=0.7, gap_seed=22),
}
CONFIRM = {
    "gain": Gap(gap_seed=11),
    "mix": Gap(family="mix", mix=1.3, background=0.6, gap_seed=12),
    "drift": Gap(drift=1, background=0.7, gap_seed=13),
    "skew": Gap(gain=1.0, shift=1.2, skew=6, gap_seed=14),
    "mix, skew": Gap(family="mix", mix=1.0, background=0.7, skew=6, gap_seed=15),
}
STRONG = {
    "gain": Gap(gain=1.8, shift=2.0, drop=0.6, background=0.7, gap_seed=31),
    "mix": Gap(family="mix", mix=1.7, background=0.6, gap_seed=32),
    "drift": Gap(gain=1.8, shift=2.0, drop=0.6, drift=1, background=0.8, gap_seed=33),
    "mix, skew": Gap(family="mix", mix=1.6, background=0.6, skew=6, gap_seed=34),
}
"""Stronger ones to confirm on: on CONFIRM the best methods reach what the target's labels give, and
cannot be told apart."""
SETS = {"choose": CHOOSE, "confirm": CONFIRM, "strong": STRONG}

DOMAINS = (SOURCE, TARGET, LABELLED_TARGET)
SHARED = shlex.join([*QUICK, "--epochs", "15", "--compute", "bfloat16"])
SYSTEMS = {
    "source-only": f"{SHARED} --method source-only",
    "source-only, target statistics": f"{SHARED} --method source-only --statistics target",
    "paper": f"{SHARED} --preset paper",
    "released, one draw, Adam 3e-4": (
        f"{SHARED} --preset released --learning-rate 3e-4 --draws 1 --eval-draws 0"
    ),
    "dann": "--method dann --compute bfloat16",
    "dann, settings of paper": f"{SHARED} --method dann --preset paper",
    "ta3n": "--method ta3n --compute bfloat16",
    "ta3n, settings of paper, 5 frames": f"{SHARED} --method ta3n --preset paper --frames 5",
    "source-only, target statistics, input norm": (
        f"{SHARED} --method source-only --statistics target --input-norm"
    ),
    "dann, shared settings": f"{SHARED} --method dann --preset shared",
    "infomax": f"{SHARED} --method infomax",
    "light": f"{SHARED} --preset light",
    "robust": f"{SHARED} --preset robust",
    "source-only on the target's labels": f"{SHARED} --method source-only --source {LABELLED_TARGET}",
}
"""What is compared on the other sets; dann and ta3n with their authors' epochs, batches and frames.
The last trains on the target's training videos as if they were the source: a mark, and no bound, for they
are fewer than the source's."""


def _infomax(weight: float, diversity: float | None = None) -> str:
    reward = weight if diversity is None else diversity
    return f"--entropy-weight {weight} --diversity-weight {reward}"


_PAPER = f"{SHARED} --preset paper"
_FULL = f"{_PAPER} --rate-decay none --entropy-reduction sum"
_ALONE = f"{SHARED} --method infomax --no-input-norm"
_FIRST = f"{SHARED} --preset light --no-input-norm"
_WITHOUT_INPUT_NORM = {
    "infomax, running statistics": f"{_ALONE} --statistics running",
    "infomax": _ALONE,
    "paper, infomax, running statistics": f"{_FULL} {_infomax(0.1)}",
    "infomax 0.3": f"{_ALONE} {_infomax(0.3)}",
    "infomax 0.03": f"{_ALONE} {_infomax(0.03)}",
    "infomax 0.1 half diversity": f"{_ALONE} {_infomax(0.1, 0.05)}",
    "entropy 0.1": f"{_ALONE} {_infomax(0.1, 0.0)}",
    "paper, infomax": f"{_FULL} {_infomax(0.1)} --statistics target",
    "light, weight 0.1": f"{_FIRST} --adversarial-weight 0.1",
    "light, weight 0.3": _FIRST,
    "light, weight 0.1, infomax 0.05": f"{_FIRST} --adversarial-weight 0.1 {_infomax(0.05)}",
    "light, weight 0.1, dann rate": f"{_FIRST} --adversarial-weight 0.1 --rate-decay dann",
}
RECIPES = {
    "paper, target statistics": f"{_PAPER} --statistics target",
    "paper, constant rate": f"{_PAPER} --rate-decay none",
    **{f"{name}, no input norm": options for name, options in _WITHOUT_INPUT_NORM.items()},
    "light, weight 0.1": f"{SHARED} --preset light --adversarial-weight 0.1",
    "light, weight 1": f"{SHARED} --preset light --adversarial-weight 1",
    "paper, infomax, input norm": f"{_FULL} {_infomax(0.1)} --statistics target --input-norm",
}
"""What was tried on the first set beside those."""


def table(
    found: Mapping[tuple[str, str], Mapping[int, tuple[float, float]]], problems: Mapping[str, Gap]
) -> str:
    """Markdown: mean ± sample deviation over the seeds, a row per method, a column per problem."""
    lines = [f"| | {' | '.join(problems)} | mean | s per run |", "|---" * (len(problems) + 3) + "|"]
    for method in dict.fromkeys(method for _, method in found):
        cells, means, seconds = [], [], []
        for problem in problems:
            results = found.get((problem, method), {})
            values = [overall for overall, _ in results.values()]
            seconds += [spent for _, spent in results.values()]
            cells.append(mean_and_deviation(values) if values else "")
            means += [statistics.fmean(values)] if values else []
        whole = f"{statistics.fmean(means):.1f}" if len(means) == len(problems) else ""
        cells += [whole, f"{statistics.median(seconds):.0f}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(npz: Path, gap: Gap, folders: Folders) -> None:
    write_problem(read_features(npz), gap, folders, DOMAINS)


@click.command()
@click.argument("which", type=click.Choice(list(SETS)))
@NPZ
@record_options(seeds="0,1")
@click.option("--problem", "only", multiple=True, help="By name; default: all of the set.")
def main(
    which: str,
    npz: Path,
    record_to: Path,
    seeds: str,
    chosen: tuple[str, ...],
    more: tuple[str, ...],
    only: tuple[str, ...],
) -> None:
    """Train every recipe on every problem of a set, and print the table."""
    methods = SYSTEMS | (RECIPES if which == "choose" else {})
    variants = [recipe.replace("=", f"={SHARED} ", 1) for recipe in more]
    methods = choose_methods(methods, chosen, variants)
    problems = {name: gap for name, gap in SETS[which].items() if not only or name in only}
    for problem, gap in problems.items():
        with working_folder(None) as root:
            folders = Folders.below(root)
            complete_record(
                record_to,
                {"problem": problem, "gap": gap.name},
                methods,
                [int(seed) for seed in seeds.split(",")],
                functools.partial(_write, npz, gap, folders),
                source=SOURCE,
                target=TARGET,
                benchmark=BENCHMARK,
                folders=folders,
            )
    click.echo("\n" + table(measured(record_to), SETS[which]))


if __name__ == "__main__":
    main()
