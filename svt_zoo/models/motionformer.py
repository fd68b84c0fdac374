"""Motionformer: a video transformer with trajectory attention.

Patrick et al., "Keeping Your Eye on the Ball: Trajectory Attention in Video Transformers" (NeurIPS 2021).
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from .base import Backbone, GradCheckpointing
from .layers import (
    LAYER_NORM_EPS,
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
from .trajectory import Approximation, DividedAttention, TrajectoryAttention

AttentionKind = Literal["trajectory", "joint", "divided"]
Positions = Literal["separate", "joint"]


class PatchBlock(Block):
    """A block whose attention depends on the number of frames."""

    def attend(self, x: Tensor, num_frames: int) -> Tensor:
        """The attention of the normalized x (B, 1 + T*N, D), time-major after the class token."""
        return self.attn(self.norm1(x), num_frames)


class DividedPatchBlock(PatchBlock):
    """Attention along time, without drop path, then inside frames; unlike TimeSformer's, both see the class token."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop: float) -> None:
        space = partial(DividedAttention, along="space")
        super().__init__(embed_dim, num_heads, mlp_ratio, qkv_bias, drop, space)
        self.norm3 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.timeattn = DividedAttention(embed_dim, num_heads, qkv_bias=qkv_bias, along="time")

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """One drop-path decision per clip."""
        return super().forward(x + self.timeattn(self.norm3(x), num_frames), num_frames)


class TubeletEmbed(PatchEmbed):
    """Cut a clip into blocks of `tubelet_frames` x `patch_size` x `patch_size`: (B, C, T, H, W) -> (B, T', N, D).

    Frames at the end that do not fill a block are ignored, as are pixels at the edges.
    """

    def __init__(self, patch_size: int, embed_dim: int, tubelet_frames: int) -> None:
        super().__init__(patch_size, embed_dim)
        size = (tubelet_frames, patch_size, patch_size)
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=size, stride=size)  # type: ignore[assignment]

    def forward(self, clip: Tensor) -> Tensor:
        """Embed all blocks of the clip."""
        frames = self.proj.kernel_size[0]
        if clip.shape[2] < frames:
            raise ValueError(f"a clip needs at least tubelet_frames={frames} frames, got {clip.shape[2]}")
        return self.proj(clip).flatten(3).permute(0, 2, 3, 1)  # (B, T', N, D)


