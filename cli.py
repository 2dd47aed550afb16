"""The commands. Only here and in `commands/` are options parsed, texts printed, exit codes set.

Exit codes: 0 all done; 1 failed; 2 wrong usage; 3 done, but some videos or runs are missing or failed.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

_OWN_PACKAGES = ("adapt", "commands", "extract", "store")


def _refuse_foreign_packages() -> None:
    """Exit where another package of the same name would be imported instead of one of our own."""
    here = Path(__file__).resolve().parent
    for name in _OWN_PACKAGES:
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else []
        if not places:
            sys.exit(
                f"Error: The package {name!r} of this program is not in {here}. "
                "Install the program again, or clone its repository again."
            )
        if (here / name).resolve() not in {Path(place).resolve() for place in places}:
            sys.exit(
                f"Error: Another package called {name!r} is in the way: {places[0]} is found instead "
                f"of {here / name}. Uninstall it or take its folder out of PYTHONPATH, or install "
                "this program into a virtual environment of its own."
            )


_refuse_foreign_packages()
try:
    # The commands import torch inside themselves, so that --help answers at once and decoders start light.
    from commands import streams
    from commands.ablate import ablate_command
    from commands.adapt import adapt_command
    from commands.benchmark import benchmark_command
    from commands.evaluate import evaluate_command
    from commands.export import export_command
    from commands.extract import extract_command
    from commands.manifest import manifest_group
    from commands.options import GivenPath
    from commands.predict import predict_command
    from commands.report import report_command
    from commands.runs import runs_group
    from commands.store import store_group
    from commands.text import say, shown_lines
    from store.errors import ConfigError, Ma2lError
    from store.program import IN_CHECKOUT, program
    from store.remote_url import redacted
except ImportError as failure:
    sys.exit(
        f"Error: A part of this program cannot be imported ({failure}). Install the program again, into a "
        "virtual environment of its own: in a shared one, a package with a folder called "
        f"{', '.join(_OWN_PACKAGES[:-1])} or {_OWN_PACKAGES[-1]} overwrites what lies in "
        f"{Path(__file__).resolve().parent}."
    )


class _Formatter(logging.Formatter):
    """What is logged may hold names from stores and folders."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


class _Errors(click.Group):
    """Turns this project's errors into one message and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        streams.prepare()
        return super().main(*args, **{"prog_name": program(), **extra})

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            # click repeats arguments that it does not know.
            error.message = redacted(error.message)  # type: ignore[misc]
            raise
        except (Ma2lError, OSError) as error:
            if isinstance(error, BrokenPipeError) and streams.drop_abandoned():
                ctx.exit(streams.READER_GONE)
            failure = click.UsageError if isinstance(error, ConfigError) else click.ClickException
            raise failure(shown_lines(error)) from error
        except RuntimeError as error:
            if "initialize cpuinfo" not in str(error):
                raise
            raise click.ClickException(
                "PyTorch cannot compute without /proc/cpuinfo, which is not there. Mount /proc, then run "
                "the same command again."
            ) from error
        except KeyboardInterrupt:
            say("\nStopped. What was finished is kept; run the same command to go on.", err=True)
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
    type=GivenPath(folder=True),
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


def _name_program(command: click.Command) -> None:
    """Let the examples of a command's help, and of its subcommands, name the program as it was started."""
    command.help = (command.help or "").replace(IN_CHECKOUT, program())
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _name_program(inner)


for command in (
    extract_command,
    adapt_command,
    evaluate_command,
    report_command,
    predict_command,
    runs_group,
    export_command,
    ablate_command,
    benchmark_command,
    manifest_group,
    store_group,
):
    main.add_command(command)
_name_program(main)

if __name__ == "__main__":
    main()
