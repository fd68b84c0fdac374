"""One method in several processes: whole copies (DDP) or parts (FSDP2), and whole states of either."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..distributed import is_main, rank, world_size
from ..methods import Method


def parallelise(method: Method, kind: Literal["ddp", "fsdp"], device: torch.device) -> nn.Module:
    """What the loop calls in place of `method`: with one process the method itself.

    "ddp" wraps it: each process holds everything. "fsdp" splits the parameters of `method`, in place, over the
    processes, layer by layer; make optimizers afterwards.
    """
    if world_size() == 1:
        return method
    if kind == "ddp":
        return DistributedDataParallel(method)
    mesh = init_device_mesh(device.type, (world_size(),))
    for layers in [module for module in method.modules() if isinstance(module, nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(method, mesh=mesh)
    return method


@contextmanager
def gradient_exchange(network: nn.Module, on: bool) -> Iterator[None]:
    """Forward and backward inside exchange gradients between processes, or (`on=False`) only add them up here."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(on)
        yield
    elif isinstance(network, DistributedDataParallel) and not on:
        with network.no_sync():
            yield
    else:
        yield


def whole(value: Any) -> Any:
    """A state with whole tensors, however it is spread; every process must call it.

    On the main process they are copies on the CPU: training on does not change them. On the others, what is whole
    anyway stays as it is.
    """
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True) if is_main() else value.detach()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state dict, strictly, into a module that may be spread over processes."""
    own = module.state_dict()
    module.load_state_dict({key: spread_like(value, own.get(key)) for key, value in state.items()}, strict=True)


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole optimizer state; its tensors are split as the parameters they belong to.

    `set_optimizer_state_dict` of torch takes a step with a learning rate of 0 first. Parameters that have not been
    trained yet (SVT's frozen last layer) then have a state, and a resumed run differs from the straight one.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    per_parameter = {
        index: {name: spread_like(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({"state": per_parameter, "param_groups": state["param_groups"]})


def spread_like(value: Any, like: Tensor | None) -> Any:
    """A whole tensor in the parts that `like` has; what has another shape (a count of steps) stays whole."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def gather_objects(value: Any) -> list[Any]:
    """Plain data of all processes, in the order of their ranks, on the main one; empty elsewhere."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered or []


def from_main(value: Any) -> Any:
    """The main process's plain data, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
