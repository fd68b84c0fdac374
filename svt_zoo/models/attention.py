"""What a transformer looks at: the attention of its blocks, recorded while it runs.

Recording hooks into the `Attention` modules and asks them for their weights, so no block is written twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .layers import Attention
from .timesformer import DividedBlock, JointBlock, SpaceOnlyTimeSformer, TimeSformer


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, every forward of `model` fills the yielded dict: name of an `Attention` -> weights (R, h, S, S).

    R counts the sequences the module saw: frames (B*T) for spatial attention, patch positions (B*N) for temporal.
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


def spatial_attention(model: TimeSformer, clip: Tensor, *, block: int = -1) -> Tensor:
    """Attention inside every frame in one block: (B, T, h, 1+N, 1+N), class token first, rows are queries.

    Row 0 without its first entry is what the class token looks at in that frame, over the patches row by row.

    Raises:
        ValueError: a network with joint attention has no attention inside a frame.
    """
    joint = isinstance(model.blocks[block], JointBlock) and not isinstance(model.blocks[block], DividedBlock)
    if joint and not isinstance(model, SpaceOnlyTimeSformer):
        raise ValueError("spatial_attention needs divided or space-only attention; use class_attention for joint")
    with record_attention(model.blocks[block]) as maps:
        model(clip)
    return maps["attn"].unflatten(0, (clip.shape[0], clip.shape[2]))  # (B, T, h, 1+N, 1+N)


def class_attention(model: TimeSformer, clip: Tensor) -> Tensor:
    """What the class token looks at in the last block, averaged over heads: (B, T, rows, columns).

    Divided attention: every frame's map sums to what its class token does not keep for itself. Joint attention: all
    frames' maps together do.
    """
    grid = model.patch_embed.grid(clip)
    if isinstance(model.blocks[-1], DividedBlock) or isinstance(model, SpaceOnlyTimeSformer):
        rows = spatial_attention(model, clip)[:, :, :, 0, 1:].mean(dim=2)  # (B, T, N)
    else:
        with record_attention(model.blocks[-1]) as maps:
            model(clip)
        rows = maps["attn"][:, :, 0, 1:].mean(dim=1).unflatten(1, (clip.shape[2], -1))  # (B, T, N)
    return rows.unflatten(-1, grid)  # (B, T, rows, columns)


def attention_rollout(model: TimeSformer, clip: Tensor, *, residual: float = 0.5) -> Tensor:
    """How much of every patch reaches the class feature through all blocks: (B, T, rows, columns).

    Attention rollout (Abnar and Zuidema, ACL 2020): each attention step is mixed with the identity, `residual` of
    it standing for the skip connection, and the steps are multiplied. Divided blocks make two steps, time and
    space; the class token skips the first and averages the second over frames. MLPs move nothing between tokens, nor
    does a time step whose `temporal_fc` is zero (an image network's weights, such as DINO's, before training). The
    map and what the class token kept of itself sum to one.

    Raises:
        ValueError: `residual` outside [0, 1], or a network that sees every frame by itself.
    """
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"residual must lie in [0, 1], got {residual}")
    if isinstance(model, SpaceOnlyTimeSformer):
        raise ValueError("attention_rollout follows attention through time; a space-only network has class_attention")
    grid, num_frames = model.patch_embed.grid(clip), clip.shape[2]
    with record_attention(model) as maps:
        features = model(clip)
    batch = clip.shape[0]
    share = torch.zeros(batch, 1 + num_frames * grid[0] * grid[1], dtype=features.cls.dtype, device=clip.device)
    share[:, 0] = 1.0  # all of the class feature is the class token's, before the last block is taken apart
    for index, block in reversed(list(enumerate(model.blocks))):
        space = maps[f"blocks.{index}.attn"].mean(dim=1)  # (R, S, S): heads averaged
        if not isinstance(block, DividedBlock):
            share = residual * share + (1 - residual) * (share.unsqueeze(1) @ space).squeeze(1)
            continue
        share = residual * share + (1 - residual) * _through_space(share, space, num_frames)
        if block.temporal_fc.weight.any():
            time = maps[f"blocks.{index}.temporal_attn"].mean(dim=1)  # (B*N, T, T)
            patches = share[:, 1:].unflatten(1, (num_frames, -1))  # (B, T, N)
            moved = _through_time(patches, time)
            share = torch.cat((share[:, :1], (residual * patches + (1 - residual) * moved).flatten(1)), dim=1)
    return share[:, 1:].unflatten(1, (num_frames, *grid))  # (B, T, rows, columns)


def _through_space(share: Tensor, space: Tensor, num_frames: int) -> Tensor:
    """Hand shares (B, 1+T*N) of a block's output back to its input through attention inside frames (B*T, 1+N, 1+N)."""
    batch = share.shape[0]
    cls = (share[:, :1] / num_frames).unsqueeze(1).expand(batch, num_frames, 1)  # the mean over frames, undone
    frames = torch.cat((cls, share[:, 1:].unflatten(1, (num_frames, -1))), dim=2).flatten(0, 1)  # (B*T, 1+N)
    frames = (frames.unsqueeze(1) @ space).squeeze(1).unflatten(0, (batch, num_frames))  # (B, T, 1+N)
    return torch.cat((frames[:, :, 0].sum(dim=1, keepdim=True), frames[:, :, 1:].flatten(1)), dim=1)


def _through_time(patches: Tensor, time: Tensor) -> Tensor:
    """Hand shares (B, T, N) back through attention along time (B*N, T, T)."""
    batch = patches.shape[0]
    tubes = patches.transpose(1, 2).flatten(0, 1)  # (B*N, T)
    return (tubes.unsqueeze(1) @ time).squeeze(1).unflatten(0, (batch, -1)).transpose(1, 2)  # (B, T, N)
