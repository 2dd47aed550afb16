"""`evaluate`: the accuracy of finished runs again, from their checkpoints."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import click

from commands.bar import CountProgress
from commands.options import DEVICE, MOVED_FEATURES, MOVED_MANIFESTS, QUIET, GivenPath
from commands.output import refuse_standing, write_result
from commands.results import say_accuracy, say_details
from commands.text import say
from store.errors import ConfigError, RunError, counted, first_of

if TYPE_CHECKING:
    from adapt.evaluation import Repeated
    from adapt.runs import RunFolder


@click.command("evaluate")
@click.argument("run", type=GivenPath(folder=True))
@MOVED_FEATURES
@MOVED_MANIFESTS
@click.option(
    "--confusion",
    type=GivenPath(),
    help="Write the confusion matrix of a run to this CSV file: a row for each true class.",
)
@DEVICE
@QUIET
def evaluate_command(
    run: Path, features: Path | None, root: Path | None, confusion: Path | None, device: str
) -> None:
    """Repeat a run's accuracy from its checkpoint; of a folder of seeds, of each and of all together.

    Beside it stand what guessing would have, how often the class is among the most probable ones, whether
    the probabilities can be believed and, of a single run, every class. Runs that differ in their seed
    alone are also judged by the mean of their probabilities, which is what predict says of their folder.

    \b
    Example:
      python cli.py evaluate runs/ucf-hmdb/ma2l-td-robust-seed0-20260101-120000
    """
    from adapt.compute import pick_device
    from adapt.ensemble import unlike_but_for_seed
    from adapt.evaluation import Evaluator
    from adapt.overview import repeated_seed
    from adapt.runs import RunFolder, run_folders

    folders = run_folders(run)
    if confusion is not None:
        if len(folders) > 1:
            raise ConfigError(
                f"--confusion is of one run, and {run} holds {len(folders)}. Name one."
            )
        refuse_standing(confusion, "--confusion")
    evaluator = Evaluator(pick_device(device), features, root)
    found = []
    with CountProgress("evaluate", len(folders), "runs") as progress:
        for number, folder in enumerate(folders, 1):
            repeated = evaluator.evaluate(RunFolder(folder))
            found.append(repeated)
            if len(folders) > 1:
                progress(number)
                progress.give_way()
            counts = Counter(repeated.predicted.values())
            predicted = {name: counts[name] for name in repeated.classes}
            say_accuracy(repeated.config, repeated.result, predicted, folder)
            say(f"  {_compared(RunFolder(folder), repeated)}")
            if repeated.details is not None:
                say_details(repeated.details, every_class=len(folders) == 1)
            if confusion is not None:
                write_result(confusion, _matrix(repeated))
    if len(found) > 1 and not unlike_but_for_seed([RunFolder(folder) for folder in folders]):
        seeds = [(folder.name, one.config.seed) for folder, one in zip(folders, found)]
        if copies := repeated_seed(seeds):
            say(f"There is no mean over the seeds: {copies}")
        else:
            _say_together(found)


def _say_together(seeds: Sequence[Repeated]) -> None:
    """What several seeds say by the mean of their probabilities, as `predict` does with their folder."""
    from adapt.evaluation import together

    result = together(seeds)
    if result is None:
        return
    overall = [seed.result.overall for seed in seeds if seed.result is not None]
    say(
        f"{len(seeds)} seeds: mean {mean(overall):.2f} ± {stdev(overall):.2f} %; together, by the mean of "
        f"their probabilities: {result.overall:.2f} % (class mean {result.class_mean:.2f} %)"
    )


def _matrix(repeated: Repeated) -> str:
    """The confusion matrix as CSV.

    Raises:
        RunError: no video has a label.
    """
    if repeated.details is None:
        raise RunError("There is no confusion matrix, because no video has a label.")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", *repeated.classes])
    for name, row in zip(repeated.classes, repeated.details.confusion_NN.tolist()):
        table.writerow([name, *row])
    return text.getvalue()


def _compared(run: RunFolder, now: Repeated) -> str:
    """Compare videos and accuracies with what the run recorded; the predictions, where labels may be new.

    Raises:
        RunError: it is not the same.
    """
    from adapt.answers import read_answers

    then, result = run.result(), now.result
    answers = read_answers(run.path)
    recorded = dict(zip(answers.videos, answers.predicted))
    if then is None or result is None or then.transductive:
        unlike = [v for v, name in now.predicted.items() if recorded.get(v, name) != name]
        if unlike:
            raise RunError(
                f"{counted(len(unlike), 'prediction', 'is', of=len(now.predicted))} not those "
                "that the run recorded "
                f"{first_of(unlike)}: another machine or version rounds otherwise, or the features were "
                "changed."
            )
        if then == result:
            return "the same as the run recorded"
        had = f"{then.overall:.2f} % on {then.what}" if then else "no accuracy"
        return f"the same predictions as the run recorded, which had other labels: {had}"
    other = sorted(recorded.keys() ^ now.predicted.keys())
    if other:
        raise RunError(
            f"The run was evaluated on {counted(len(recorded), 'video')}, now there are "
            f"{len(now.predicted):,}, and {counted(len(other), 'video', 'is')} not among both "
            f"{first_of(other)}: the manifests were changed. Bring those of the run back, or train again."
        )
    if (then.overall, then.class_mean) != (result.overall, result.class_mean):
        raise RunError(
            f"The run recorded {then.overall:.2f} overall and {then.class_mean:.2f} class "
            f"mean, now it is {result.overall:.2f} and {result.class_mean:.2f}: another machine or "
            "version rounds otherwise, or the features or manifests were changed."
        )
    return "the same as the run recorded"
