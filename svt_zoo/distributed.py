"""Processes that train together: rank, world size, and a few collective operations.

With one process all functions are no-ops, so callers need no `if distributed`. `torchrun` starts several processes and
sets the environment variables that `init` reads.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .lock import FolderInUse, hold

T = TypeVar("T")


def init(device: torch.device | str) -> torch.device:
    """Join the process group if torchrun started several processes; returns the device of this process.

    Args:
        device: "cpu" or "cuda"; with several processes, "cuda" becomes the GPU of the local rank.

    Raises:
        ValueError: this machine has fewer GPUs than processes.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank()} of this machine has no GPU, torch found {torch.cuda.device_count()}; "
                "start torchrun with at most that many processes (--nproc-per-node)"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        cuda = device.type == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    return device


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is rank 0, which writes files and shows progress."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def in_turn(load: Callable[[], T]) -> T:
    """Call `load()` in the main process, then in the first process of each other machine, then in all others.

    A download is thus written once to each cache, shared or not, and the other processes find it there. Every process
    must call this function; the others wait up to the timeout of the process group.

    Raises:
        Exception: in all processes, the exception that `load` raised in any of them.
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
            except Exception as caught:  # any kind: the others must not wait for this process
                error = _sendable(caught)
        dist.all_gather_object(errors, error)
        if failed := [one for one in (error, *errors) if one]:
            raise failed[0]
    return loaded


def _sendable(error: Exception) -> Exception:
    """The error if it can be pickled, or a RuntimeError with the same message."""
    try:
        pickle.dumps(error)
    except Exception:  # the kind depends on the object
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def all_mean(tensor: Tensor) -> Tensor:
    """Mean of `tensor` over all processes, without gradient; every process must call it with the same shape."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_objects(value: Any) -> list[Any]:
    """Plain data of all processes, in the order of their ranks, in the main process; an empty list elsewhere."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, gathered)
    return gathered or []


def from_main(value: Any) -> Any:
    """The main process's plain data, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """`lock.hold` of a run's folder by the main process; every process of a group enters it.

    Raises:
        FolderInUse: another command holds the lock.
        OSError: the folder cannot be written to.
    """
    with ExitStack() as stack:
        error: Exception | None = None
        if is_main():
            try:
                stack.enter_context(hold(folder))
            except (FolderInUse, OSError) as caught:
                error = caught
        if error := from_main(error):
            raise error
        yield
