"""Every command of README, docs/ and data/manifests/README.md runs, on videos of a few frames.

A page's command is changed as the tables below say, and by nothing else: names of data sets and folders
become those of a small world, and options that make it quick are added at its end. Each block of commands
runs in a world of its own in which what the page takes for granted (videos, features, runs) is there; the
pages in `FROM_THE_START` run as one sequence in a world that has videos alone. A new command fails here
until it runs or stands in `CANNOT_RUN`.
"""

from __future__ import annotations

import importlib
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from pages import PAGES, Block, blocks, code_of
from test_cli import commands as all_commands

from cli import main
from extract.synthetic import ACTIONS, make_collection

WORDS = {
    # What benchmarks/problems.py writes.
    **{f"problems/exercises/{name}": name for name in ("manifests", "features")},
    # Data sets and benchmarks that a reader downloads.
    **{"/data/UCF-101": "videos/studio", "/data/kinetics": "videos/studio"},
    **{"ucf-hmdb-full": "toy", "ucf-hmdb-small": "toy", "ucf-olympic": "toy"},
    **{"ucf101": "studio", "hmdb51": "cctv", "ucf": "studio", "hmdb": "cctv"},
    **{"kinetics": "studio", "gameplay": "cctv", "weizmann": "studio", "arid": "phone"},
    **{"jump,run,walk": "blinds,grow,orbit,ring,spin", "Walk_10_1.mp4": "spin/spin_00.mp4"},
    "weights/mobilenet_v2.pth": "random:0",
    # Places that a page leaves to the reader. A bucket is a folder here.
    **{"s3://our-bucket/features": "bucket", "URL": "bucket", "/data/features": "pulled"},
    **{"SRC": "features", "FOLDER": "out", "N": "1", "NAME": "infomax"},
    "runs/five-seeds": "runs/a",
    **{"resnet101": "mobilenet_v3_small", "v_Archery_g01_c01": "spin/spin_00"},
}
"""What stands in a page, and what it is in the small world, in this order."""
STORES = {"A": "features/studio", "B": "bucket/studio"}
AFTER = {"--benchmark": "toy", "--dataset": "other"}
"""What NAME is, after these options."""
BACKBONE = ("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--precision", "float32")
QUICK = {
    "extract": (*BACKBONE, "--stride", 4, "--workers", 1, "--device", "cpu"),
    "adapt": ("--epochs", 2, "--batch-size", 4, "--compute", "float32", "--device", "cpu"),
    "ablate": (
        *("--epochs", 1, "--batch-size", 4, "--discriminator-width", 16, "--seeds", 0),
        *("--compute", "float32", "--device", "cpu"),
    ),
    "benchmark": (
        *("--methods", "source-only,infomax", "--epochs", 1, "--seeds", 0, "--jobs", 1),
        *("--set", "batch_size=4", "--device", "cpu", "--benchmark", "toy"),
    ),
}
"""Options that are added at the end of a command, so that it takes seconds. The last value counts."""
CANNOT_RUN = {
    "torchrun": "it starts as many processes as a page's machine has GPUs",
    "srun": "it needs a SLURM cluster",
    "sbatch": "it needs a SLURM cluster",
    "make": "it makes an environment or runs all tests",
    "pip": "it changes the environment and needs a network",
    "git": "it needs a network",
    ".": "it changes the reader's shell alone",
    "benchmarks": "its data is not part of the project, and it takes hours",
}
"""Programs whose commands are checked without running them; those of `cli.py` inside are parsed."""
RUN_ELSEWHERE = {
    "README.md": "test_interface.py",
    "docs/export.md": "test_export.py",
    "docs/methods.md": "test_methods.py",
}
"""Python of these pages runs, as it stands, in another test, which checks what it gives."""
FROM_THE_START = ("docs/tutorial.md",)
SLOW = ("benchmark", "ablate")
"""Commands that train many runs, and so make a test slow."""
FOREIGN_OPTIONS = {"--nproc-per-node", "--array", "--gres", "--cpus-per-task"}


def with_our_words(text: str) -> str:
    """The text with the words of the small world."""
    for name, ours in WORDS.items():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w])", ours, text)
    return text


