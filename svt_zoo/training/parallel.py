"""A method in several processes: a copy in each (DDP) or shards (FSDP2), and the full state of either."""

import copy
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

from ..distributed import is_main, world_size
from ..methods import Method
from ..models import Backbone, ZooModel, create_model
from ..models.layers import Block


def compile_networks(method: Method) -> None:
    """Compile each transformer block for clips of any size, and networks without such blocks as a whole.

    All blocks share compiled code: SVT's ten views need 4 graphs of one block instead of 6 of the network.
    """
    for module in method.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)
        elif isinstance(module, Backbone) and not any(isinstance(part, Block) for part in module.modules()):
            module.compile()


def parallelize(method: Method, kind: Literal["ddp", "fsdp"], device: torch.device) -> nn.Module:
    """The module that the loop calls in place of `method`: without torchrun, the method itself.

    "ddp" wraps it: each process holds everything. "fsdp" shards the parameters of `method`, in place, over the
    processes, layer by layer; create optimizers after it.
    """
    if not dist.is_initialized():
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
    """Context in which backward exchanges gradients between processes or, with `on=False`, only adds them up here."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(on)
        yield
    elif isinstance(network, DistributedDataParallel) and not on:
        with network.no_sync():
            yield
    else:
        yield


def full_state(value: Any) -> Any:
    """A state with full tensors, however it is sharded; every process must call it.

    On the main process they are copies on the CPU, which further training does not change. On the others, tensors that
    are not sharded stay as they are.
    """
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True) if is_main() else value.detach()
    if isinstance(value, Mapping):
        return {key: full_state(item) for key, item in value.items()}
    return [full_state(item) for item in value] if isinstance(value, list) else value


def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a full state dict, strictly, into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({key: _shard_like(value, own.get(key)) for key, value in state.items()}, strict=True)


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a full optimizer state; its tensors are sharded as the parameters they belong to.

    `set_optimizer_state_dict` of torch takes a step with a learning rate of 0 first. Parameters that have not been
    trained yet (SVT's frozen last layer) then have a state, and a resumed run differs from the straight one.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    per_parameter = {
        index: {name: _shard_like(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({"state": per_parameter, "param_groups": state["param_groups"]})


def _shard_like(value: Any, like: Tensor | None) -> Any:
    """A full tensor, sharded as `like`; a value of another shape (a count of steps) stays as it is."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def plain_copy(backbone: Backbone, device: torch.device) -> ZooModel:
    """A copy of `backbone` that is not sharded, in eval mode; all processes must call it."""
    state = backbone.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return copy.deepcopy(backbone).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        plain = create_model(backbone.meta["model"], **backbone.meta["model_kwargs"])
    plain.load_state_dict(full_state(state), strict=True)
    plain.meta = dict(backbone.meta)
    return plain.to(device).eval()
