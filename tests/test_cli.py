"""What holds for every command: help, examples, the README, and a conscious list of options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY

from cli import main

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group = main, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=[name for name, _ in commands()]
)
def test_every_command_has_help_an_example_and_a_place_in_the_readme(name, command) -> None:
    shown = CliRunner().invoke(main, [*name.split(), "-h"])
    assert shown.exit_code == 0
    assert f"python cli.py {name}" in shown.output and "Example:" in shown.output

    assert f"cli.py {name}" in README or f"make {name}" in README
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_options_of_extract_are_a_conscious_list() -> None:
    options = {option.name for option in dict(commands())["extract"].params}
    assert options == {
        *("dataset", "videos", "features", "root", "input", "limit"),
        *("backbone", "weights", "preset", "stride", "frames_per_video", "precision"),
        *("device", "batch", "workers", "compile", "decode_timeout", "rank", "world"),
    }


def test_help_needs_neither_torch_nor_decord() -> None:
    code = "import sys, cli; sys.exit(bool({'torch', 'decord', 'pandas', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_errors_have_their_exit_codes() -> None:
    run = CliRunner().invoke
    assert run(main, ["extract", "--dataset", "nothing"]).exit_code == 1
    wrong = run(main, ["extract", "--dataset", "ucf101", "--stride", "0"])
    assert wrong.exit_code == 2 and "--stride must be 1 or more, got 0" in wrong.output
    assert run(main, ["extract"]).exit_code == 2