def in_the_world(words: Sequence[str]) -> list[str]:
    """The words of a command of `cli.py`, as they are given in the small world."""
    text = [*words]
    for at, word in enumerate(text):
        before = text[at - 1]
        if word == "DIR":
            text[at] = _folder_for(text, before)
        elif word == "NAME" and before in AFTER:
            text[at] = AFTER[before]
        elif word.endswith("/RUN"):
            [text[at]] = [str(p) for p in Path(word[:-4]).iterdir() if p.is_dir()]
        elif word in STORES:
            [text[at]] = map(str, Path(STORES[word]).iterdir())
        elif word == "features" and "merge" in text:
            text[at] = "merged"
        elif re.search(r"/resnet101-[0-9a-f]{8}$", word):
            [text[at]] = map(str, Path("features/cctv").iterdir())
        text[at] = with_our_words(text[at])
    return [*text, *map(str, () if "-h" in text else QUICK.get(text[0], ()))]


def _folder_for(words: Sequence[str], before: str) -> str:
    """What DIR is: videos, others' features, or a store."""
    if before == "--videos":
        return "videos/studio"
    if "import" in words:
        return "dataset/cctv/RGB-feature"
    [store] = Path("features/studio").iterdir()
    return str(store)


def find_command(words: Sequence[str]) -> tuple[click.Command, str, list[str]]:
    """The command that words name, its name, and the arguments that follow."""
    command: click.Command = main
    name, rest = "", [*words]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = f"{name} {rest[0]}".strip()
        inner = command.commands.get(rest.pop(0))
        assert inner is not None, f"there is no command {name}"
        command = inner
    return command, name, rest


def parse(words: Sequence[str]) -> None:
    """Let click check the options, their values, and that none is missing."""
    command, name, rest = find_command(words)
    command.make_context(name, rest)


