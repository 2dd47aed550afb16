"""Progress and --quiet, on a pseudo-terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, make_store, toy_arguments
from test_cli import commands

from commands.bar import CountProgress, StageProgress
from extract.check_sources import sources_in
from store.check import CHECKS, verify
from store.moving import Moved
from store.read import FeatureStore
from store.rewrite import drop_videos

LONG = {
    *(
        f"store {name}"
        for name in ["merge", "subset", "repack", "import", "export", "push", "pull"]
    ),
    *("extract", "adapt", "ablate", "benchmark", "evaluate", "predict", "report", "export"),
    *("store verify", "store compare", "store prune"),
}


def on_terminal(*arguments: object, cwd: Path = REPOSITORY) -> tuple[int, str, str]:
    """Exit code, stdout and what a terminal as stderr was sent."""
    ours, theirs = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            parts.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, str(REPOSITORY / "cli.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return done.returncode, done.stdout, b"".join(parts).decode()


def piped(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    videos = {f"v{i}": random.normal(size=(4, 6)) for i in range(5)}
    return make_store(tmp_path / "features", "toy", videos)


def test_every_long_command_can_be_quiet() -> None:
    quiet = {
        name: p for name, c in commands() for p in c.params if {"-q", "--quiet"} <= set(p.opts)
    }
    assert quiet.keys() == LONG


@pytest.mark.slow
def test_a_bar_on_a_terminal_lines_elsewhere_and_nothing_when_quiet(problem: Path) -> None:
    code, result, drawn = on_terminal(*toy_arguments(problem, "a"))
    assert code == 0 and "overall" in result
    assert "\r" in drawn and re.search(r"left -> right.*\[#+-*\].*\d/3", drawn)
    assert re.search(r"\d+:\d\d left", drawn)
    plain = piped(*toy_arguments(problem, "b"))
    assert plain.returncode == 0 and "\r" not in plain.stderr and "\x1b" not in plain.stderr
    assert re.search(r"^left -> right: 3/3, .*0:00 left$", plain.stderr, flags=re.MULTILINE)
    code, result, drawn = on_terminal(*toy_arguments(problem, "c", "--quiet"))
    assert code == 0 and drawn == ""
    assert "overall" in result


def test_verify_compare_and_prune_show_how_far_they_are(folder: Path, tmp_path: Path) -> None:
    for arguments, shown in (
        (("store", "verify", folder), rf"{folder.name}.*MB/s"),
        (("store", "compare", folder, folder), r"compare.*5/5.*videos/s, 0:00 left"),
    ):
        code, result, drawn = on_terminal(*arguments)
        assert code == 0 and re.search(shown, drawn), (result, drawn)
        code, again, drawn = on_terminal(*arguments, "--quiet")
        assert (code, again, drawn) == (0, result, "")
        assert piped(*arguments, "-q").stderr == ""
        assert re.search(r"(?m)left$", piped(*arguments).stderr)


@pytest.mark.slow
def test_report_shows_its_stages_and_predict_its_videos(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    out = problem / "a.html"
    code, result, drawn = on_terminal("report", problem / "run", "--out", out)
    assert code == 0 and "The report is in" in result
    stages = ("predicting from features", "t-SNE, pictures and tables", "writing files")
    places = [drawn.index(stage) for stage in stages]
    assert places == sorted(places)
    out.unlink()
    again = cli("report", problem / "run", "--out", out, "--quiet")
    assert (again.exit_code, again.stdout) == (0, result)
    assert all(line.startswith("Note: ") for line in again.stderr.splitlines())
    code, result, drawn = on_terminal("predict", problem / "run")
    assert code == 0 and re.search(r"predict.*36/36.*videos/s", drawn)
    quiet = cli("predict", problem / "run", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, result, "")


@pytest.mark.slow
def test_each_seed_stands_on_lines_of_its_own_and_the_cursor_comes_back(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "seeds", "--seeds", "0,1")).exit_code == 0
    code, result, drawn = on_terminal("evaluate", problem / "seeds")
    assert code == 0 and "2 seeds: mean" in result
    assert re.search(r"1/2[^\n]*\r\n.*2/2[^\n]*\r\n", drawn, flags=re.DOTALL), repr(drawn)
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert drawn.rindex(shown) > drawn.rindex(hidden)


def test_errors_are_said_even_if_quiet(problem: Path, tmp_path: Path) -> None:
    done = piped("store", "verify", tmp_path / "nowhere", "--quiet")
    assert done.returncode == 1 and "Error: There is no" in done.stderr
    done = piped(*toy_arguments(problem, "run", "--quiet", "--target", "nobody"))
    assert done.returncode != 0 and "nobody" in done.stderr


def test_quiet_is_of_one_call_alone(cli, folder: Path) -> None:
    assert "videos/s" not in cli("store", "compare", folder, folder, "--quiet").stderr
    assert "videos/s" in cli("store", "compare", folder, folder).stderr


def test_verify_tells_every_byte_that_it_reads(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    assert not list(verify(folder, CHECKS, told.append))
    [shard] = folder.glob("shard-*.h5")
    assert sum(told) == shard.stat().st_size + 5 * 4 * 6 * 2  # the file, and float16 features
    told.clear()
    list(verify(folder, [sources_in([tmp_path])], told.append))
    assert len(told) >= 6  # the shard, and every video


def test_prune_tells_every_video_that_it_moves(folder: Path) -> None:
    with FeatureStore(folder) as store:
        left = len(store) - 1
    told: list[Moved] = []
    assert drop_videos(folder, {"v1"}, on_progress=told.append) == 1
    assert [(moved.videos, moved.of_videos) for moved in told] == [
        (number + 1, left) for number in range(left)
    ]


@pytest.mark.parametrize(
    ("seconds", "done", "left"), [(10, 5, "0:10 left"), (36, 1, "5:24 left"), (10, 10, "0:00 left")]
)
def test_the_time_left_is_by_the_rate_so_far(
    seconds: float, done: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 100.0 + seconds])
    shown: list[tuple[object, ...]] = []
    progress = CountProgress("x", 10, "things", clock=lambda: next(times))
    monkeypatch.setattr(progress, "show", lambda *given: shown.append(given))
    progress(done)
    assert shown == [(done, 10, f"{done / seconds:,.1f} things/s", left)]


def test_more_than_the_total_is_all_and_not_every_step_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[int] = []
    times = iter([0.0, 1.0, 1.05, 2.0])
    progress = CountProgress("x", 3_000_000, "MB", scale=1_000_000, clock=lambda: next(times))
    monkeypatch.setattr(progress, "show", lambda done, *_: shown.append(done))
    for count in (1_500_000, 1_400_000, 900_000):
        progress.add(count)
    assert shown == [2, 3]  # the second came too soon after the first


def test_stages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[object, ...]] = []
    stages = StageProgress("x", 2)
    monkeypatch.setattr(stages, "show", lambda *given: shown.append(given))
    stages("first")
    stages("second")
    assert shown == [
        (0, 2, "first", "time left unknown"),
        (1, 2, "second", "time left unknown"),
    ]
