"""The options of a benchmark's `--set`, which some of its methods may not read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from adapt import methods
from adapt.methods import Method
from store.errors import ConfigError, printable
from store.options import flag


def refuse_unread(changes: Mapping[str, str], found: Sequence[Method], notes: list[str]) -> None:
    """Say which methods do not read an option, and refuse it where none does.

    Raises:
        ConfigError: none reads one of them.
    """
    for name in changes:
        without = [m.name for m in found if name not in m.reads]
        if found and len(without) == len(found):
            raise ConfigError(
                f"None of the methods reads {flag(printable(name))}. Leave it out; adapt --method NAME -h "
                "shows what a method reads."
            )
        if without:
            notes.append(f"{flag(name)} is not read by {', '.join(without)}.")


def refuse_never_read(
    left_out: Mapping[str, Mapping[str, None]], rows: Iterable[tuple[str, str]], notes: list[str]
) -> None:
    """Say which rows leave an option out because of another option's value, and refuse it where all do.

    Args:
        left_out: option -> those rows, as `method (preset)`.
        rows: method and preset of all of them.

    Raises:
        ConfigError: all rows whose method reads it leave it out.
    """
    every = list(rows)
    for name, unread in left_out.items():
        readers = {f"{m} ({p})" for m, p in every if name in methods.find(m).reads}
        f = methods.find(next(iter(unread)).partition(" ")[0]).options.__dataclass_fields__[name]
        needs = f.metadata["read_with"].items()
        pairs = [f"{flag(k)} {v if isinstance(v, str) else ' or '.join(v)}" for k, v in needs]
        only = f"{flag(name)} is read only with {' and '.join(pairs)}"
        if readers <= unread.keys():
            raise ConfigError(f"{only}, which none of the runs has. Leave it out, or set that too.")
        notes.append(f"{only}, so not by {', '.join(unread)}.")


def value_of(name: str, kind: str, text: str) -> object:
    """Return what a text means as the value of an option.

    Args:
        kind: `int`, `float`, `str` or `bool`.

    Raises:
        ConfigError: it is no such value.
    """
    convert: Callable[[str], object] = {"int": int, "float": float}.get(kind, str)
    if kind == "bool":
        convert = {"true": True, "false": False}.__getitem__
    try:
        return convert(text)
    except (ValueError, KeyError):
        wanted = "true or false" if kind == "bool" else f"of type {kind}"
        raise ConfigError(f"{flag(name)} must be {wanted}, got {printable(text)!r}.") from None
