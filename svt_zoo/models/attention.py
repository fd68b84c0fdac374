"""Attention maps of a transformer, recorded during its forward pass.

Hooks on the `Attention` modules compute the weights, so no block is implemented twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .layers import Attention
from .timesformer import DividedBlock, SpaceOnlyTimeSformer, TimeSformer


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context, every forward of `model` fills the yielded dict: `Attention` name -> weights (R, h, S, S).

    R is the number of input sequences: frames (B*T) for spatial attention, patch positions (B*N) for temporal.
    """
    maps: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda attention, args, name=name: maps.__setitem__(name, attention.weights(args[0]))
        )
        for name, module in model.named_modules()
        if isinstance(module, Attention)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def class_attention(model: TimeSformer, clip: Tensor) -> Tensor:
    """The class token's attention to patches in the last block, averaged over heads: (B, T, rows, columns).

    Divided attention: each frame's map sums to 1 minus the class token's attention to itself. Joint attention: the
    maps of all frames together sum to this.
    """
    grid, num_frames = model.patch_embed.grid(clip), clip.shape[2]
    with record_attention(model.blocks[-1]) as maps:
        model(clip)
    weights = maps["attn"][:, :, 0, 1:].mean(dim=1)  # (B*T, N) inside frames, (B, T*N) for joint attention
    return weights.reshape(len(clip), num_frames, *grid)


def attention_rollout(model: TimeSformer, clip: Tensor, *, residual: float = 0.5) -> Tensor:
    """The contribution of every patch to the class feature through all blocks: (B, T, rows, columns).

    Attention rollout (Abnar and Zuidema, ACL 2020): each attention step is mixed with the identity, whose weight
    `residual` represents the skip connection, and the steps are multiplied. Divided blocks have two steps, time and
    space. The class token skips the first and averages the second over frames. MLPs move nothing between tokens. Nor
    does a time step whose `temporal_fc` is zero (an image network's weights, such as DINO's, before training). The
    map and the class token's own contribution sum to one.

    Raises:
        ValueError: `residual` outside [0, 1], or a network that processes every frame independently.
    """
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"residual must lie in [0, 1], got {residual}")
    if isinstance(model, SpaceOnlyTimeSformer):
        raise ValueError("attention_rollout follows attention through time; a space-only network has class_attention")
    grid, num_frames = model.patch_embed.grid(clip), clip.shape[2]
    with record_attention(model) as maps:
        features = model(clip)
    batch = clip.shape[0]
    weight = torch.zeros(batch, 1 + num_frames * grid[0] * grid[1], dtype=features.cls.dtype, device=clip.device)
    weight[:, 0] = 1.0  # start after the last block: the class token has weight 1
    for index, block in reversed(list(enumerate(model.blocks))):
        space = maps[f"blocks.{index}.attn"].mean(dim=1)  # (R, S, S): heads averaged
        if not isinstance(block, DividedBlock):
            weight = residual * weight + (1 - residual) * (weight.unsqueeze(1) @ space).squeeze(1)
            continue
        weight = residual * weight + (1 - residual) * _through_space(weight, space, num_frames)
        if block.temporal_fc.weight.any():
            time = maps[f"blocks.{index}.temporal_attn"].mean(dim=1)  # (B*N, T, T)
            patches = weight[:, 1:].unflatten(1, (num_frames, -1))  # (B, T, N)
            moved = _through_time(patches, time)
            weight = torch.cat((weight[:, :1], (residual * patches + (1 - residual) * moved).flatten(1)), dim=1)
    return weight[:, 1:].unflatten(1, (num_frames, *grid))  # (B, T, rows, columns)


def _through_space(weight: Tensor, space: Tensor, num_frames: int) -> Tensor:
    """Propagate weights (B, 1+T*N) from a block's output to its input by attention inside frames (B*T, 1+N, 1+N)."""
    batch = weight.shape[0]
    cls = (weight[:, :1] / num_frames).unsqueeze(1).expand(batch, num_frames, 1)  # reverses the mean over frames
    frames = torch.cat((cls, weight[:, 1:].unflatten(1, (num_frames, -1))), dim=2).flatten(0, 1)  # (B*T, 1+N)
    frames = (frames.unsqueeze(1) @ space).squeeze(1).unflatten(0, (batch, num_frames))  # (B, T, 1+N)
    return torch.cat((frames[:, :, 0].sum(dim=1, keepdim=True), frames[:, :, 1:].flatten(1)), dim=1)


def _through_time(patches: Tensor, time: Tensor) -> Tensor:
    """Propagate weights (B, T, N) from output to input by attention along time (B*N, T, T)."""
    batch = patches.shape[0]
    tubes = patches.transpose(1, 2).flatten(0, 1)  # (B*N, T)
    return (tubes.unsqueeze(1) @ time).squeeze(1).unflatten(0, (batch, -1)).transpose(1, 2)  # (B, T, N)
