"""Options of a training run, parameter groups, the optimizer, gradient clipping."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..options import bounds


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, schedules and length of a run (SVT section 4.1; DINO's values where the paper gives none).

    Attributes:
        name: the optimizer; "adam" adds the weight decay to the gradient, "adamw" to the weights.
        lr: peak learning rate.
        lr_end: learning rate at the end of the cosine; not scaled.
        scale_lr: True takes `lr` for a batch of 256 videos and scales it with the batch (processes x batch_size x
            accumulation).
        epochs: length of the run.
        warmup_epochs: epochs in which the learning rate rises linearly from 0.
        weight_decay: weight decay at the start.
        weight_decay_end: weight decay at the end of its cosine.
        decay_vectors: decay biases, norms and other vectors too, as TimeSformer and the original of CPC do.
        betas: of AdamW and Adam.
        amsgrad: for AdamW and Adam: divide by the largest second moment so far.
        momentum, nesterov: of SGD.
        clip_grad: largest norm of a gradient; null does not clip.
        clip_mode: "per_parameter" clips each tensor's gradient separately, as DINO does; "global" clips all together.
        accumulation: batches whose gradients are accumulated in a step.
        schedule: of the learning rate: "cosine" ends at `lr_end`; "steps" multiplies it by `factor` at each of the
            `milestones`.
        milestones: epochs at which schedule=steps lowers the learning rate; an empty list keeps it constant.
        factor: factor of the learning rate at a milestone.
        layer_decay: the learning rate of a block is this times that of the next one; 1 is the same for all.
        lr_factors: factors of the learning rate by globs of parameter names, such as {"*.blocks.*": 0.1}.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 5e-4
    lr_end: float = 1e-6
    scale_lr: bool = True
    epochs: int = 20
    warmup_epochs: int = 5
    weight_decay: float = 0.04
    weight_decay_end: float = 0.1
    decay_vectors: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    clip_grad: float | None = 3.0
    clip_mode: Literal["per_parameter", "global"] = "per_parameter"
    accumulation: int = 1
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    layer_decay: float = 1.0
    lr_factors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds(self, "epochs", "accumulation", low=1)
        bounds(self, "lr", "lr_end", "weight_decay", "weight_decay_end", "milestones", "factor", low=0)
        bounds(self, "betas", "momentum", low=0, high=1)
        bounds(self, "clip_grad", above=0)
        bounds(self, "layer_decay", above=0, high=1)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs momentum > 0, got 0")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs must be 0 to epochs={self.epochs}, got {self.warmup_epochs}; lower it with epochs"
            )


@dataclass(frozen=True)
class RunConfig:
    """The folder, the device and the seed of a training run.

    Attributes:
        output: the run's folder; a run that exists there resumes from its last checkpoint.
        seed: seed of the initial weights, the views and the order of the videos.
        device: "auto" uses a GPU if there is one.
        precision: "auto" is bf16 on a GPU that supports it, fp16 on other GPUs, fp32 on a CPU.
        parallel: with several processes, "ddp" copies the networks to each, "fsdp" shards them.
        compile: compile the networks with `torch.compile`. (CPC with attention "full" or "frame_causal" calls parts of
            a network, which are not compiled.)
        checkpoint_every_epochs: epochs between checkpoints at the end of an epoch; the last epoch always has one.
        checkpoint_every_minutes: minutes between further checkpoints; null is never.
        checkpoint_every_steps: steps between further checkpoints; null is never.
        log_every_steps: steps between two log lines if the log is not a terminal.
        monitor_every_steps: steps between two measurements of the teacher's entropy and of the variance and rank of the
            features, which show a collapse.
        knn_every_epochs: epochs between two k-nearest-neighbor evaluations of the backbone, which need labels in
            `data.train` and `data.val`; 0 is never.
        compare: at the end of a pre-training, classify held-out videos with labels by the network before and after it:
            by nearest neighbors and by a linear layer, with intervals. It answers whether the training helped.
        tensorboard: also write TensorBoard event files.
    """

    output: str = "runs/run"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    checkpoint_every_epochs: int = 1
    checkpoint_every_minutes: float | None = 30.0
    checkpoint_every_steps: int | None = None
    log_every_steps: int = 20
    monitor_every_steps: int = 50
    knn_every_epochs: int = 0
    compare: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if not self.output:
            raise ValueError("output must be a folder, got ''; is a shell variable unset?")
        bounds(self, "checkpoint_every_epochs", "checkpoint_every_steps", "log_every_steps", low=1)
        bounds(self, "monitor_every_steps", low=1)
        bounds(self, "checkpoint_every_minutes", above=0)
        bounds(self, "knn_every_epochs", low=0)
        bounds(self, "seed", low=0, high=2**63 - 1)


def scaled_lr(lr: float, batch_size: int) -> float:
    """The learning rate for a global batch of `batch_size`, where `lr` is for 256 (Goyal et al. 2017)."""
    return lr * batch_size / 256


def param_groups(module: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Optimizer groups of all trained parameters of `module`, with their names.

    Weights are decayed, including class token and position embeddings, as by the authors of DINO and SVT; biases and
    other vectors are with `decay_vectors` only. `set_hyperparameters` uses `decayed` and `lr_scale` of each group.
    With `layer_decay` (BEiT), parameters before the blocks form one more block; those after them have the full rate. Of
    `lr_factors`, the first match counts.

    Raises:
        ValueError: `layer_decay` for a network without `blocks.0`, `blocks.1`, ...; a glob of `lr_factors` without a
            match; or no trained parameter.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise ValueError(
            f"no parameter of {type(module).__name__} can be trained, because requires_grad is False for all"
        )
    factors, scales = optim.lr_factors, [1.0] * len(named)
    if optim.layer_decay != 1.0:
        scales = _layer_scales([name for name, _ in named], optim.layer_decay)
    if unused := [glob for glob in factors if not any(fnmatchcase(name, glob) for name, _ in named)]:
        raise ValueError(f"lr_factors: {unused[0]} matches no parameter of {type(module).__name__}")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for (name, parameter), layer_scale in zip(named, scales, strict=True):
        scale = layer_scale * next((factor for glob, factor in factors.items() if fnmatchcase(name, glob)), 1.0)
        exempt = not optim.decay_vectors and (parameter.ndim == 1 or name.endswith(".bias"))
        group = groups.setdefault((scale, not exempt), {"params": [], "decayed": not exempt, "lr_scale": scale})
        group["params"].append((name, parameter))
    return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], not key[1]))]


def _layer_scales(names: Sequence[str], layer_decay: float) -> list[float]:
    """The learning-rate factor of each parameter; `names` are in the order of the network."""
    blocks = [re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names]
    depth = max((int(block[1]) + 1 for block in blocks if block), default=0)
    if not depth:
        raise ValueError(f"layer_decay={layer_decay} needs parameters named blocks.0, blocks.1, ...; set it to 1.0")
    scales, reached = [], False
    for block in blocks:
        reached = reached or block is not None
        layer = int(block[1]) + 1 if block else (depth + 1 if reached else 0)
        scales.append(layer_decay ** (depth + 1 - layer))
    return scales


def build_optimizer(module: nn.Module, optim: OptimConfig) -> Optimizer:
    """The optimizer of a module's `param_groups`, with its peak learning rate and its first weight decay.

    Adam and AdamW are fused on CPU and CUDA. SGD is not: its fused kernel fails for shards and for a first gradient in
    a later step (frozen prototypes).

    Raises:
        ValueError: an unknown optimizer, or as `param_groups`.
    """
    groups = param_groups(module, optim)
    if optim.name == "sgd":
        optimizer: Optimizer = SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov)
    elif optim.name in ("adamw", "adam"):
        kind = AdamW if optim.name == "adamw" else Adam
        fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for _, parameter in group["params"])
        optimizer = kind(groups, lr=optim.lr, betas=optim.betas, amsgrad=optim.amsgrad, fused=fused)
    else:
        raise ValueError(f'optimizer must be "adamw", "adam" or "sgd", got {optim.name!r}')
    set_hyperparameters(optimizer, lr=optim.lr, weight_decay=optim.weight_decay)
    return optimizer


def set_hyperparameters(optimizer: Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set learning rate and weight decay of each group of `param_groups` for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float | None, *, mode: Literal["per_parameter", "global"] = "global"
) -> Tensor:
    """Clip gradients in place to the norm `max_norm`; returns their total norm before clipping.

    Args:
        max_norm: None does not clip.
        mode: "per_parameter" clips each parameter's gradient separately, as DINO and SVT do; "global" clips the total.

    Raises:
        ValueError: an unknown mode.
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
