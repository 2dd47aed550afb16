"""What a wheel holds, and that the installed command works from any folder, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import click
import pytest
from conftest import REPOSITORY

ROOMS = ("adapt", "commands", "extract", "store")
DECOYS = (
    *("features/ucf101/resnet101-12345678/shard-00000.h5", "runs/a/checkpoint.pt"),
    *("data/videos/ucf101/walk.avi", "manifests/mine/phone.csv"),
    *("data/manifests/ucf-olympic/._ucf.csv", "shared/notes.md"),
)
"""What may lie in a developer's checkout and belongs to nobody else."""


def run(*command: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | {"COLUMNS": "100"} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution of a copy of the checkout, with decoys in it."""
    source = tmp_path_factory.mktemp("source")
    for name in (*ROOMS, "tests", "benchmarks", "docs", "data/manifests"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, source / path.name)
    for name in DECOYS:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("decoy")
    code = "from setuptools import build_meta as b; print(b.build_{0}('dist'))"
    for kind in ("sdist", "wheel"):
        made = run(sys.executable, "-c", code.format(kind), cwd=source)
        assert made.returncode == 0, made.stderr
    [sdist], [wheel] = ((source / "dist").glob(suffix) for suffix in ("*.tar.gz", "*.whl"))
    return {"sdist": sdist, "wheel": wheel}


def manifests() -> set[str]:
    root = REPOSITORY / "data" / "manifests"
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def modules() -> set[str]:
    paths = [p for room in ROOMS for p in (REPOSITORY / room).rglob("*.py")]
    return {"cli.py", *(p.relative_to(REPOSITORY).as_posix() for p in paths)}


def test_the_wheel_holds_the_rooms_and_the_manifests_and_nothing_else(built) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == modules() | {f"store/built_in/{name}" for name in manifests()}


def test_the_source_distribution_holds_what_builds_the_wheel(built) -> None:
    with tarfile.open(built["sdist"]) as archive:
        members = [m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()]
    names = {name for name in members if ".egg-info/" not in name}
    tops = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert names == tops | modules() | {f"data/manifests/{name}" for name in manifests()}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripts of a fresh environment in which the wheel is installed.

    The packages that it needs are found where they are found for this process; the checkout is not.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "venv", symlinks=True)
    [scripts] = (home / "venv").glob("bin") if os.name != "nt" else (home / "venv").glob("Scripts")
    python = scripts / Path(sys.executable).name
    python = python if python.exists() else scripts / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    # Folders that a .pth file names come last, and their own .pth files, which could lead to the
    # checkout, are not read.
    (Path(purelib.stdout.strip()) / "needed.pth").write_text(
        f"{Path(click.__file__).parent.parent}\n"
    )
    pip = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    done = run(sys.executable, *pip, built["wheel"], cwd=home)
    assert done.returncode == 0, done.stderr
    return scripts


def test_the_installed_command_works_from_any_folder(installed: Path, tmp_path: Path) -> None:
    own = tmp_path / "manifests" / "mine"
    own.mkdir(parents=True)
    table = "video,label,class,split,frames\na,0,walk,train,\nb,1,run,eval,\n"
    (own / "phone.csv").write_text(table)
    listed = run(installed / "ma2l-td", "manifest", "list", cwd=tmp_path)
    expected = run(
        *(sys.executable, REPOSITORY / "cli.py", "manifest", "list"),
        *("--manifests", tmp_path / "manifests"),
        cwd=tmp_path,
    )
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == expected.stdout
    assert "ucf-olympic          ucf          ucf101" in listed.stdout
    assert "mine                 phone        phone" in listed.stdout


def test_the_installed_command_calls_itself_by_its_name(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "ma2l-td", "manifest", "list", "-h", cwd=tmp_path)
    assert shown.stdout.startswith("Usage: ma2l-td manifest list")
    assert "  ma2l-td manifest list\n" in shown.stdout
    unknown = run(installed / "ma2l-td", "extract", "--dataset", "typo", cwd=tmp_path)
    assert unknown.returncode == 1
    assert "ma2l-td manifest from-folder" in unknown.stderr
    assert "cli.py" not in shown.stdout + unknown.stderr
    checkout = run(sys.executable, "cli.py", "manifest", "list", "-h", cwd=REPOSITORY)
    assert checkout.stdout.startswith("Usage: python cli.py manifest list")
    assert "  python cli.py manifest list\n" in checkout.stdout


def test_nothing_is_written_into_the_package(installed: Path, tmp_path: Path) -> None:
    code = "from store.datasets import MANIFESTS; print(MANIFESTS)"
    python = next(installed.glob("python*"))
    built_in = Path(run(python, "-c", code, cwd=tmp_path).stdout.strip())
    assert built_in.is_dir() and installed.parent in built_in.parents
    before = sorted(built_in.rglob("*"))
    for domain in ("phone", "cctv"):
        for name in ("walk/1.mp4", "walk/2.mp4", "run/3.mp4", "run/4.mp4"):
            (tmp_path / domain / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / domain / name).touch()
    make = (installed / "ma2l-td", "manifest", "from-folder", "--eval-fraction", "0.5")
    domains = ("--domain", "phone=phone", "--domain", "cctv=cctv")
    for place in (built_in, built_in / "ucf-olympic", built_in / "new"):
        made = run(*make, "--benchmark", "mine", *domains, "--manifests", place, cwd=tmp_path)
        assert made.returncode == 1
        assert "belongs to the built-in benchmarks" in made.stderr
    taken = run(*make, "--benchmark", "ucf-olympic", *domains, "--overwrite", cwd=tmp_path)
    assert taken.returncode == 1 and "taken by a benchmark that is built in" in taken.stderr
    assert sorted(built_in.rglob("*")) == before
    made = run(*make, "--benchmark", "mine", *domains, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "manifests" / "mine" / "phone.csv").is_file()
    assert "\n  ma2l-td extract --dataset phone --videos phone\n" in made.stdout


@pytest.mark.parametrize("name", ROOMS)
@pytest.mark.parametrize("form", ["{}/__init__.py", "{}.py"])
def test_a_foreign_package_in_the_way_is_named(
    installed: Path, tmp_path: Path, name: str, form: str
) -> None:
    foreign = tmp_path / form.format(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise RuntimeError('a foreign package was imported')")
    result = run(installed / "ma2l-td", "manifest", "list", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1 and not result.stdout
    found = tmp_path / name if form.endswith("__init__.py") else foreign
    assert result.stderr.startswith(
        f"Error: Another package called {name!r} is in the way: {found} is found instead of "
    )
    assert "Uninstall it or take its folder out of PYTHONPATH" in result.stderr
    assert result.stderr.count("\n") == 1, "one sentence, no traceback"


def test_a_folder_of_the_same_name_is_in_the_way_of_an_editable_install(tmp_path: Path) -> None:
    """There the checkout is found last, so that even a folder without `__init__.py` comes before it."""
    (tmp_path / "store").mkdir()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import cli"
    finder = f"""
import sys, importlib.util
class Last:
    def find_spec(name, path=None, target=None):
        if name in {(*ROOMS, "cli")}:
            from pathlib import Path
            place = Path({str(REPOSITORY)!r}) / name
            file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            return importlib.util.spec_from_file_location(name, file)
from importlib.machinery import PathFinder
sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Last)
"""
    result = run(sys.executable, "-c", finder + code, cwd=tmp_path)
    assert result.returncode == 1
    assert f"Another package called 'store' is in the way: {tmp_path / 'store'}" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_installation_that_was_overwritten_is_explained(built, tmp_path: Path) -> None:
    """pip puts a foreign package `adapt` into the same folder, over the files of ours."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site" / "adapt" / "__init__.py").write_text("import no_such_framework")
    result = run(sys.executable, tmp_path / "site" / "cli.py", "manifest", "list", cwd=tmp_path)
    assert result.returncode == 1
    assert "cannot be imported (No module named 'no_such_framework')" in result.stderr
    assert "virtual environment of its own" in result.stderr and "Traceback" not in result.stderr
    shutil.rmtree(tmp_path / "site" / "store")
    result = run(sys.executable, tmp_path / "site" / "cli.py", "manifest", "list", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "store" in result.stderr
