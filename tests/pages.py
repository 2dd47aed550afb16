"""The commands and the Python of the documentation's pages, as a reader would copy them.

Fenced blocks, indented lines that begin with a program, and code spans that begin with `python cli.py`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY

PROGRAMS = ("python", "ma2l-td", "make", "torchrun", "srun", "sbatch", "pip", "git", ".")
"""What a command begins with. A block in which no line does is a listing, not commands."""
PAGES = (
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "data" / "manifests" / "README.md",
)


@dataclass(frozen=True)
class Block:
    """A fenced block, indented lines, or a code span of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page and line, for the name of a test."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command; what a page shows as output after a `$` line is none.

        Raises:
            AssertionError: among commands without `$` there is a line of which it is not known what it is.
        """
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        if not any(_begins_with_a_program(line) for line in lines):
            return []
        words = [_without_settings(shlex.split(line, comments=True)) for line in lines]
        words = [line for line in words if line]
        for line in words:
            assert line[0] in PROGRAMS, f"{self.name}: {line[0]} is in no list of programs"
        return [part for line in words for part in _parts(line)]


def _without_settings(words: list[str]) -> list[str]:
    """Without the variables that are set in front of a program."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def _parts(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in its order."""
    found: list[Block] = []
    fence: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.fullmatch(r"\s*```(\w*)", line)
        if mark and fence is None:
            fence, inside = (number + 1, mark[1]), []
        elif mark and fence is not None:
            found.append(Block(page, *fence, text="\n".join(inside)))
            fence = None
        elif fence is not None:
            inside.append(line)
        elif line.startswith("    ") and _begins_with_a_program(line):
            found.append(Block(page, number, "", line.strip()))
        else:
            spans = re.findall(r"`((?:python cli\.py|ma2l-td) [^`]+)`", line)
            found += [Block(page, number, "span", span) for span in spans]
    assert fence is None, f"{page} has a block without an end"
    return found


def _begins_with_a_program(line: str) -> bool:
    words = _without_settings(line.split())
    return bool(words) and words[0] in PROGRAMS


def code_of(page: Path) -> str:
    """Everything of a page that is set as code: its blocks and its code spans."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*fenced, *spans])
