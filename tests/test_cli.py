"""What holds for every command: help, examples, the README, and a conscious list of options."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from conftest import REPOSITORY, fill

from cli import main
from commands.method_options import MethodCommand
from extract.synthetic import DOMAINS, make_collection

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group = main, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            made = command.made_for([]) if isinstance(command, MethodCommand) else command
            yield f"{prefix}{name}", made


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
        *("keep_damaged", "redo", "quiet"),
    }


def test_help_needs_neither_torch_nor_decord() -> None:
    heavy = {"torch", "decord", "pandas", "av", "matplotlib"}
    code = f"import sys, cli; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_errors_have_their_exit_codes() -> None:
    run = CliRunner().invoke
    assert run(main, ["extract", "--dataset", "nothing"]).exit_code == 1
    wrong = run(main, ["extract", "--dataset", "ucf101", "--stride", "0"])
    assert wrong.exit_code == 2 and "--stride must be 1 or more, got 0" in wrong.output
    assert run(main, ["extract"]).exit_code == 2


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("extract", "--dataset"),
        ("manifest check", "--dataset"),
        ("manifest from-folder", "--domain"),
        ("adapt", "--source"),
        ("ablate", "--source"),
    ],
)
def test_a_required_option_that_is_missing_is_named(name: str, option: str, cli) -> None:
    more = ("--benchmark", "mine") if option == "--domain" else ()
    result = cli(*name.split(), *more)
    assert result.exit_code == 2 and f"Missing option '{option}'" in result.output


def paths_and_texts() -> Iterator[tuple[str, click.Parameter]]:
    """Every parameter whose empty text would mean the current folder, or anything at all."""
    for name, command in commands():
        for parameter in command.params:
            chosen = parameter.name in ("store", "run", "weights", "classes") and name != "extract"
            if isinstance(parameter.type, click.Path) or chosen:
                yield name, parameter


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        pytest.param(name, parameter, id=f"{name} {parameter.name}")
        for name, parameter in paths_and_texts()
    ],
)
def test_an_empty_path_is_refused(name: str, parameter: click.Parameter, cli) -> None:
    if isinstance(parameter, click.Argument):
        others = [p for p in dict(commands())[name].params if isinstance(p, click.Argument)]
        given = ["" if p is parameter else "x" for p in others]
    else:
        given = [parameter.opts[0], ""]
    result = cli(*name.split(), *given)
    assert result.exit_code == 2, result.output
    assert "is empty. Is a shell variable in it not set?" in " ".join(result.output.split())
    assert parameter.human_readable_name in result.output or parameter.opts[0] in result.output


@pytest.mark.parametrize("path", [*(REPOSITORY / "commands").glob("*.py"), REPOSITORY / "cli.py"])
def test_texts_from_elsewhere_are_printed_by_say_alone(path: Path) -> None:
    """`say` escapes what steers a terminal; other functions may print only texts that stand in the code."""
    printing = {"echo", "secho", "echo_via_pager", "print", "write"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", None))
        if called in printing and path.name != "text.py":
            texts = [*node.args, *(k.value for k in node.keywords if k.arg == "message")]
            assert texts and isinstance(texts[0], ast.Constant), f"{path}, line {node.lineno}"


def test_names_from_elsewhere_cannot_steer_the_terminal(cli, tmp_path: Path) -> None:
    """A folder of videos may be anybody's; ESC [2J would clear the screen."""
    bad = tmp_path / "\x1b[2Jvideos"
    for domain in ("phone", "cctv"):
        fill(bad / domain, "run", "walk")
    (bad / "phone" / "run" / "x.\x1b[2J").touch()
    domains = (f"--domain={domain}={bad / domain}" for domain in ("phone", "cctv"))
    root = bad / "manifests"
    made = cli("manifest", "from-folder", "--benchmark", "mine", *domains, "--manifests", root)
    assert made.exit_code == 0, made.output
    (bad / "phone" / "run" / "000.mp4").unlink()
    places = ("--videos", bad / "phone", "--manifests", root)
    check = cli("manifest", "check", "--dataset", "phone", *places)
    assert check.exit_code == 3
    listed = cli("store", "list", "--features", bad)
    assert listed.exit_code == 0
    refused = cli("store", "verify", bad / "phone")
    assert refused.exit_code == 1
    for result in (made, check, refused):
        assert "\\x1b[2J" in result.output and "\x1b" not in result.output


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


def test_what_a_new_user_gets_wrong_is_answered_with_what_to_do(cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "m" / "mine").mkdir(parents=True)
    (tmp_path / "m" / "mine" / "a.csv").touch()
    weights = ("--weights", "random:0", "--videos", tmp_path / "empty", "--features", tmp_path)
    for arguments, code, message in (
        (("store", "prune", tmp_path / "empty"), 1, "There is no feature store in"),
        (("store", "verify", tmp_path / "empty"), 1, "There is no feature store in"),
        (("evaluate", tmp_path / "none"), 1, "runs list"),
        (("predict", tmp_path / "empty"), 1, "one that did not finish. To see the runs"),
        (("manifest", "list", "--manifests", tmp_path / "m"), 1, "a.csv is empty: its first line"),
        (
            ("extract", "--dataset", "hmdb51", *weights, "--backbone", "resnet1010"),
            2,
            "Examples: resnet101, ",
        ),
    ):
        result = cli(*arguments)
        assert (result.exit_code, message in result.output) == (code, True), result.output


@pytest.mark.parametrize(
    "arguments",
    [("store", "verify", "."), ("store", "compare", ".", "."), ("report", ".", "--out", "a.html")],
    ids=" ".join,
)
def test_a_mistyped_folder_of_videos_is_refused_at_once(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """As an empty one it would be a remark at the end, or one per video."""
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments, "--videos", "tpyo")
    assert result.exit_code == 2 and "Directory 'tpyo' does not exist" in result.output
    assert not list(tmp_path.iterdir())
