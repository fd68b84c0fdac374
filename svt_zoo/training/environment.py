"""On what a run ran: versions, machine, command, commit."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..distributed import world_size

_PACKAGES = ("svt-zoo", "torch", "torchvision", "numpy", "av", "safetensors")


def environment(device: torch.device) -> dict[str, Any]:
    """What another person needs to know to repeat this start of a run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": world_size(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def record_start(path: Path, device: torch.device) -> None:
    """Add this start of a run to `environment.json`, a list of all its starts."""
    starts = json.loads(path.read_text()) if path.exists() else []
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps([*starts, environment(device)], indent=2) + "\n")
    os.replace(unfinished, path)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout, with "-dirty" behind it if files differ; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
