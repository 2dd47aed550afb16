"""`benchmark`: several methods, seeds and directions of one benchmark, and the tables of what they reach."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.options import SOME_FAILED, GivenPath, GivenText
from commands.progress import BenchmarkProgress
from commands.remote import data_options
from commands.text import say
from commands.training import parse_seeds, run_options
from store.errors import ConfigError, counted, printable
from store.machine import cores
from store.options import flag

if TYPE_CHECKING:
    from adapt.benchmark import Benchmark
    from adapt.crew import CrewOptions
    from adapt.plan import Asked, Job

log = logging.getLogger(__name__)

_SHARED = (
    *("features", "root", "store", "allow_missing", "bank", "device", "quiet"),
    "checkpoint_every",
)
"""Options that `adapt` has too."""


def _benchmark(benchmark: str, out: Path | None, show_plan: bool, redo: bool, **given: Any) -> None:
    """Train several methods with several seeds, and write the tables that compare them.

    Runs what is missing, several runs side by side, and goes on after a kill or a method that fails when
    the same command is given again. Writes results.csv (one row per run), summary.csv, table.md and
    table.html into --out, and the runs below it, on each of which evaluate works. Exit code 3: some runs
    failed.

    \b
    Example:
      python cli.py benchmark --benchmark ucf-hmdb-full --both-directions
      python cli.py benchmark --benchmark mine --methods source-only,dann,ma2l-td --seeds 0-4
      python cli.py benchmark --benchmark ucf-olympic --settings own,shared --set score_every=0
    """
    from adapt.benchmark import held
    from adapt.plan import make_plan

    folder = out or Path("runs") / "benchmarks" / benchmark
    asked = _asked(benchmark, given)
    plan = make_plan(asked, folder)
    for note in plan.notes:
        say(f"Note: {note}", err=True)
    for method, reason in plan.broken.items():
        say(f"Left out: {method}, whose file cannot be used. {reason}", err=True)
    if show_plan:
        for job in plan.jobs:
            say(job.folder)
        return
    crew = _crew(given, benchmark, plan.jobs)
    with held(asked, plan, folder, crew.data, redo=redo) as found:
        try:
            _train(found, crew)
        finally:  # after Ctrl-C too: what is finished is compared
            text = found.compare(_how(crew))
    say(text)
    say(
        f"Written to {folder}: table.html, table.md, summary.csv and results.csv, the runs beside them."
    )
    if found.failures or plan.broken:
        counts = counted(len(found.failures), "run", of=len(plan.jobs))
        say(
            f"{counts} failed, {counted(len(plan.broken), 'method')} left out; see the last table.",
            err=True,
        )
        sys.exit(SOME_FAILED)


def _train(found: Benchmark, crew: CrewOptions) -> None:
    """Train what is missing, and show how far it is."""
    from adapt.standing import State

    todo, every = found.todo(), len(found.plan.jobs)
    if not todo:
        log.info("All %d runs are finished already.", every)
        return
    parts = found.states.count(State.PART)
    goes_on = f", {parts} of them stopped before and going on" if parts else ""
    log.info("%d of %d runs to do%s: %s", len(todo), every, goes_on, _how(crew))
    said: set[str] = set()
    progress = BenchmarkProgress(
        found.asked.benchmark, todo, found.seconds, min(len(crew.devices), len(todo))
    )
    with progress:
        for event in found.run(crew):
            if event.kind == "said":
                if event.text not in said:
                    said.add(event.text)
                    say(event.text, err=True)
                continue
            if event.kind == "failed":
                say(f"Failed: {event.job.folder}: {event.text}", err=True)
            progress(event)


def _crew(given: dict[str, Any], benchmark: str, plan: Sequence[Job]) -> CrewOptions:
    """How many processes there are, and what each of them has.

    On the CPU the cores are divided among the processes, unless OMP_NUM_THREADS says otherwise.
    """
    from adapt.benchmark import crew_options
    from adapt.compute import all_devices

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "benchmark starts its processes itself (--jobs). Start it without torchrun."
        )

    devices = all_devices(given["device"])
    side_by_side = cores() if devices == ["cpu"] else len(devices)
    jobs = min(given["jobs"] or side_by_side, max(1, len(plan)))
    threads = os.environ.get("OMP_NUM_THREADS", "").lstrip("0")  # 0 says nothing
    domains = {d: None for job in plan for d in (*job.config.sources, job.config.target)}
    return crew_options(
        data_options(given, benchmark, list(domains)),
        jobs=jobs,
        devices=devices,
        threads=int(threads) if threads.isdecimal() else max(1, cores() // jobs),
        checkpoint_every=given["checkpoint_every"],
    )


def _how(crew: CrewOptions) -> str:
    count, gpus = len(crew.devices), len(set(crew.devices) - {"cpu"})
    side = f"{count} runs side by side" if count > 1 else "one run at a time"
    if gpus:
        return f"{side} on {counted(gpus, 'GPU')}."
    threads = counted(crew.threads, "thread")
    return f"{side} on the CPU, {threads}{' each' if count > 1 else ''}."


def _asked(benchmark: str, given: dict[str, Any]) -> Asked:
    from adapt.plan import Asked, came_bare, directions_of

    changes: dict[str, str] = {}
    for text in given["changes"]:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--set must be name=value, got {printable(text)!r}.")
        name = name.strip().lstrip("-").replace("-", "_")
        if name in ("source", "target", "benchmark", "method", "preset", "seed"):
            raise ConfigError(f"--set {name} is what the plan itself sets. Leave it out.")
        if name in changes:
            raise ConfigError(f"--set {flag(name)} is given twice.")
        changes[name] = value.strip()
    if given["epochs"] is not None and "epochs" in changes:
        raise ConfigError("Give either --epochs or --set epochs.")
    if given["epochs"] is not None:
        changes["epochs"] = str(given["epochs"])
    directions = directions_of(
        benchmark,
        given["source"],
        given["target"],
        both=given["both_directions"],
        root=given["root"],
    )
    return Asked(
        benchmark=benchmark,
        directions=directions,
        bare=[domain for _, domain in directions if came_bare(benchmark, domain, given["root"])],
        methods=_names("--methods", given["methods"]),
        presets=None if given["settings"] is None else _names("--settings", given["settings"]),
        seeds=parse_seeds(given["seeds"]),
        changes=changes,
    )


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(
            f"{option} must be names with commas between them, got {printable(text)!r}."
        )
    return names


def _options() -> list[click.Parameter]:
    shared = {o.name: o for made in run_options().values() for o in made}
    return [
        click.Option(["--benchmark"], type=GivenText(), required=True, help="See manifest list."),
        click.Option(
            ["--methods"],
            default="all",
            show_default=True,
            help="Names with commas between them, or all.",
        ),
        click.Option(
            ["--settings", "--preset"],
            show_default="each method's first",
            help="Presets with commas between them, or all. A method that has none of them is trained "
            "with its first, which is said.",
        ),
        click.Option(
            ["--seeds"], default="0,1,2", show_default=True, help="One run per seed, e.g. 0-4."
        ),
        click.Option(
            ["--source"], type=GivenText(), help="Labelled domain, where there are more than two."
        ),
        click.Option(["--target"], type=GivenText(), help="Unlabelled domain."),
        click.Option(
            ["--both-directions"], is_flag=True, help="The way back from target to source, too."
        ),
        click.Option(
            ["--out"],
            type=GivenPath(folder=True),
            show_default="runs/benchmarks/<benchmark>",
            help="Folder for runs and tables.",
        ),
        click.Option(
            ["--jobs"],
            type=click.IntRange(min=1),
            show_default="one for each GPU, or for each core",
            help="Runs side by side; on the CPU they divide the cores.",
        ),
        click.Option(["--epochs"], type=click.IntRange(min=1), help="The same as --set epochs=N."),
        click.Option(
            ["--set", "changes"],
            multiple=True,
            metavar="NAME=VALUE",
            help="An option for every method that reads it (adapt --method NAME -h). Several: give it "
            "several times.",
        ),
        click.Option(
            ["--redo"],
            is_flag=True,
            help="Train anew what stands in --out and was made with other options or videos.",
        ),
        click.Option(["--show-plan"], is_flag=True, help="Print the runs' folders and stop."),
        *(shared[name] for name in _SHARED),
    ]


benchmark_command = click.Command(
    "benchmark",
    callback=_benchmark,
    help=_benchmark.__doc__,
    params=_options(),
)
