"""X-ViT: a vision transformer on frames with shifted keys and values, then a small transformer over the frames.

Bulat et al., "Space-time Mixing Attention for Video Transformer" (NeurIPS 2021), section 3.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Backbone, GradCheckpointing
from .layers import (
    LAYER_NORM_EPS,
    Attention,
    Block,
    Features,
    Interpolation,
    PatchEmbed,
    check_choice,
    check_sizes,
    drop_path_rates,
    grid_of,
    init_weights,
    resize_grid,
    resize_time,
)

TemporalTable = Literal["nearest", "tile"]


def shift_frames(x: Tensor, shift_div: int, segments: int | None = None) -> Tensor:
    """Take a fraction of every frame's channels from its neighbors: x (B, T, ..., D) -> the same shape.

    The first D // shift_div channels come from the next frame, the same number from the previous one, the rest stay.
    Beyond the ends are zeros. `segments`: the clip is split into runs of that many frames, each with its own ends.
    """
    if segments is not None and segments < x.shape[1]:
        return torch.cat([shift_frames(run, shift_div) for run in x.split(segments, dim=1)], dim=1)
    size = x.shape[-1] // shift_div
    other_dims = (0, 0) * (x.ndim - 2)  # F.pad counts from the last dimension; frames are the second
    moving = F.pad(x[..., : 2 * size], (*other_dims, 1, 1))  # (B, 1+T+1, ..., 2*size)
    return torch.cat((moving[:, 2:, ..., :size], moving[:, :-2, ..., size:], x[..., 2 * size :]), dim=-1)


class FrameAttention(Attention):
    """Attention inside every frame, (B, T, S, D) -> (B, T, S, D); with `shift_div` space-time mixing attention.

    In mixing attention, a fraction of each frame's key and value channels comes from its neighbors (`shift_frames`).
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, qkv_bias: bool = True, shift_div: int | None, segments: int | None
    ) -> None:
        super().__init__(embed_dim, num_heads, qkv_bias=qkv_bias)
        self.shift_div, self.segments = shift_div, segments

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B*T, h, S, d), of the output (B, T, S, 3 D) of `qkv`."""
        q, k, v = qkv.chunk(3, dim=-1)  # each (B, T, S, D), head by head
        if self.shift_div:
            k, v = (shift_frames(y, self.shift_div, self.segments) for y in (k, v))
        q, k, v = (y.flatten(0, 1).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in (q, k, v))
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Attend: x (B, T, S, D) -> (B, T, S, D)."""
        return super().forward(x).unflatten(0, x.shape[:2])


