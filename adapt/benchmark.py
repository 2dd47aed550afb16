"""A benchmark on disk: its runs, trained where they are missing, and the files that compare them.

plan.json      what was asked for last
results.csv    one row per run of the plan, whatever became of it
table.md       the tables; table.html: the same as one page
summary.csv    their numbers, one line per row and direction
failures.txt   what a programmer wants to see of runs that failed
<source>-<target>/<method>-<preset>/seed<N>    the runs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapt.crew import CrewOptions, Event, run_all
from adapt.listing import DataOptions
from adapt.memory import parameter_counts
from adapt.outcomes import Outcome, read_outcome, results_csv
from adapt.plan import Asked, Job, Plan
from adapt.score_table import tables
from adapt.scoreboard import Row, Scoreboard, scoreboard
from adapt.standing import State, Videos, refuse_others, states_of, videos_of_jobs, write_plan
from adapt.summary import summary_csv
from adapt.table_text import as_markdown, as_page
from store.errors import RunError
from store.files import explained, write_text
from store.locks import folder_lock

_ROOM = "Make room, then run the same command again."


@dataclass(kw_only=True)
class Benchmark:
    """A plan, and what has become of it.

    Attributes:
        videos, states: of each run of the plan, in its order; the states at the beginning.
        outcomes: of finished runs; failures: of runs that failed just now, both by run folder.
    """

    asked: Asked
    plan: Plan
    folder: Path
    videos: Sequence[Videos]
    states: Sequence[State]
    outcomes: dict[Path, Outcome] = field(default_factory=dict)
    failures: dict[Path, Event] = field(default_factory=dict)

    def todo(self) -> list[Job]:
        """The runs that are not finished: direction by direction, seed by seed, large networks first.

        So a process loads the features of a pair once, and none is left alone with a long run at the end.
        """
        left = [
            (job, used)
            for job, used in zip(self.plan.jobs, self.videos, strict=True)
            if job.folder not in self.outcomes
        ]
        directions, seeds = list(self.asked.directions), list(self.asked.seeds)

        def place(item: tuple[Job, Videos]) -> tuple[int, int, int]:
            job, used = item
            _, parameters = parameter_counts(job.config, used.width, used.classes)
            return directions.index(job.direction), seeds.index(job.config.seed), -parameters

        return [job for job, _ in sorted(left, key=place)]

    @property
    def seconds(self) -> dict[Row, list[float]]:
        """How long finished runs took, by the row of the table that they belong to."""
        found: dict[Row, list[float]] = {}
        for outcome in self.outcomes.values():
            found.setdefault(outcome.job.row, []).append(outcome.seconds)
        return found

    def run(self, crew: CrewOptions) -> Iterator[Event]:
        """Train what is missing and yield what happens; results.csv is written after every run."""
        for event in run_all(self.todo(), crew):
            if event.kind == "done":
                self._read(event.job)
            elif event.kind == "failed":
                self.failures[event.job.folder] = event
            if event.kind in ("done", "failed"):
                self._write_results()
            yield event

    def _read(self, job: Job) -> None:
        at = next(i for i, other in enumerate(self.plan.jobs) if other.folder == job.folder)
        self.outcomes[job.folder] = read_outcome(job, self.videos[at])

    def scores(self) -> Scoreboard:
        """The numbers of the finished runs."""
        configs = {job.row: job.config for job in reversed(self.plan.jobs)}
        configs = {job.row: configs[job.row] for job in self.plan.jobs}  # in the plan's order
        finished = [self.outcomes[j.folder] for j in self.plan.jobs if j.folder in self.outcomes]
        return scoreboard(self.asked.directions, configs, self.asked.seeds, finished)

    def failed_rows(self) -> dict[Row, list[str]]:
        """Rows with runs that failed -> the reasons; a method that could not be used has no preset."""
        found = {(method, ""): [reason] for method, reason in self.plan.broken.items()}
        for event in self.failures.values():
            found.setdefault(event.job.row, []).append(event.text)
        return found

    def compare(self, how: str) -> str:
        """Write all files, and return the tables as Markdown.

        Args:
            how: a sentence about processes and machine, without which times say nothing.

        Raises:
            RunError: runs do not fit together, or the disk refuses.
        """
        self._write_results()
        scores = self.scores()
        self._write("summary.csv", summary_csv(scores))
        made = tables(self.asked.benchmark, scores, self.failed_rows(), how)
        self._write("table.md", as_markdown(made))
        self._write("table.html", as_page(f"Benchmark {self.asked.benchmark}", made))
        told = [
            f"{folder}\n{event.text}\n{event.details}" for folder, event in self.failures.items()
        ]
        self._write("failures.txt", "\n".join(told))
        return as_markdown(made)

    def _write_results(self) -> None:
        reasons = {folder: event.text for folder, event in self.failures.items()}
        text = results_csv(self.plan.jobs, list(self.outcomes.values()), reasons, self.folder)
        self._write("results.csv", text)

    def _write(self, name: str, text: str) -> None:
        with explained(self.folder / name, RunError, _ROOM):
            if text:
                write_text(self.folder / name, text)
            else:
                (self.folder / name).unlink(missing_ok=True)


@contextmanager
def held(
    asked: Asked, plan: Plan, folder: Path, data: DataOptions, *, redo: bool = False
) -> Iterator[Benchmark]:
    """Look at what stands in the folder already, and keep other processes out of it until `with` is left.

    Args:
        redo: train runs anew that are there and are not those asked for; otherwise they are refused.

    Raises:
        Ma2lError: the folder holds something else, other runs, or is in use, or features are missing.
    """
    refuse_others(folder, asked.benchmark)
    videos = videos_of_jobs(plan.jobs, data)
    with explained(folder, RunError, "Choose another --out."):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, wait=False) as mine:
        if not mine:
            raise RunError(
                f"Another process works on the benchmark in {folder}. Let it finish or stop it, or give "
                "another --out."
            )
        states = states_of(plan.jobs, videos, redo=redo)
        write_plan(asked, plan, folder)
        found = Benchmark(asked=asked, plan=plan, folder=folder, videos=videos, states=states)
        for job, used, state in zip(plan.jobs, videos, states):
            if state is State.DONE:
                found.outcomes[job.folder] = read_outcome(job, used)
        yield found


def crew_options(
    data: DataOptions, *, jobs: int, devices: Sequence[str], threads: int, checkpoint_every: int
) -> CrewOptions:
    """`jobs` processes that take the devices in turn."""
    return CrewOptions(
        data=dataclasses.replace(data, processes=jobs),
        devices=[devices[i % len(devices)] for i in range(jobs)],
        threads=threads,
        checkpoint_every=checkpoint_every,
    )
