"""docs/troubleshooting.md against the sources: every message that it quotes is one that a command can say."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from conftest import REPOSITORY

from store.errors import counted

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r'^\| "(.*?)" \|', PAGE, flags=re.MULTILINE)


def text_of(node: ast.AST) -> str:
    """The text of a literal; what an f-string puts in is one character that no message has."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "counted":
        noun, verb, *_ = [*map(text_of, node.args[1:]), ""]
        given = {k.arg: text_of(k.value) for k in node.keywords}
        part = {"of": 2} if "of" in given else {}
        return counted(2, noun, verb, where=given.get("where", ""), **part).replace("2", "\0")
    return "\0"


@cache
def texts() -> tuple[str, ...]:
    files = [REPOSITORY / "cli.py"]
    for room in ("store", "extract", "adapt", "commands"):
        files += (REPOSITORY / room).rglob("*.py")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    kinds = (ast.JoinedStr, ast.Constant)
    return tuple(text_of(n) for tree in trees for n in ast.walk(tree) if isinstance(n, kinds))


def says(message: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split(r"\s*\.\.\.\s*", message))
    return any(re.search(pattern, text, flags=re.DOTALL) for text in texts())


def test_a_message_that_nothing_says_is_found() -> None:
    assert not says("There is no folder ... with the recipes of ...")


@pytest.mark.parametrize("message", QUOTED)
def test_the_message_is_in_the_sources(message: str) -> None:
    assert says(message)


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 20
