"""Processes that train together: who am I, how many are we, and the few things said between us.

With one process everything here is a no-op, so code that calls it needs no `if distributed`. Several processes are
started by `torchrun`, which tells each its place by environment variables that `init` reads.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor


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


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, without gradient; every process must call it with the same shape."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def all_gather(tensor: Tensor) -> Tensor:
    """Every process's `tensor`, in the order of their ranks: (world_size, *shape), without gradient.

    Every process must call it with the same shape.
    """
    if world_size() == 1:
        return tensor.detach().unsqueeze(0)
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true in any process, so that all can act on it in the same step."""
    if world_size() == 1:
        return flag
    on_gpu = dist.get_backend() == "nccl"
    flags = torch.tensor(flag, dtype=torch.uint8, device=torch.cuda.current_device() if on_gpu else "cpu")
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)
