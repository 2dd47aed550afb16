"""README against the tree and the registry of methods."""

from __future__ import annotations

import re

import pytest
from conftest import REPOSITORY

from adapt import methods
from store.datasets import manifest_path
from store.manifest import read_manifest

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


@pytest.mark.parametrize(
    "benchmark", ["ucf-hmdb-full", "ucf-hmdb-small", "ucf-olympic", "kinetics-gameplay"]
)
def test_the_counts_per_class_are_those_of_the_manifests(benchmark: str) -> None:
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    part = page.split(f"\n### {benchmark}\n")[1].split("\n### ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|")
    ]
    domains = [cell.split()[0] for cell in head[1::2]]
    listed = [read_manifest(manifest_path(benchmark, domain)) for domain in domains]
    names = {video.class_name for video in listed[0]}
    assert {row[0] for row in rows} == {*names, "**all**"}
    for name, *counts in rows:
        for number, (domain, split) in enumerate((d, s) for d in (0, 1) for s in ("train", "eval")):
            found = [v for v in listed[domain] if v.split == split]
            count = sum(name in (v.class_name, "**all**") for v in found)
            assert int(counts[number]) == count, (name, domains[domain], split)
