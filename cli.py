"""The commands. Only here and in `commands/` are options parsed, texts printed, exit codes set.

Exit codes: 0 all done; 1 failed; 2 wrong usage; 3 done, but some videos are missing or failed.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

# The commands import torch inside themselves, so that --help answers at once and decoders start light.
from commands.ablate import ablate_command
from commands.adapt import adapt_command
from commands.evaluate import evaluate_command
from commands.extract import extract_command
from commands.manifest import manifest_group
from commands.store import store_group
from commands.text import shown_lines
from store.errors import ConfigError, Ma2lError


class _Formatter(logging.Formatter):
    """What is logged may hold names from stores and folders."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


class _Errors(click.Group):
    """Turns this project's errors into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Ma2lError, OSError) as error:
            failure = click.UsageError if isinstance(error, ConfigError) else click.ClickException
            raise failure(shown_lines(error)) from error
        except KeyboardInterrupt:
            click.echo(
                "\nStopped. What was finished is kept; run the same command to go on.", err=True
            )
            ctx.exit(130)


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Unsupervised video domain adaptation in two stages: extract features once, adapt many times.

    \b
    Example:
      python cli.py extract --dataset ucf101
      python cli.py extract --dataset hmdb51
      python cli.py adapt --source ucf --target hmdb
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@main.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Where videos, manifests, features and runs of the demo go; it is made anew.",
)
def demo_command(folder: Path) -> None:
    """Show the whole road on videos that it makes itself: manifest, extract, adapt, evaluate.

    \b
    Example:
      python cli.py demo
    """
    from commands.demo import run_demo

    run_demo(folder, main)


for command in (
    extract_command,
    adapt_command,
    evaluate_command,
    ablate_command,
    manifest_group,
    store_group,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
