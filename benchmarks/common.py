"""What the accuracy benchmarks share: run commands as a user does, over seeds, and print one table."""

from __future__ import annotations

import json
import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from adapt.accuracy import Accuracy
from adapt.rules import LAST, selection_of
from adapt.runs import RunFolder
from cli import main

HEADER = (
    "| method | overall, mean ± deviation | each seed | class mean | s per run |\n"
    "|---|---|---|---|---|"
)


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a benchmark's problem lies."""

    features: Path
    manifests: Path
    runs: Path

    @classmethod
    def below(cls, root: Path) -> Folders:
        """The three folders of a benchmark that keeps everything in `root`."""
        return cls(features=root / "features", manifests=root / "manifests", runs=root / "runs")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method's results, an entry per seed."""

    name: str
    results: tuple[Accuracy, ...]
    seconds: tuple[float, ...]

    @property
    def overall(self) -> float:
        """Mean overall accuracy in percent."""
        return statistics.fmean(r.overall for r in self.results)


@contextmanager
def working_folder(folder: Path | None) -> Iterator[Path]:
    """`folder`, which must be new or empty and is kept, or a temporary one.

    Raises:
        click.UsageError: `folder` holds something.
    """
    if folder is None:
        with TemporaryDirectory(prefix="benchmark-") as temporary:
            yield Path(temporary)
        return
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty. Choose another --folder.")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


PYRAMID = shlex.split("--levels 4 --discriminator-width 256")
"""MA2L-TD's sizes in the benchmarks of accuracy; the other methods do not read them."""


def sized(options: str) -> list[str]:
    """The options of a method, with `PYRAMID` where it is MA2L-TD."""
    return [*(() if "--method" in options else PYRAMID), *shlex.split(options)]


def command(*arguments: object) -> None:
    """Show a command of `cli.py` and run it in this process."""
    texts = [str(a) for a in arguments]
    click.secho(f"\n$ python cli.py {shlex.join(texts)}", bold=True)
    code = main(texts, standalone_mode=False)
    if code:  # without this a Ctrl-C would end one command and start the next
        raise SystemExit(code)


def run_folder(folders: Folders, name: str, seed: int) -> Path:
    """Where the run of one method and seed lies."""
    return folders.runs / name.replace(" ", "-").replace("/", "-") / f"seed{seed}"


def adapt_over_seeds(
    name: str,
    options: Sequence[str],
    *,
    source: str,
    target: str,
    benchmark: str,
    seeds: Sequence[int],
    folders: Folders,
) -> Row:
    """Run `adapt` once per seed; the accuracies are those of the run folders.

    Products in float32 unless the options say otherwise: figures are to be repeated on machines for which
    `adapt` itself would choose another type.

    Args:
        benchmark: its name; `{seed}` in it stands for the seed, where every seed has a split of its own.
    """
    results, seconds = [], []
    for seed in seeds:
        run = run_folder(folders, name, seed)
        begin = time.monotonic()
        command(
            *("adapt", "--source", source, "--target", target),
            *("--benchmark", benchmark.format(seed=seed), "--compute", "float32"),
            *(*options, "--seed", seed, "--no-baselines"),
            *("--features", folders.features, "--manifests", folders.manifests, "--run", run),
        )
        seconds.append(time.monotonic() - begin)
        results.append(RunFolder(run).accuracy())
    return Row(name=name, results=tuple(results), seconds=tuple(seconds))


