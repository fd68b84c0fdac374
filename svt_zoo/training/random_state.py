"""Seeds and states of all random generators that training may use."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, process: int = 0) -> None:
    """Seed the generators of torch, NumPy and Python, differently for each seed and process."""
    numbers = np.random.SeedSequence(seed, spawn_key=(process,)).generate_state(3, np.uint32)
    torch.manual_seed(int(numbers[0]))
    np.random.seed(int(numbers[1]))  # noqa: NPY002  # other people's code uses the global generator
    random.seed(int(numbers[2]))


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators, as data that `torch.load(weights_only=True)` can read."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore the states of all generators from `random_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
