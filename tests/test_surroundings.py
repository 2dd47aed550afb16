"""What a command does with closed or broken streams, odd encodings, ranks, Ctrl-C and no /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import REPOSITORY, fill, toy_arguments

from cli import main
from commands import demo
from extract.synthetic import make_collection
from store.program import program

CLI = (sys.executable, str(REPOSITORY / "cli.py"))
OWN = "\u30d3\u30c7\u30aa"
"""The name of a class that neither ASCII nor Latin-1 can write."""


def shell(script: str, *arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess:
    """Run a script in which "$@" is the command; its output as bytes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
    words = ["bash", "-c", script, "bash", *CLI, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=kept | more, capture_output=True, timeout=200)


def make(tmp_path: Path) -> tuple[object, ...]:
    for domain in ("phone", "cctv"):
        fill(tmp_path / domain, OWN, "walk")
    domains = ("--domain", "phone=phone", "--domain", "cctv=cctv")
    return ("manifest", "from-folder", "--benchmark", "mine", *domains)


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, (OWN.encode(), b"\\u30d3\\u30c7\\u30aa")),
        ({"PYTHONIOENCODING": "latin-1"}, (b"\\u30d3\\u30c7\\u30aa",)),
        ({"PYTHONIOENCODING": "utf-8"}, (OWN.encode(),)),
        ({"LC_ALL": "C"}, (OWN.encode(), b"\\u30d3\\u30c7\\u30aa")),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, None),
    ],
)
def test_any_encoding_of_stdout(tmp_path: Path, environment, shown) -> None:
    """Python decodes a path by the locale: where that is ASCII only the files themselves must be right."""
    made = shell('"$@"', *make(tmp_path), cwd=tmp_path, **environment)
    assert made.returncode == 0, made.stderr
    assert not made.stderr
    if shown is not None:
        assert any(b"classes: walk, " + text + b"\n" in made.stdout for text in shown)
    table = (tmp_path / "manifests" / "mine" / "phone.csv").read_text(encoding="utf-8")
    assert f"\n{OWN}/000,1,{OWN}," in table


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_does_not_stop_the_work(tmp_path: Path, closed: str) -> None:
    script = f'"$@" {closed}; echo "exit code $?" > code'
    made = shell(script, *make(tmp_path), cwd=tmp_path)
    assert (tmp_path / "code").read_text() == "exit code 0\n"
    assert made.stdout.startswith(b"manifests/mine/phone.csv") is (">&-" not in closed.split())
    assert (tmp_path / "manifests" / "mine" / "cctv.csv").is_file()
    shell(f'"$@" {closed}; echo "exit code $?" > code', "extract", cwd=tmp_path)
    assert (tmp_path / "code").read_text() == "exit code 2\n"