class FrameEncoder(nn.Module):
    """The vision transformer on frames: patch embedding, position tables, blocks and final norm."""

    def __init__(
        self,
        embed_dim: int,
        patch_size: int,
        grid_size: tuple[int, int],
        num_frames: int,
        blocks: Iterable[Block],
        temporal_table: TemporalTable,
        pos_mode: Interpolation,
    ) -> None:
        super().__init__()
        self.grid_size, self.temporal_table, self.pos_mode = grid_size, temporal_table, pos_mode
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid_size[0] * grid_size[1], embed_dim))
        self.temp_embed = nn.Parameter(torch.zeros(1, num_frames, 1, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        # As in the original, the time table is zero at first.
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.zeros_(self.temp_embed)
        init_weights(self.modules())

    def times(self, num_frames: int) -> Tensor:
        """Positions in time of `num_frames` frames, (1, T, 1, D)."""
        table: Tensor = self.temp_embed
        if self.temporal_table == "tile":
            return table[:, torch.arange(num_frames, device=table.device) % table.shape[1]]
        return resize_time(table.squeeze(2), num_frames, "nearest").unsqueeze(2)

    def embed_clip(self, clip: Tensor) -> Tensor:
        """Tokens (B, T, 1+N, D) of all frames, before the first block."""
        grid = self.patch_embed.grid(clip)
        patches = self.patch_embed(clip) + resize_grid(self.pos_embed[:, 1:], self.grid_size, grid, self.pos_mode)
        cls = self.cls_token + self.pos_embed[:, :1]  # (1, 1, D)
        cls = cls.expand(*patches.shape[:2], -1, -1)  # (B, T, 1, D)
        return torch.cat((cls, patches), dim=2) + self.times(clip.shape[2])  # (B, T, 1+N, D)


class Consensus(nn.Module):
    """Temporal attention over the frames' class features (B, T, D), after a class token of its own -> (B, D')."""

    def __init__(
        self, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, out_dim: int, dropout: float
    ) -> None:
        super().__init__()
        check_sizes(consensus_dim=out_dim)
        self.out_dim = out_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.temporal_encoder = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=False, drop=0.0) for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(
            nn.LayerNorm(embed_dim), nn.Linear(embed_dim, out_dim), nn.GELU(), nn.Dropout(dropout)
        )
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5  # here, not in the frame encoder, the original keeps PyTorch's

    def forward(self, frames: Tensor) -> Tensor:
        """The clip's feature from frames (B, T, D)."""
        x = torch.cat((self.cls_token.expand(frames.shape[0], -1, -1), frames), dim=1)  # (B, 1+T, D)
        for block in self.temporal_encoder:
            x = block(x, frames.shape[1])
        return self.mlp_head(x[:, 0])


class XViT(Backbone):
    """X-ViT on the frames of a clip: (B, 3, T, H, W) -> `Features`, any T and any H, W that hold a patch.

    `cls` is the consensus over frames after its LayerNorm, Linear and GELU; `patches` are the frames' tokens after
    the final norm.

    Args:
        img_size: frame size in pixels of the stored grid, an int or (H, W).
        num_frames: number of frames of the stored time table.
        drop_path_rate: stochastic depth of the last block, per clip; that of the others grows linearly from 0.
        shift_div: a block takes 1 / shift_div of its key and value channels from the next frame, and from the previous.
        locations: the blocks that do so; None is all of them.
        segments: frames per run; runs exchange nothing. None is the entire clip.
        temporal_table: for clips of other lengths, resize the time table ("nearest") or repeat it ("tile": released
            weights hold 8 frames, and were trained in this way on 16).
        pos_mode: interpolation of the grid of positions to other sizes.
        consensus_depth: blocks over the frames' class features.
        consensus_heads: attention heads of these blocks; None is num_heads.
        consensus_dim: width of `cls`; None is embed_dim.
        dropout: dropout in training on `cls`, before the linear layer that follows (both originals: 0.5).
        frame_dropout: dropout in training on every frame's class feature (the original: 0.5; TIME: 0).
        grad_checkpointing: see `Backbone.set_grad_checkpointing`.

    Raises:
        ValueError: an invalid temporal_table, shift_div, segments or location.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_frames: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        shift_div: int = 4,
        locations: Iterable[int] | None = None,
        segments: int | None = None,
        temporal_table: TemporalTable = "nearest",
        pos_mode: Interpolation = "cubic",
        consensus_depth: int = 1,
        consensus_heads: int | None = None,
        consensus_dim: int | None = None,
        dropout: float = 0.0,
        frame_dropout: float = 0.0,
        grad_checkpointing: GradCheckpointing = False,
    ) -> None:
        super().__init__()
        check_sizes(embed_dim=embed_dim, num_frames=num_frames, consensus_depth=consensus_depth)
        shifting = range(depth) if locations is None else tuple(locations)
        check_choice("temporal_table", temporal_table, TemporalTable)
        if shift_div < 2:
            raise ValueError(f"shift_div must be >= 2, because two neighbors share the channels, got {shift_div}")
        if segments is not None and segments < 1:
            raise ValueError(f"segments (frames per run) must be >= 1, or None for the entire clip, got {segments}")
        if wrong := [i for i in shifting if not 0 <= i < depth]:
            raise ValueError(f"locations must name blocks 0 to {depth - 1}, got {wrong}")
        self.embed_dim, self.num_frames, self.patch_size = embed_dim, num_frames, patch_size
        attention = (
            partial(FrameAttention, shift_div=shift_div if i in shifting else None, segments=segments)
            for i in range(depth)
        )
        rates = drop_path_rates(drop_path_rate, depth)
        blocks = (
            Block(embed_dim, num_heads, mlp_ratio, True, rate, attn)
            for attn, rate in zip(attention, rates, strict=True)
        )
        grid = grid_of(img_size, patch_size)
        self.base_model = FrameEncoder(embed_dim, patch_size, grid, num_frames, blocks, temporal_table, pos_mode)
        self.frame_dropout = nn.Dropout(frame_dropout)
        heads = num_heads if consensus_heads is None else consensus_heads
        out_dim = embed_dim if consensus_dim is None else consensus_dim
        self.consensus = Consensus(embed_dim, consensus_depth, heads, mlp_ratio, out_dim, dropout)
        self.set_grad_checkpointing(grad_checkpointing)

    @property
    def cls_dim(self) -> int:
        """Width of the class feature."""
        return self.consensus.out_dim

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]  # the state dict keeps the original's names
        """The blocks of the frame encoder."""
        return self.base_model.blocks

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, int]:
        """Tokens (B, T, 1 + N, D) of clip (B, 3, T, H, W), each frame's class token first, and T."""
        return self.base_model.embed_clip(clip), clip.shape[2]

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """The frames' class tokens, averaged over time, and the patches of x (B, T, 1 + N, D)."""
        x = self.base_model.norm(x) if norm else x
        return Features(x[:, :, 0].mean(dim=1), x[:, :, 1:])

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, 3, T, H, W), H and W in pixels; the class feature is the consensus over frames."""
        x, num_frames = self.embed_clip(clip)
        for block in self.blocks:
            x = self.run_block(block, x, num_frames)
        x = self.base_model.norm(x)  # (B, T, 1+N, D)
        return Features(self.consensus(self.frame_dropout(x[:, :, 0])), x[:, :, 1:])
