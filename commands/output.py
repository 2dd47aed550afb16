"""Results that commands write into a file of the user's choice."""

from __future__ import annotations

from pathlib import Path

from store.errors import ConfigError, printable
from store.files import explained, write_text

_REMEDY = "Make room, or name another file."


def refuse_standing(path: Path | None, option: str) -> None:
    """Refuse to replace a file, before anything is computed.

    Raises:
        ConfigError: something stands there, or its folder does not exist.
    """
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{printable(path)} exists, and is not replaced. Remove it, or give another {option}."
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"There is no folder {printable(path.parent)} for {option}. Make it, or name another file."
        )


def write_result(path: Path, text: str) -> None:
    """Write a text file all or nothing.

    Raises:
        ConfigError: the disk refuses.
    """
    with explained(path, ConfigError, _REMEDY):
        write_text(path, text)
