"""The name by which the user started this program, for the commands that messages propose."""

from __future__ import annotations

import sys
from pathlib import Path

INSTALLED = "ma2l-td"
"""The command that an installation provides; setup.cfg maps it to `cli.main`."""
IN_CHECKOUT = "python cli.py"


def program() -> str:
    """Return `ma2l-td` if the installed command was started, else `python cli.py`."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else IN_CHECKOUT
