"""`ablate`: the paper's ablations, and its sweep over kernel and levels."""

from __future__ import annotations

from typing import Any

import click

from commands.method_options import MethodCommand, resolve_given
from commands.text import say
from commands.training import (
    RunOptions,
    make_config,
    parse_seeds,
    ready,
    run_folder,
    run_options,
    say_config,
)
from store.errors import ConfigError

_METHOD, _PRESET = "ma2l-td", "paper"


def _ablate(seeds: str, sweep: str | None, **given: Any) -> None:
    """Train the paper's ablations, or its sweep over kernel and levels, and write the table.

    Every row is MA2L-TD with one thing changed, over several seeds, beside the paper's figure, which is
    labelled "reported". The table is written to table.md in the run folder. The preset is paper unless
    --preset names another one.

    \b
    Example:
      python cli.py ablate --source ucf --target hmdb
      python cli.py ablate --source ucf --target hmdb --sweep kernel,levels
    """
    options = RunOptions.taken_from(given)
    several = parse_seeds(seeds)
    given = {"preset": _PRESET, **resolve_given(given, options.config_file), "method": _METHOD}
    if sweep and any(name in given for name in ("kernel", "levels", "frames")):
        raise ConfigError("--sweep kernel,levels sets --kernel, --levels and --frames itself.")
    config = make_config(options.root, given)
    if options.show_config:
        say_config(config)
        return
    folder = run_folder(options, config, "sweep" if sweep else "ablations")
    from adapt.study import STUDIES, run_study

    rows = STUDIES[sweep or "ablations"]
    runs = [folder / row.folder / f"seed{seed}" for row in rows for seed in several]
    with ready(options, config, folder, runs) as prepared:
        text = run_study(
            prepared.config,
            rows,
            prepared.loaded,
            folder,
            several,
            policy=prepared.policy,
            on_epoch=prepared.progress,
        )
    if prepared.first:
        say(text)
        say(f"Written to {folder / 'table.md'}, the runs beside it.")


def _options() -> dict[str, list[click.Option]]:
    return run_options(
        click.Option(
            ["--seeds"],
            default="0,1,2",
            show_default=True,
            help="One run of every row per seed, e.g. 0-4.",
        ),
        click.Option(
            ["--sweep"],
            type=click.Choice(["kernel,levels"]),
            help="The sweep of table 5 instead of the ablations of table 4.",
        ),
    )


ablate_command = MethodCommand(
    "ablate", _ablate, _options, leave_out=("seed", "method"), only=_METHOD, preset=_PRESET
)
