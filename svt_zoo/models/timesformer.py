"""TimeSformer, which is also SVT's backbone.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?" (ICML 2021), section 3;
Ranasinghe et al., "Self-supervised Video Transformer" (CVPR 2022), section 3.1 for the dynamic position tables.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Backbone, GradCheckpointing
from .layers import (
    LAYER_NORM_EPS,
    Attention,
    Block,
    Features,
    Interpolation,
    PatchEmbed,
    check_sizes,
    drop_path,
    drop_path_rates,
    grid_of,
    init_weights,
    resize_grid,
    resize_time,
)


class DividedBlock(Block):
    """Divided space-time attention (TimeSformer section 3.2): first along time, then inside every frame."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop: float) -> None:
        super().__init__(embed_dim, num_heads, mlp_ratio, qkv_bias, drop)
        self.temporal_norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.temporal_attn = Attention(embed_dim, num_heads, qkv_bias=qkv_bias)
        self.temporal_fc = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Tokens x (B, 1 + T*N, D), time-major after the class token -> the same shape."""
        cls, patches = x.split((1, x.shape[1] - 1), dim=1)  # (B, 1, D), (B, T*N, D)
        patches = patches.unflatten(1, (num_frames, -1))  # (B, T, N, D)
        patches = patches + self._along_time(patches)
        cls_in_frames, from_frames = self._inside_frames(cls, patches).split((1, patches.shape[2]), dim=2)
        cls = cls + cls_in_frames.mean(dim=1)  # (B, 1, D): mean over frames
        patches = patches + from_frames  # (B, T, N, D)
        x = torch.cat((cls, patches.flatten(1, 2)), dim=1)  # (B, 1+T*N, D)
        return self.add_mlp(x)

    def _along_time(self, patches: Tensor) -> Tensor:
        """Every patch position attends to itself in all frames; one drop-path decision per position."""
        batch, _, num_patches, _ = patches.shape
        tubes = patches.transpose(1, 2).flatten(0, 1)  # (B*N, T, D)
        out = self.attend_normalized(self.temporal_attn, self.temporal_norm1, tubes)
        out = drop_path(out, self.drop, self.training)
        # temporal_fc comes after drop path: a dropped tube still receives its bias, as in the original.
        return self.temporal_fc(out).unflatten(0, (batch, num_patches)).transpose(1, 2)

    def _inside_frames(self, cls: Tensor, patches: Tensor) -> Tensor:
        """Every frame attends to itself and a copy of the class token; one drop-path decision per frame."""
        batch, num_frames, _, dim = patches.shape
        copies = cls.unsqueeze(1).expand(batch, num_frames, 1, dim)
        frames = torch.cat((copies, patches), dim=2).flatten(0, 1)  # (B*T, 1+N, D)
        out = drop_path(self.attend_normalized(self.attn, self.norm1, frames), self.drop, self.training)
        return out.unflatten(0, (batch, num_frames))  # (B, T, 1+N, D)


class TimeSformer(Backbone):
    """A vision transformer over the patches of a clip: (B, 3, T, H, W) -> `Features`.

    The position tables keep their trained size and are resized to the clip in `forward`. So T can be any number, and
    H, W any size of at least a patch. Released weights need `"nearest"`.

    Args:
        img_size: frame size in pixels of the stored grid, an int or (H, W).
        num_frames: number of frames of the stored time table.
        drop_path_rate: stochastic depth of the last block; that of the others grows linearly from 0.
        pos_mode, time_mode: interpolation of the tables over space ("nearest", "nearest-exact", "linear", "cubic")
            and over time (the same without "cubic").
        table: has no effect; files written by earlier versions may contain it.
        grad_checkpointing: see `Backbone.set_grad_checkpointing`.
    """

    block: ClassVar[type[Block]] = DividedBlock
    has_time: ClassVar[bool] = True

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
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        pos_mode: Interpolation = "nearest",
        time_mode: Interpolation = "nearest",
        table: str = "per_view",
        grad_checkpointing: GradCheckpointing = False,
    ) -> None:
        super().__init__()
        if table != "per_view":
            raise ValueError(f"table={table!r} was removed: tables are stretched to each clip; delete this option")
        check_sizes(embed_dim=embed_dim, num_frames=num_frames)
        self.embed_dim, self.num_frames, self.patch_size = embed_dim, num_frames, patch_size
        self.pos_mode, self.time_mode = pos_mode, time_mode
        self.grid_size = grid_of(img_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size[0] * self.grid_size[1], embed_dim))
        if self.has_time:
            self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(
            self.block(embed_dim, num_heads, mlp_ratio, qkv_bias, rate)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.set_grad_checkpointing(grad_checkpointing)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        # As in the originals, time has no effect at first: `temporal_fc` and `time_embed` are 0.
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        init_weights(self.modules())
        for block in self.blocks:
            if isinstance(block, DividedBlock):
                nn.init.zeros_(block.temporal_fc.weight)

    def positions(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions of the class token (1, 1, D) and of a frame's patches (1, N, D), for a grid (rows, columns)."""
        return self.pos_embed[:, :1], resize_grid(self.pos_embed[:, 1:], self.grid_size, grid, self.pos_mode)

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, int]:
        """Tokens (B, 1 + T*N, D) of clip (B, 3, T, H, W), time-major after the class token, and T."""
        grid = self.patch_embed.grid(clip)
        num_frames = clip.shape[2]
        cls_position, patch_positions = self.positions(grid)
        times = resize_time(self.time_embed, num_frames, self.time_mode)  # (1, T, D)
        patches = self.patch_embed(clip) + patch_positions.unsqueeze(1) + times.unsqueeze(2)
        cls = (self.cls_token + cls_position).expand(clip.shape[0], -1, -1)  # (B, 1, D)
        return torch.cat((cls, patches.flatten(1, 2)), dim=1), num_frames  # (B, 1+T*N, D)

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """Class token and patches of x (B, 1 + T*N, D)."""
        x = self.norm(x) if norm else x
        return Features(x[:, 0], x[:, 1:].unflatten(1, (clip.shape[2], -1)))


