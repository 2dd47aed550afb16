"""Every error this project raises on purpose. Only `cli.py` turns one into an exit code."""

from __future__ import annotations

from collections.abc import Sequence


class Ma2lError(Exception):
    """Base of all of them. The text says what, how many, the first example and what to do next."""


class ConfigError(Ma2lError, ValueError):
    """Options that contradict each other or are out of range."""


class ManifestError(Ma2lError):
    """A manifest that breaks a rule, or a folder of videos that cannot be made into a manifest."""


class WeightsError(Ma2lError):
    """Backbone weights that cannot be found, read or used."""


class DecodeError(Ma2lError):
    """A video that cannot be decoded completely. The run goes on with the others."""


class StoreError(Ma2lError):
    """Cached features that are absent, damaged or made differently."""


class FormatError(StoreError):
    """A store that is whole, of a format that this version does not read. It is never written over."""


class UnknownVideoError(StoreError, KeyError):
    """A video of which a store has no features; a `KeyError` too, as a mapping raises it."""

    __str__ = Exception.__str__  # a KeyError would show its text in quotes


class UnreachableError(StoreError):
    """A server that does not answer, or a connection that breaks. What is here already may still do."""


class RunError(Ma2lError):
    """A training run that cannot start, or a run folder that cannot be read."""


def first_of(items: Sequence[object]) -> str:
    """Return the first example for a message, as in `(first: v_Archery_g01_c01)`."""
    return f"(first: {printable(items[0])})"


_PLURALS = {"has": "have", "is": "are", "was": "were", "does": "do"}


def counted(
    count: int, noun: str, verb: str = "", *, of: int | None = None, where: str = ""
) -> str:
    """Return a number with what it counts and a verb that agrees with it.

    For example `1 video has`, `3 videos have` and `1 of 840 videos has`.

    Args:
        noun: in the singular, with words before it if need be, as `hmdb train video`.
        verb: in the singular, with words after it if need be, as `has no features`.
        of: of how many it is a part.
        where: words between noun and verb, as `of the store`.
    """
    total = count if of is None else of
    number = f"{count:,}" if of is None else f"{count:,} of {of:,}"
    first, space, rest = verb.partition(" ")
    if count != 1:
        first = _PLURALS.get(first) or first.removesuffix("s")
    words = (number, noun if total == 1 else _plural(noun), where, f"{first}{space}{rest}")
    return " ".join(word for word in words if word)


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("series"):
        return noun
    hissing = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch")
    return noun + ("es" if hissing else "s")


def printable(text: object) -> str:
    """Return a name for a message, with control characters and bytes that are not UTF-8 as escapes."""
    return "".join(c if c.isprintable() else _escape(c) for c in str(text))


def shortened(text: str, length: int = 60) -> str:
    """Return text from a file for a message: quoted, escaped, and cut if it is longer than `length`."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a path that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
