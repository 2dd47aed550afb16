"""Which room may import what: `extract` and `adapt` know `store`, and neither knows the other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ALLOWED = {"store": {"store"}, "extract": {"store", "extract"}, "adapt": {"store", "adapt"}}
"""Of the project's own packages, those that a room may import."""
OWN = {"store", "extract", "adapt", "commands", "cli", "benchmarks", "tests"}
FOREIGN = {
    "store": {"torch", "torchvision", "decord", "av", "click"},
    "extract": {"click"},
    "adapt": {"torchvision", "decord", "av", "click"},
}
"""Of everybody else's, those that it may not."""


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_before_it(room: str) -> None:
    files = sorted((REPOSITORY / room).rglob("*.py"))
    assert files
    refused = (OWN - ALLOWED[room]) | FOREIGN[room]
    assert not [f"{p}: {m}" for p in files for m in imports(p) if m.split(".")[0] in refused]


def test_configs_need_no_torch() -> None:
    for path in ("adapt/config.py", "adapt/geometry.py", "extract/config.py"):
        assert "torch" not in {m.split(".")[0] for m in imports(REPOSITORY / path)}, path


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("store", ("torch", "decord", "torchvision", "av")),
        ("adapt.loop", ("decord", "torchvision", "av")),
        ("adapt.experiment", ("decord", "torchvision", "av", "pandas")),
        ("cli", ("torch", "decord", "torchvision", "av")),
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