@pytest.mark.slow
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path, problem: Path) -> None:
    """What a library prints would otherwise go into a shard or a checkpoint."""
    code = """
import os, sys
from commands import streams
streams.prepare()
file = open("victim", "wb")
assert file.fileno() > 2
os.write(1, b"a library prints"); os.write(2, b"and warns")
print("we print"); print("we warn", file=sys.stderr); sys.stdout.flush()
file.close()
assert os.get_inheritable(0) and os.get_inheritable(1) and os.get_inheritable(2)
os.system("echo a child prints")
"""
    kept = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    words = ["bash", "-c", '"$@" >&- 2>&- <&-', "bash", sys.executable, "-c", code]
    assert subprocess.run(words, cwd=tmp_path, env=kept).returncode == 0
    assert (tmp_path / "victim").read_bytes() == b""
    # Training with all three closed opens many files.
    script = '"$@" >&- 2>&- <&-'
    assert shell(script, *toy_arguments(problem, "run"), cwd=tmp_path).returncode == 0
    assert shell('"$@"', "evaluate", problem / "run", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("manifest", "list"), 141), (("manifest", "list", "-h"), 141), (("-h",), 1)],
)
def test_a_reader_that_has_gone_ends_a_command_without_a_word(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """`sleep` lets the reader end first; click itself ends the help of the whole program with 1."""
    script = '(sleep 0.5; exec "$@") | true; echo "${PIPESTATUS[0]}"'
    result = shell(script, *arguments, cwd=tmp_path)
    assert result.stdout == f"{code}\n".encode()
    assert result.stderr == b""


def test_the_first_line_is_enough_for_head(tmp_path: Path) -> None:
    result = shell('"$@" | head -1', "manifest", "list", cwd=tmp_path)
    assert result.stdout.startswith(b"benchmark ") and result.stdout.count(b"\n") == 1
    assert result.stderr == b""


def test_a_broken_pipe_that_is_not_the_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoding process that died breaks a pipe too, and that must not end in silence."""

    @click.command("break")
    def break_pipe() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    from click.testing import CliRunner

    monkeypatch.setitem(main.commands, "break", break_pipe)
    result = CliRunner().invoke(main, ["break"])
    assert result.exit_code == 1 and "Broken pipe" in result.output


RANKS = [
    ({"WORLD_SIZE": "0"}, "RANK=0 of WORLD_SIZE=0; ranks count from 0"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 of WORLD_SIZE=2; ranks count from 0"),
    ({"WORLD_SIZE": "two"}, "The environment variable WORLD_SIZE is 'two', not a number."),
    ({"SLURM_STEP_NUM_TASKS": "0"}, "SLURM_PROCID=0 of SLURM_STEP_NUM_TASKS=0; ranks"),
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "5"}, "SLURM_PROCID=5 of SLURM_STEP_NUM"),
    (
        {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "0"},
        "task 7 of a SLURM array that has only 3 tasks",
    ),
]


@pytest.mark.parametrize(("environment", "text"), RANKS)
def test_ranks_that_do_not_exist_are_wrong_usage(
    environment: dict[str, str], text: str, problem: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (problem / "videos").mkdir()
    places = ("--features", problem / "features", "--manifests", problem / "manifests")
    extract = ("extract", "--dataset", "left", "--videos", problem / "videos", *places)
    for arguments in (extract, toy_arguments(problem, "run")):
        result = cli(*arguments)
        assert result.exit_code == 2, result.output
        assert text in result.output and "Traceback" not in result.output
    assert not (problem / "run").exists()


@pytest.mark.slow
def test_without_proc_all_works_but_what_pytorch_refuses(tmp_path: Path, problem: Path) -> None:
    """In a mount namespace in which an empty folder lies over /proc. PyTorch's indexing needs cpuinfo."""
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    hide = "mount -t tmpfs tmpfs /proc"
    if subprocess.run([*namespace, f"{hide} && ! test -e /proc/self"], check=False).returncode:
        pytest.skip("this machine does not let a test hide /proc")
    for domain in ("day", "night"):
        make_collection(tmp_path / domain, domain, per_action=1)
    places = ("--manifests", tmp_path / "m", "--features", tmp_path / "f")
    for arguments in (
        (
            *("manifest", "from-folder", "--benchmark", "mine", "--domain", "day=day"),
            *("--domain", "night=night", "--eval-fraction", 0.5, *places[:2]),
        ),
        (
            *("extract", "--dataset", "day", "--videos", "day", *places, "--device", "cpu"),
            *("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--workers", 1),
        ),
        ("store", "verify", "f"),
        toy_arguments(problem, "run"),
    ):
        words = [*namespace, f'{hide} && "$@"', "sh", *CLI, *map(str, arguments)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        refused = done.returncode == 1 and arguments[0] == "adapt"
        assert done.returncode == 0 or refused, done.stdout + done.stderr
        assert ("PyTorch cannot compute without /proc/cpuinfo" in done.stderr) is refused


@pytest.mark.parametrize("step", ["extract", "adapt", "evaluate"])
def test_ctrl_c_in_a_step_of_the_demo_stops_the_demo(
    step: str, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands are stand-ins; Ctrl-C is a KeyboardInterrupt in whatever runs."""
    done: list[str] = []

    def stand_in(name: str) -> click.Command:
        @click.command(name, context_settings={"ignore_unknown_options": True})
        @click.argument("rest", nargs=-1)
        def command(rest: tuple[str, ...]) -> None:
            done.append(name)
            if name == step:
                raise KeyboardInterrupt

        return command

    for name in ("extract", "adapt", "evaluate"):
        monkeypatch.setitem(main.commands, name, stand_in(name))
    monkeypatch.setattr(demo, "_weights", lambda: "random:0")
    monkeypatch.setattr(demo, "PER_ACTION", 2)
    result = cli("demo", "--folder", tmp_path / "demo")
    assert result.exit_code == 130, result.output
    assert done.count(step) == 1 and done[-1] == step
    assert result.output.endswith(
        "\nStopped. What was finished is kept; run the same command to go on.\n"
        "The demo stops here. When it is run again, it begins anew.\n"
    )


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("cli.py", "python cli.py"),
        ("/home/me/ma2l/cli.py", "python cli.py"),
        ("/home/me/.venv/bin/ma2l-td", "ma2l-td"),
        ("C:/venv/Scripts/ma2l-td.exe", "ma2l-td"),
        ("-c", "python cli.py"),
    ],
)
def test_the_name_of_the_program(started: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert program() == name
