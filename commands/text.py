"""Printing text from elsewhere (stores, manifests, file names), made safe to show on a terminal."""

from __future__ import annotations

import unicodedata

import click

_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""The categories of characters that are not shown as they are: control and format characters (escape
sequences, a turned writing direction), lone surrogates, and separators of lines."""


def shown(text: object) -> str:
    """Return one line of text in which all that could steer a terminal is an escape: ESC is `\\x1b`."""
    return "".join(map(_shown, str(text)))


def shown_lines(text: object) -> str:
    """Return a text as `shown` does, but with its line ends."""
    return "\n".join(map(shown, str(text).split("\n")))


def _shown(letter: str) -> str:
    if unicodedata.category(letter) not in _UNSAFE:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(text: object, *, err: bool = False, bold: bool = False) -> None:
    """Print text with names from elsewhere in it; every command prints through this function.

    Args:
        err: print to stderr instead of stdout.
        bold: show it bold on a terminal.
    """
    line = shown_lines(text)
    click.echo(click.style(line, bold=True) if bold else line, err=err)
