"""The environment of a run: versions, machine, command, commit."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from ..distributed import world_size
from ..evaluation.results import provenance
from ..files import write_whole


def environment(device: torch.device) -> dict[str, Any]:
    """What is needed to repeat this start of a run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **provenance(device),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "processes": world_size(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def record_start(path: Path, device: torch.device) -> None:
    """Append this start of a run to `environment.json`, the list of all its starts."""
    starts = json.loads(path.read_text()) if path.exists() else []
    write_whole(path, f"{json.dumps([*starts, environment(device)], indent=2)}\n".encode())
