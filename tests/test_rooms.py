"""Which room may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# What `adapt` may know of `extract`; of these only the device needs torch.
SHARED = {
    *("datasets", "errors", "files", "manifest", "options", "store", "device"),
    *("format", "locks", "records"),
}
HEAVY = {"torch", "torchvision", "decord", "av"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(room: str) -> list[Path]:
    found = sorted((REPOSITORY / room).rglob("*.py"))
    assert found
    return found


def test_extract_never_imports_adapt() -> None:
    bad = [f"{p}: {m}" for p in files("extract") for m in imports(p) if m.split(".")[0] == "adapt"]
    assert not bad


def test_adapt_imports_only_the_light_part_of_extract() -> None:
    for path in files("adapt"):
        for module in imports(path):
            top, _, rest = module.partition(".")
            assert top not in ("decord", "torchvision", "cli", "demo"), f"{path}: {module}"
            if top == "extract" and rest:
                assert rest.split(".")[0] in SHARED, f"{path}: {module}"


def test_the_shared_part_is_light() -> None:
    for name in SHARED - {"device"}:
        path = REPOSITORY / "extract" / f"{name}.py"
        assert not {m.split(".")[0] for m in imports(path)} & HEAVY, path


def test_configs_need_no_torch() -> None:
    for path in ("adapt/config.py", "adapt/presets.py", "adapt/geometry.py", "extract/config.py"):
        assert not {m.split(".")[0] for m in imports(REPOSITORY / path)} & HEAVY, path


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("adapt.train", ("decord", "torchvision")),
        ("adapt.experiment", ("decord", "torchvision")),
        ("cli", ("torch", "decord", "torchvision")),
    ],
)
def test_a_fresh_interpreter_loads_no_more_than_it_needs(
    module: str, absent: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
