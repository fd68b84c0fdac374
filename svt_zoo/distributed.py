"""Processes that train together: who am I, how many are we, and the few things said between us.

With one process everything here is a no-op, so code that calls it needs no `if distributed`. Several processes are
started by `torchrun`, which tells each its place by environment variables that `init` reads.
"""

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def init(device: torch.device | str) -> torch.device:
    """Join the processes that torchrun started, if it did, and give the device that is this process's own.

    Args:
        device: "cpu", or "cuda", which becomes the GPU of this process's local rank when there are several processes.

    Raises:
        ValueError: this machine has fewer GPUs than processes.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank()} of this machine has no GPU of its own, torch sees "
                f"{torch.cuda.device_count()}; start torchrun with --nproc-per-node at most that"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        cuda = device.type == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    return device


def shutdown() -> None:
    """Leave the group that `init` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """This process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is the one process that writes files and shows progress."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def in_turn(load: Callable[[], T]) -> T:
    """`load()` by the main process, then by the first of each other machine, then by all others.

    What it downloads is so written once to a cache that machines share, once to each that they do not, and found there
    by the rest. Every process must call it; those that wait do so as long as the group's timeout lets them.

    Raises:
        Exception: what `load` raised in any process, in all of them.
    """
    if world_size() == 1:
        return load()
    my_turn = 0 if is_main() else 1 if local_rank() == 0 else 2
    errors: list[Exception | None] = [None] * world_size()
    for turn in range(3):
        error: Exception | None = None
        if turn == my_turn:
            try:
                loaded = load()
            except Exception as caught:  # whatever it is: the others must not wait for this process
                error = _sendable(caught)
        dist.all_gather_object(errors, error)
        if failed := [one for one in (error, *errors) if one]:
            raise failed[0]
    return loaded


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same and that can go to other processes."""
    try:
        pickle.dumps(error)
    except Exception:  # what pickle raises depends on the object
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, without gradient; every process must call it with the same shape."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
