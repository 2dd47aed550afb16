"""This program: the name by which the user started it, and which state of its code runs."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

INSTALLED = "ma2l-td"
"""The command that an installation provides; setup.cfg maps it to `cli.main`."""
IN_CHECKOUT = "python cli.py"


def program() -> str:
    """Return `ma2l-td` if the installed command was started, else `python cli.py`."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else IN_CHECKOUT


@functools.cache
def code_sha256() -> str:
    """Return the hex sha256 of the names and bytes of all modules that decide a number.

    A git commit would say less: it does not know of files that were changed since, nor of an installation.
    """
    found = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in ("adapt", "extract", "store"):
        for path in sorted((root / package).rglob("*.py")):
            code = path.read_bytes()
            found.update(f"{path.relative_to(root).as_posix()} {len(code)}\n".encode() + code)
    return found.hexdigest()
