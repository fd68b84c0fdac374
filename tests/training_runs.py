"""What the tests of training share: where the smallest recipe is, and what a run has written."""

import json
import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from video_files import encode

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "debug" / "svt_tiny.yaml"


def make_training_videos(folder: Path) -> Path:
    """Two classes of nine small videos each."""
    for i in range(18):
        rng = np.random.default_rng(i)
        frames = np.roll(rng.integers(0, 255, (1, 32, 48, 3), dtype=np.uint8).repeat(8, 0), i, axis=2)
        path = folder / "ab"[i % 2] / f"v{i:02d}.mp4"
        path.parent.mkdir(exist_ok=True)
        encode(path, frames)
    return folder


def lines_of(output: Path) -> list[dict[str, Any]]:
    """The numbers of a run, without the times that no two runs share."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_seconds")} for line in lines]


def file_of(output: Path) -> bytes:
    """`final.safetensors` of a run, byte for byte."""
    return (output / "final.safetensors").read_bytes()


def weights_of(output: Path) -> dict[str, Any]:
    """The bytes of all tensors of `final.safetensors`, and its story, whose order in the file is left to chance."""
    with safe_open(output / "final.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys())}
        return {**tensors, "metadata": file.metadata()}


def start(arguments: list[str], environment: dict[str, str] | None = None) -> BaseProcess:
    """Start `svt-zoo pretrain` in a process of its own, forked from one that has loaded torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["svt_zoo.training.run"])
    process = context.Process(target=_train, args=(arguments, environment or {}))
    process.start()
    return process


def start_group(arguments: list[str], world_size: int) -> list[BaseProcess]:
    """Start processes that train together, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)} for rank in range(world_size)]
    return [start(arguments, {**address, **place}) for place in places]


def run(arguments: list[str], world_size: int = 1) -> list[int | None]:
    """Run `svt-zoo pretrain` to its end; exit statuses of the processes."""
    processes = start_group(arguments, world_size) if world_size > 1 else [start(arguments)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _train(arguments: list[str], environment: dict[str, str]) -> None:
    import torch

    from svt_zoo.cli import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(main(["pretrain", *arguments]))


def wait_for(step: int, output: Path, process: BaseProcess) -> None:
    """Wait until a run has recorded `step` steps, or has ended."""
    while lines_so_far(output) < step and process.is_alive():
        time.sleep(0.002)


def lines_so_far(output: Path) -> int:
    """The number of steps that a run has recorded so far."""
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