def complete_record(
    path: Path,
    problem: Mapping[str, object],
    methods: Mapping[str, str],
    seeds: Sequence[int],
    prepare: Callable[[], None],
    *,
    source: str,
    target: str,
    benchmark: str,
    folders: Folders,
) -> None:
    """Train every method with every seed that the record lacks, and append each result at once.

    Raises:
        click.UsageError: the record has results of another problem of that name.

    Args:
        path: the record, JSON lines.
        problem: begins every line; its entry `problem` is the name by which `measured` finds the results.
        methods: names and options of `adapt`.
        prepare: writes the stores and manifests; called once, before the first run.
    """
    _refuse_others(path, problem)
    prepared = False
    for method, options in methods.items():
        for seed in seeds:
            if seed in measured(path)[str(problem["problem"]), method]:
                continue
            if not prepared:
                prepare()
                prepared = True
            row = adapt_over_seeds(
                method,
                sized(options),
                source=source,
                target=target,
                benchmark=benchmark,
                seeds=[seed],
                folders=folders,
            )
            record(path, {**problem, "seed": seed}, [row])


def measured(path: Path) -> dict[tuple[str, str], dict[int, tuple[float, float]]]:
    """What a record holds: (problem, method) -> seed -> (overall accuracy in percent, seconds)."""
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = defaultdict(dict)
    for line in _lines(path):
        results = (line["overall"][0], line["seconds"][0])
        found[line["problem"], line["method"]][line["seed"]] = results
    return found


def _refuse_others(path: Path, problem: Mapping[str, object]) -> None:
    for line in _lines(path):
        unlike = [name for name, value in problem.items() if line.get(name) != value]
        if unlike and line["problem"] == problem["problem"]:
            raise click.UsageError(
                f"{path} has results of another problem called {line['problem']}, with {unlike[0]} "
                f"{line.get(unlike[0])!r}, now {problem[unlike[0]]!r}. Give another --record."
            )


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; none where there is no file yet."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def choose_methods(
    methods: Mapping[str, str], chosen: Sequence[str], variants: Sequence[str]
) -> dict[str, str]:
    """Names and options of `adapt`: the chosen ones, or all where nothing is asked for, and the variants.

    Args:
        variants: each NAME=OPTIONS.

    Raises:
        click.UsageError: a chosen name is not there, or a variant has no name or that of a method.
    """
    unknown = [name for name in chosen if name not in methods]
    if unknown:
        raise click.UsageError(
            f"No method is called {unknown[0]!r}. There are: {'; '.join(methods)}."
        )
    unnamed = [variant for variant in variants if "=" not in variant]
    if unnamed:
        raise click.UsageError(f"{unnamed[0]!r} is not NAME=OPTIONS.")
    taken = [
        variant.split("=", 1)[0] for variant in variants if variant.split("=", 1)[0] in methods
    ]
    if taken:
        raise click.UsageError(
            f"{taken[0]!r} is a method of this benchmark. Give the variant another name."
        )
    asked = {name: methods[name] for name in chosen} if chosen or variants else dict(methods)
    return asked | dict(variant.split("=", 1) for variant in variants)


def mean_and_deviation(values: Sequence[float]) -> str:
    """`84.3 ± 0.5`, the sample deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def table(rows: Sequence[Row], title: str) -> str:
    """Markdown: per method mean and sample deviation of overall accuracy, each seed, class mean, time."""
    lines = [title, "", HEADER]
    for row in rows:
        overall = [r.overall for r in row.results]
        lines.append(
            f"| {row.name} | {mean_and_deviation(overall)} | {' '.join(f'{x:.1f}' for x in overall)} "
            f"| {statistics.fmean(r.class_mean for r in row.results):.1f} "
            f"| {statistics.fmean(row.seconds):.0f} |"
        )
    half = max((r.high - r.low) / 2 for row in rows for r in row.results)
    lines += [
        "",
        f"{rows[0].results[0].videos} target evaluation videos: one run's 95 % interval is up to "
        f"±{half:.1f} points. Selection: {selection_of(LAST)}.",
    ]
    return "\n".join(lines)


def record(path: Path, problem: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Append one JSON line per method: the problem, the method, overall and class mean of each seed."""
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            line = {
                **problem,
                "method": row.name,
                "overall": [round(r.overall, 2) for r in row.results],
                "class_mean": [round(r.class_mean, 2) for r in row.results],
                "seconds": [round(s, 1) for s in row.seconds],
            }
            file.write(json.dumps(line) + "\n")
