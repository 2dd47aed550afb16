"""`adapt`: train one method, with one seed or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapt.config import AdaptConfig
from commands.method_options import MethodCommand, resolve_given
from commands.results import say_accuracy, say_rules, say_seeds
from commands.training import (
    Ready,
    RunOptions,
    make_config,
    parse_seeds,
    ready,
    run_folder,
    run_options,
    say_config,
)
from store.errors import ConfigError

if TYPE_CHECKING:
    from adapt.accuracy import Accuracy
    from adapt.alongside import Beside
    from adapt.study import Seeds


def _adapt(seeds: str | None, baselines: bool, tensorboard: bool, **given: Any) -> None:
    """Train on the labelled source and the unlabelled target, and test on the target's evaluation split.

    Works from cached features alone. Prints overall and class-mean accuracy after the last epoch; no
    target label is used before that, except by what says READS TARGET LABELS. Under torchrun the
    processes share every batch. Beside the result stand guesses and source only, which is trained along.
    All options of one method: adapt --method NAME -h.

    \b
    Example:
      python cli.py adapt --source ucf --target hmdb
      python cli.py adapt --source ucf --target hmdb --method source-only
      python cli.py adapt --source ucf --target hmdb --seeds 0-4
    """
    options = RunOptions.taken_from(given)
    if seeds is not None and given["seed"] is not None:
        raise ConfigError("Give either --seed or --seeds.")
    several = None if seeds is None else parse_seeds(seeds)
    config = make_config(options.root, resolve_given(given, options.config_file))
    if options.show_config:
        say_config(config)
        return
    if tensorboard:
        from adapt.events import check_available

        check_available()
    folder = run_folder(options, config, f"seed{config.seed}" if several is None else "seeds")
    runs = [folder] if several is None else [folder / f"seed{seed}" for seed in several]
    with ready(options, config, folder, runs) as prepared:
        from adapt.alongside import Beside

        beside = Beside(
            baselines=baselines,
            on_baseline_epoch=prepared.progress.of_baseline,
            tensorboard=tensorboard,
        )
        trained = _train(prepared, folder, several, beside)
    if prepared.first:
        _say(prepared.config, trained, folder, runs)


def _train(
    prepared: Ready, folder: Path, several: Sequence[int] | None, beside: Beside
) -> Accuracy | Seeds | None:
    """Train one run in the folder, or one for each of several seeds below it."""
    from adapt.experiment import adapt
    from adapt.runs import RunFolder
    from adapt.study import adapt_seeds

    config = prepared.config
    if several is None:
        return adapt(
            config,
            prepared.loaded,
            RunFolder(folder),
            policy=prepared.policy,
            beside=beside,
            on_epoch=lambda epoch, metrics: prepared.progress(config, epoch, metrics),
        )
    return adapt_seeds(
        config,
        prepared.loaded,
        folder,
        several,
        policy=prepared.policy,
        beside=beside,
        on_epoch=prepared.progress,
    )


def _say(
    config: AdaptConfig, trained: Accuracy | Seeds | None, folder: Path, runs: Sequence[Path]
) -> None:
    """Print the accuracy of one run or of several seeds, and what stands beside it."""
    from adapt.run_files import read_done
    from adapt.study import Seeds
    from commands.beside import say_beside

    done = [read_done(run) for run in runs]
    predicted = [one.predicted for one in done]
    if isinstance(trained, Seeds):
        say_seeds(config, trained, predicted, folder)
    else:
        say_accuracy(config, trained, predicted[0], folder)
    say_beside(runs)
    say_rules(config, [one.rules for one in done])


def _options() -> dict[str, list[click.Option]]:
    return run_options(
        click.Option(
            ["--seeds"],
            help="Several runs, e.g. 0-4 or 0,1,7, in folders below --run; the features are loaded once.",
        ),
        click.Option(
            ["--baselines/--no-baselines"],
            default=True,
            show_default=True,
            help="Train source only along, which changes nothing of the run: its accuracy, and that with the "
            "target's batch norm statistics, stand beside the result.",
        ),
        click.Option(
            ["--tensorboard"],
            is_flag=True,
            help="Write losses, scores, accuracies and level weights to RUN/tensorboard too, which needs the "
            "package tensorboard.",
        ),
    )


adapt_command = MethodCommand("adapt", _adapt, _options)
