"""What holds for every command: help, examples, the README, and a conscious list of options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from conftest import REPOSITORY

from cli import main
from extract.synthetic import DOMAINS, make_collection

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
        *("device", "batch", "workers", "decode_timeout", "rank", "world"),
        *("keep_damaged", "redo"),
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


def test_both_stages_as_the_readme_has_them(cli, tmp_path: Path, device: torch.device) -> None:
    """Two piles of video to an accuracy that `evaluate` repeats, and features that `verify` makes again."""
    places = ("--manifests", tmp_path / "manifests", "--features", tmp_path / "features")
    on = ("--device", device.type)
    for domain in DOMAINS:
        make_collection(tmp_path / domain, domain, per_action=2)
    for arguments in (
        (
            *("manifest", "from-folder", "--benchmark", "mine", *places[:2]),
            *("--eval-fraction", 0.5, *(f"--domain={d}={tmp_path / d}" for d in DOMAINS)),
        ),
        *(
            (
                *("extract", "--dataset", domain, "--videos", tmp_path / domain, *places, *on),
                *("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--workers", 1),
            )
            for domain in DOMAINS
        ),
        (
            *("adapt", "--source", DOMAINS[0], "--target", DOMAINS[1], *places, *on),
            *("--epochs", 2, "--levels", 2, "--batch-size", 4, "--run", tmp_path / "run"),
        ),
        ("evaluate", tmp_path / "run", *on),
    ):
        result = cli(*arguments)
        assert result.exit_code == 0, result.output
    assert "the same as the run recorded" in result.output
    [store] = (tmp_path / "features" / DOMAINS[0]).iterdir()
    videos = ("--videos", tmp_path / DOMAINS[0], "--sample", 2)
    again = cli("store", "verify", store, *videos, *on)
    assert again.exit_code == 0, again.output
