"""README against the tree and the registry of methods."""

from __future__ import annotations

import re

import pytest
from conftest import REPOSITORY

from adapt import methods

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_module_stands_in_the_tree() -> None:
    tree = re.findall(r"```\ncli\.py .*?```", README, flags=re.DOTALL)[0]
    for room in ("store", "extract", "adapt"):
        part = tree.split(f"\n{room}/", 1)[1]
        part = re.split(r"\n\w+/ ", part, maxsplit=1)[0]
        named = set(re.findall(r"\w+\.py", part))
        there = {p.name for p in (REPOSITORY / room).glob("*.py")} - {"__init__.py"}
        assert named == there, (named - there, there - named)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_and_its_presets_stand_in_the_table(name: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}`")]
    assert re.findall(r"`([\w-]+)`", row.split("|")[3]) == list(methods.find(name).settings)


def test_links_lead_somewhere() -> None:
    for page in (
        REPOSITORY / "README.md",
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "benchmarks").glob("*.md"),
    ):
        for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
