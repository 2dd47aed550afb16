"""Where a run ran."""

from __future__ import annotations

import platform
import sys
import time
from typing import Any

import h5py
import numpy as np
import torch

from adapt import parallel
from store.program import code_sha256
from store.remote_url import redacted


def environment(device: torch.device) -> dict[str, Any]:
    """Command, code, versions and machine, for a run's environment.json; the GPU is the one that trains."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [redacted(argument) for argument in sys.argv],
        "code_sha256": code_sha256(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "threads": torch.get_num_threads(),
        "processes": parallel.world(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