def check_without_running(words: Sequence[str]) -> None:
    """Check as much of a command as can be checked here."""
    if words[0] == "make":
        targets = re.findall(r"^([\w./()$]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= {*targets, ".venv/.ready"}, words
    if words[:2] == ["python", "-m"]:
        module = importlib.import_module(words[2])
        entry = [v for v in vars(module).values() if isinstance(v, click.Command)]
        groups = [v for v in entry if isinstance(v, click.Group)]
        command, rest = (groups or entry)[0], words[3:]
        if isinstance(command, click.Group):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context("", [*rest], resilient_parsing=True)
    if "cli.py" in words:
        parse(in_the_world(words[words.index("cli.py") + 1 :]))


def run(words: Sequence[str]) -> None:
    """Run a command of `cli.py` in the current folder, which is a small world."""
    given = in_the_world(words)
    makes = given[:2] == ["manifest", "from-folder"] and "--update" not in given
    if makes or (given[:2] == ["store", "import"] and "--list" in given):
        name = given[given.index("--benchmark") + 1]
        shutil.rmtree(Path("manifests") / name, ignore_errors=True)  # the reader makes it just now
    if given[0] == "extract" and "--redo" not in given:
        shutil.rmtree(Path("features") / given[given.index("--dataset") + 1], ignore_errors=True)
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, f"{' '.join(words)}\nas {' '.join(given)}\n{result.output}"


def is_mention(block: Block, words: Sequence[str]) -> bool:
    """Whether a code span names a command alone, which needs more to run."""
    command, _, rest = find_command(words)
    needed = isinstance(command, click.Group) or any(p.required for p in command.params)
    return block.language == "span" and not rest and needed


def carry_out(block: Block) -> None:
    """Run or check every command of a block."""
    for words in block.commands():
        if words[0] == "ma2l-td":
            words = ["python", "cli.py", *words[1:]]
        if words[:2] != ["python", "cli.py"]:
            assert "benchmarks" if words[:2] == ["python", "-m"] else words[0] in CANNOT_RUN
            check_without_running(words)
        elif not is_mention(block, words[2:]):
            run(words[2:])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world at its start: videos of three domains, and labels of some of one."""
    world = tmp_path_factory.mktemp("start")
    for seed, (domain, look) in enumerate(
        {"studio": "day", "cctv": "night", "phone": "night"}.items()
    ):
        make_collection(world / "videos" / domain, look, per_action=3, seed=seed)
    for domain in ("studio", "cctv"):
        shutil.copytree(world / "videos" / domain, world / "data" / "videos" / domain)
    shutil.copytree(world / "videos" / "phone" / "spin", world / "new-videos")
    shutil.copy(world / "videos" / "phone" / "spin" / "spin_00.mp4", world / "clip.mp4")
    labels = [f"{name}/{name}_{n:02}.mp4,{name}" for name in ACTIONS for n in range(3)]
    (world / "labels.csv").write_text("\n".join(["video,class", *labels, ""]))
    return world


@pytest.fixture(scope="module")
def ready(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world after the first steps: two benchmarks, features of all domains, three runs."""
    world = tmp_path_factory.mktemp("ready") / "world"
    shutil.copytree(videos, world)
    from_folder = ("manifest", "from-folder", "--eval-fraction", "0.5", "--benchmark")
    infomax = ("adapt", "--source", "studio", "--target", "cctv", "--method", "infomax", "--run")
    steps: list[tuple[str, ...]] = [
        (*from_folder, "toy", "--domain=studio=videos/studio", "--domain=cctv=videos/cctv"),
        (*from_folder, "mine", "--domain=studio=videos/studio", "--unlabelled=phone=videos/phone"),
        *(("extract", "--dataset", d, "--videos", f"videos/{d}") for d in ("studio", "cctv")),
        ("extract", "--dataset", "phone", "--videos", "videos/phone"),
        ("adapt", "--source", "studio", "--target", "cctv", "--run", "runs/a"),
        (*infomax, "runs/infomax"),
        (*infomax[:-2], "source-only", "--run", "runs/source-only"),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(world)
        for step in steps:
            run(step)
        shutil.copytree("runs/infomax", "runs/b")
        shutil.copytree("features", "bucket")
        [store] = Path("features/cctv").iterdir()
        run(("store", "export", "--format", "t7", str(store), "--out", "dataset/cctv"))
        shutil.copytree("dataset/cctv", "dataset/x")
        for split in ("train", "val"):
            shutil.copy(f"dataset/x/list_cctv_{split}_toy-feature.txt", f"list_x_{split}.txt")
        shutil.copy("dataset/x/classInd_toy.txt", "classInd.txt")
        _write_labelled()
    return world


def _write_labelled() -> None:
    """Features and labels in one .npz file, and in two pickles as those of EPIC-Kitchens."""
    ids, block = ["P01_01_0", "P01_01_1"], np.ones((2, 3, 4), np.float32)
    np.savez("all.npz", features=block, label=[0, 1], video=np.array(ids))
    content = {"features": {"RGB": block}, "narration_ids": ids}
    Path("source_train.pkl").write_bytes(pickle.dumps(content))
    frame = pd.DataFrame({"verb_class": [0, 1], "noun_class": [1, 0]}, index=pd.Index(ids))
    frame.to_pickle("EPIC_100_uda_source_train.pkl")


def cases() -> Iterator[object]:
    for page in PAGES:
        if str(page.relative_to(REPOSITORY)) in FROM_THE_START:
            continue
        for block in blocks(page):
            if block.language != "python" and (found := block.commands()):
                slow = any(
                    words[:2] == ["python", "cli.py"] and words[2] in SLOW for words in found
                )
                yield pytest.param(block, id=block.name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("block", list(cases()))
def test_the_commands_of_a_block(
    block: Block, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(ready, tmp_path / "world"))
    carry_out(block)


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_THE_START)
def test_the_commands_of_a_page_from_its_start(
    name: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(videos, tmp_path / "world"))
    for block in blocks(REPOSITORY / name):
        if block.language != "python":
            carry_out(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_python_of_a_page(
    page: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(page.relative_to(REPOSITORY))
    found = [block for block in blocks(page) if block.language == "python"]
    if name in RUN_ELSEWHERE:
        test = (REPOSITORY / "tests" / RUN_ELSEWHERE[name]).read_text(encoding="utf-8")
        assert found and page.name in test
        return
    monkeypatch.chdir(shutil.copytree(ready, tmp_path / "world"))
    for block in found:
        exec(compile(with_our_words(block.text), block.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_option_that_a_page_names_is_there(page: Path) -> None:
    known = {"--help", *FOREIGN_OPTIONS}
    for _, command in all_commands():
        for option in command.params:
            known |= {*option.opts, *option.secondary_opts}
    for module in (
        "planted_gap",
        "collapse",
        "problems",
        "results",
        "presets",
        "darkened",
        "closer",
        "closer_losses",
        "scale",
    ):
        for entry in vars(importlib.import_module(f"benchmarks.{module}")).values():
            if isinstance(entry, click.Command):
                known |= {name for option in entry.params for name in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code_of(page)))
    assert named <= known, sorted(named - known)
