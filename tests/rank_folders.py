"""`cli.py` in a folder for each process of torchrun, as if each were a machine: FOLDERS... ARGUMENTS."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from cli import main as command

    os.chdir(arguments[int(os.environ["RANK"])])
    command(arguments[int(os.environ["WORLD_SIZE"]) :])


if __name__ == "__main__":
    main(sys.argv[1:])