class Motionformer(Backbone):
    """A vision transformer over all patches of a clip: (B, 3, T, H, W) -> `Features`, patches (B, T', N, D).

    T' is T // tubelet_frames. The position tables keep their trained size and are resized to the clip
    in `forward`. So T can be any number >= tubelet_frames, and H, W any size of at least a patch.

    Args:
        img_size: frame size in pixels of the stored grid, an int or (H, W); released weights have 224, for any crop.
        num_frames: number of frames of the stored time table.
        drop_path_rate: stochastic depth of the last block, per clip; that of the others grows linearly from 0.
        attention: "trajectory"; "joint": every token attends to every token; "divided": time, then space (with the
            class token in both, unlike TimeSformer's).
        tubelet_frames: frames per token; 1 gives 2-D patches.
        positions: "separate" tables for space and time, or a "joint" one.
        use_original_code, approximation, num_landmarks: see `TrajectoryAttention`.
        folded: has no effect; files written by earlier versions contain it.
        pre_logits: end with a linear layer and tanh on every token.
        pos_mode, time_mode: interpolation of the tables over space and over time.
        grad_checkpointing: see `Backbone.set_grad_checkpointing`.

    Raises:
        ValueError: unknown attention, positions or approximation, or num_frames is not a multiple of
            tubelet_frames.
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
        qkv_bias: bool = True,
        drop_path_rate: float = 0.2,
        attention: AttentionKind = "trajectory",
        tubelet_frames: int = 1,
        positions: Positions = "separate",
        use_original_code: bool = True,
        folded: bool = True,
        approximation: Approximation | None = None,
        num_landmarks: int = 128,
        pre_logits: bool = True,
        pos_mode: Interpolation = "cubic",
        time_mode: Interpolation = "nearest",
        grad_checkpointing: GradCheckpointing = False,
    ) -> None:
        super().__init__()
        check_choice("attention", attention, AttentionKind)
        check_choice("positions", positions, Positions)
        check_sizes(embed_dim=embed_dim, num_frames=num_frames, num_landmarks=num_landmarks)
        check_sizes(tubelet_frames=tubelet_frames)
        if num_frames % tubelet_frames:
            raise ValueError(f"num_frames must be a multiple of tubelet_frames, got {num_frames} and {tubelet_frames}")
        self.embed_dim, self.num_frames, self.patch_size = embed_dim, num_frames, patch_size
        self.pos_mode, self.time_mode = pos_mode, time_mode
        self.tubelet_frames, self.joint_positions = tubelet_frames, positions == "joint"
        self.num_times, self.grid_size = num_frames // tubelet_frames, grid_of(img_size, patch_size)
        num_patches = self.grid_size[0] * self.grid_size[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if self.joint_positions:
            self.st_embed = nn.Parameter(torch.zeros(1, 1 + self.num_times * num_patches, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, embed_dim))
            self.temp_embed = nn.Parameter(torch.zeros(1, self.num_times, embed_dim))
        if tubelet_frames > 1:
            self.patch_embed_3d = TubeletEmbed(patch_size, embed_dim, tubelet_frames)
        else:
            self.patch_embed = PatchEmbed(patch_size, embed_dim)
        trajectory = partial(
            TrajectoryAttention,
            use_original_code=use_original_code,
            approximation=approximation,
            num_landmarks=num_landmarks,
        )
        blocks: dict[str, Callable[..., nn.Module]] = {
            "trajectory": partial(PatchBlock, attn=trajectory),
            "joint": Block,
            "divided": DividedPatchBlock,
        }
        self.blocks = nn.ModuleList(
            blocks[attention](embed_dim, num_heads, mlp_ratio, qkv_bias, rate)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.set_grad_checkpointing(grad_checkpointing)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        last = OrderedDict(fc=nn.Linear(embed_dim, embed_dim), act=nn.Tanh()) if pre_logits else OrderedDict()
        self.pre_logits = nn.Sequential(last)
        # As in the original, a separate time table is zero at first.
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.st_embed if self.joint_positions else self.pos_embed, std=0.02)
        init_weights(self.modules())

    def positions(self, num_times: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions of the class token (1, 1, D) and of all patches (1, T', N, D), for a grid (rows, columns)."""
        if not self.joint_positions:
            space = resize_grid(self.pos_embed[:, 1:], self.grid_size, grid, self.pos_mode)  # (1, N, D)
            time = resize_time(self.temp_embed, num_times, self.time_mode)  # (1, T', D)
            return self.pos_embed[:, :1], space.unsqueeze(1) + time.unsqueeze(2)
        table = self.st_embed[:, 1:].unflatten(1, (self.num_times, -1)).squeeze(0)  # (T', N, D) as trained
        table = resize_grid(table, self.grid_size, grid, self.pos_mode)
        table = resize_time(table.flatten(1).unsqueeze(0), num_times, self.time_mode)  # (1, T', N*D)
        return self.st_embed[:, :1], table.unflatten(2, (-1, self.embed_dim))

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, int]:
        """Tokens (B, 1 + T'*N, D) of clip (B, 3, T, H, W), time-major after the class token, and T'."""
        embed: PatchEmbed = self.patch_embed_3d if self.tubelet_frames > 1 else self.patch_embed
        grid = embed.grid(clip)
        patches = embed(clip)  # (B, T', N, D)
        batch, num_times = patches.shape[:2]
        cls_position, patch_positions = self.positions(num_times, grid)
        cls = (self.cls_token + cls_position).expand(batch, -1, -1)  # (B, 1, D)
        return torch.cat((cls, (patches + patch_positions).flatten(1, 2)), dim=1), num_times

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """Class token and patches of x (B, 1 + T'*N, D)."""
        x = self.norm(x) if norm else x
        return Features(x[:, 0], x[:, 1:].unflatten(1, (clip.shape[2] // self.tubelet_frames, -1)))

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, 3, T, H, W), H and W in pixels; class feature and patches after `pre_logits`."""
        cls, patches = super().forward(clip)
        return Features(self.pre_logits(cls), self.pre_logits(patches))
