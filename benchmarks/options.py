"""The command-line options that benchmarks of accuracy share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def npz_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--npz`, the file of features, which is called `name` where it usually lies."""
    return click.option(
        "--npz",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        default=Path("../shared/features") / name,
        show_default=True,
        help="The real features.",
    )


def record_options(*, seeds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What a benchmark asks that completes a record: where it is, and which runs it shall hold.

    Args:
        seeds: the default of `--seeds`, numbers with commas.
    """
    made = [
        click.option("--record", "record_to", type=click.Path(path_type=Path), required=True),
        click.option("--seeds", default=seeds, show_default=True, help="Training seeds."),
        click.option("--method", "chosen", multiple=True, help="By name; default: all."),
        click.option(
            "--recipe", "more", multiple=True, metavar="NAME=OPTIONS", help="One more to try."
        ),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(made):
            function = option(function)
        return function

    return decorate