class JointTimeSformer(TimeSformer):
    """Joint space-time attention: all tokens of all frames attend to each other (TimeSformer section 3.2)."""

    block = Block


class SpaceOnlyTimeSformer(TimeSformer):
    """Frames are independent, without time table; class tokens are averaged over frames (TimeSformer 3.2)."""

    block, has_time = Block, False

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, int]:
        """Tokens (B*T, 1 + N, D): every frame is a sequence of its own."""
        grid = self.patch_embed.grid(clip)
        cls_position, patch_positions = self.positions(grid)
        patches = self.patch_embed(clip).flatten(0, 1) + patch_positions  # (B*T, N, D)
        cls = (self.cls_token + cls_position).expand(patches.shape[0], -1, -1)  # (B*T, 1, D)
        return torch.cat((cls, patches), dim=1), 1

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """The class tokens of x (B*T, 1 + N, D), averaged over frames before the norm, and the patches."""
        x = x.unflatten(0, (clip.shape[0], clip.shape[2]))  # (B, T, 1+N, D)
        cls, patches = x[:, :, 0].mean(dim=1), x[:, :, 1:]
        return Features(self.norm(cls), self.norm(patches)) if norm else Features(cls, patches)


_ATTENTION: dict[str, type[TimeSformer]] = {
    "divided_space_time": TimeSformer,
    "joint_space_time": JointTimeSformer,
    "space_only": SpaceOnlyTimeSformer,
}


def timesformer(*, attention: str = "divided_space_time", **options: Any) -> TimeSformer:
    """A TimeSformer with the `attention` "divided_space_time", "joint_space_time" or "space_only"."""
    if attention not in _ATTENTION:
        raise ValueError(f"attention must be one of {', '.join(_ATTENTION)}, got {attention!r}")
    return _ATTENTION[attention](**options)
