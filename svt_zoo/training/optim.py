"""Optimisers: which parameters are decayed, how a schedule reaches them, how gradients are clipped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer


def scaled_lr(lr: float, batch_size: int) -> float:
    """The learning rate of a global batch of `batch_size`, when `lr` is that of 256 (Goyal et al. 2017)."""
    return lr * batch_size / 256


def param_groups(
    module: nn.Module,
    *,
    layer_decay: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer, of all parameters of `module` that are trained, with their names.

    Weights are decayed, the class token and the tables of places among them, as by the authors of DINO and SVT; biases
    and other vectors are not. Each group carries `decayed` and `lr_scale`, by which `set_hyperparameters` finds its
    values.

    Args:
        layer_decay: the learning rate of a block is this times that of the next one (BEiT); what comes before the
            blocks counts as one more block, what comes behind them has the full rate.
        lr_factors: of the learning rate, by globs of parameter names; the first that fits counts, 1 where none does.

    Raises:
        ValueError: `layer_decay` for a network that has no `blocks.0`, `blocks.1`, ...; a glob of `lr_factors` that
            fits nothing; or nothing is trained.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise ValueError(
            f"no parameter of {type(module).__name__} can be trained, because requires_grad is False for all"
        )
    scales = _layer_scales([name for name, _ in named], layer_decay) if layer_decay != 1.0 else [1.0] * len(named)
    factors = lr_factors or {}
    if unused := [glob for glob in factors if not any(fnmatchcase(name, glob) for name, _ in named)]:
        raise ValueError(f"lr_factors: {unused[0]} matches no parameter of {type(module).__name__}")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for (name, parameter), layer_scale in zip(named, scales, strict=True):
        scale = layer_scale * next((factor for glob, factor in factors.items() if fnmatchcase(name, glob)), 1.0)
        exempt = parameter.ndim == 1 or name.endswith(".bias")
        group = groups.setdefault((scale, not exempt), {"params": [], "decayed": not exempt, "lr_scale": scale})
        group["params"].append((name, parameter))
    return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], not key[1]))]


def _layer_scales(names: Sequence[str], layer_decay: float) -> list[float]:
    """The factor of each parameter's learning rate; `names` in the order of the network."""
    blocks = [re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names]
    depth = max((int(block[1]) + 1 for block in blocks if block), default=0)
    if not depth:
        raise ValueError(f"layer_decay={layer_decay} needs parameters named blocks.0, blocks.1, ...; leave it at 1.0")
    scales, reached = [], False
    for block in blocks:
        reached = reached or block is not None
        layer = int(block[1]) + 1 if block else (depth + 1 if reached else 0)
        scales.append(layer_decay ** (depth + 1 - layer))
    return scales


def build_optimizer(
    groups: Iterable[dict[str, Any]],
    *,
    name: Literal["adamw", "adam", "sgd"] = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    amsgrad: bool = False,
) -> Optimizer:
    """An optimizer over `param_groups`; Adam and AdamW in one fused kernel a step where the device has it.

    SGD is not fused: its kernel refuses parameters whose first gradient comes later (frozen prototypes), and shards.

    Args:
        lr, weight_decay: values until the first `set_hyperparameters`.
        betas: of Adam and AdamW.
        momentum: of SGD.
        amsgrad: of Adam and AdamW: divide by the largest second moment so far.

    Raises:
        ValueError: no such optimizer.
    """
    groups = list(groups)
    if name in ("adamw", "adam"):
        kind = AdamW if name == "adamw" else Adam
        fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for _, parameter in group["params"])
        optimizer: Optimizer = kind(groups, lr=lr, betas=betas, amsgrad=amsgrad, fused=fused)
    elif name == "sgd":
        optimizer = SGD(groups, lr=lr, momentum=momentum)
    else:
        raise ValueError(f'the optimiser must be "adamw", "adam" or "sgd", got {name!r}')
    set_hyperparameters(optimizer, lr=lr, weight_decay=weight_decay)
    return optimizer


def set_hyperparameters(optimizer: Optimizer, *, lr: float, weight_decay: float) -> None:
    """Give each group of `param_groups` its values for the step to come."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float | None, *, mode: Literal["per_parameter", "global"] = "global"
) -> Tensor:
    """Shorten gradients in place to `max_norm` at most; gives the norm of all of them together, before.

    Args:
        max_norm: None changes nothing.
        mode: "per_parameter" shortens each parameter's gradient by itself, as DINO and SVT do, "global" all by one
            factor.

    Raises:
        ValueError: no such mode.
    """
    if mode not in ("per_parameter", "global"):
        raise ValueError(f'mode must be "per_parameter" or "global", got {mode!r}')
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch.stack([_whole(norm) for norm in torch._foreach_norm(gradients)])
    total = torch.linalg.vector_norm(norms)
    limited = total.expand_as(norms) if mode == "global" else norms
    if max_norm is not None:
        torch._foreach_mul_(gradients, list((max_norm / (limited + 1e-6)).clamp(max=1.0).unbind()))
    return total


def _whole(norm: Tensor) -> Tensor:
    """The norm over all shards. FSDP's own tensors cannot `unbind` in torch 2.9."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
