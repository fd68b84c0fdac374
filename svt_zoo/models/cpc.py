"""CPC's network: a ResNet for every frame, a transformer over all tokens, a ConvGRU over time.

The network of "SSL for Video Understanding" (2025). It is CPCTR's (Liu et al., Neurocomputing 482, 2022) with two
layers of four heads, and derives from DPC (Han et al., ICCV workshops 2019).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Backbone
from .conv_gru import ConvGRU
from .layers import Attention, Features, check_clip
from .resnet import STRIDE, BasicBlock, Bottleneck, FrameResNet

Pool = Literal["tokens", "context"]


class StdNorm(nn.Module):
    """Layer normalization by the unbiased deviation, with epsilon outside the root: 0.2 % off `nn.LayerNorm`."""

    def __init__(self, embed_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(embed_dim)), nn.Parameter(torch.zeros(embed_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (..., D) over D."""
        x = x - x.mean(dim=-1, keepdim=True)
        # The gradient of a norm at zero is zero; the gradient of `std` is not finite there.
        std = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / (x.shape[-1] - 1) ** 0.5
        return self.weight * x / (std + self.eps) + self.bias


class MaskedAttention(Attention):
    """Self-attention with an optional mask and with dropout on its weights."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(embed_dim, num_heads)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: x (R, S, D) -> (R, S, D); `mask` (S, S) is true where a row may attend to a column."""
        q, k, v = self.split_heads(x)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.proj(out.transpose(1, 2).flatten(2))  # (R, S, D): heads side by side


class TokenBlock(nn.Module):
    """A pre-norm transformer block with ReLU and dropout on both branches."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = StdNorm(embed_dim)
        self.attn = MaskedAttention(embed_dim, num_heads, dropout)
        self.norm2 = StdNorm(embed_dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(embed_dim, mlp_dim), "fc2": nn.Linear(mlp_dim, embed_dim)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens x (B, S, D) -> the same shape; `mask` as of `MaskedAttention`."""
        x = x + self._drop(self.attn(self.norm1(x), mask))
        hidden = self._drop(F.relu(self.mlp["fc1"](self.norm2(x))))
        return x + self._drop(self.mlp["fc2"](hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class CPCNetwork(Backbone):
    """A ResNet maps each frame to tokens, which all attend to each other; `context` is the state of a ConvGRU.

    Any number of frames and any size; a partial position at an edge counts as a full one.

    Args:
        block, depths: of the `FrameResNet`.
        embed_dim: width D of tokens and of the ConvGRU's state.
        num_frames, img_size: the clip it is made for.
        depth: transformer blocks; with 0, tokens do not attend to each other.
        num_heads: attention heads; by default heads of 64 channels.
        mlp_dim: width inside the transformer's blocks.
        dropout: inside the transformer and on the ConvGRU's state.
        relu: apply ReLU between ResNet and transformer, as the original does in its classifier, but not in
            pre-training.
        positions: add sinusoids of time, row and column to the tokens. Without them, only the order of the GRU and the
            edges of the maps distinguish positions and times.
        pool: `Features.cls` is the mean of all "tokens", or of the ConvGRU's last state ("context").
        grad_checkpointing: recompute the transformer's blocks (not the ResNet) in the backward pass, to save memory.
        final_bn: apply `BatchNorm1d` to `cls`, then dropout of 0.5, as the original's classifier does.
    """

    new_parts = ("final_bn.*",)  # pre-training does not use it

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        embed_dim: int,
        num_frames: int = 8,
        img_size: int = 224,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_dim: int = 2048,
        dropout: float = 0.1,
        relu: bool = False,
        positions: bool = False,
        pool: Pool = "tokens",
        final_bn: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if pool not in ("tokens", "context"):
            raise ValueError(f'pool must be "tokens" or "context", got {pool!r}')
        self.embed_dim, self.num_frames, self.img_size, self.patch_size = embed_dim, num_frames, img_size, STRIDE
        self.relu, self.positions, self.pool = relu, positions, pool
        self.grad_checkpointing = grad_checkpointing
        heads = max(1, embed_dim // 64) if num_heads is None else num_heads
        self.resnet = FrameResNet(block, depths, embed_dim)
        self.blocks = nn.ModuleList(TokenBlock(embed_dim, heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = StdNorm(embed_dim)
        self.gru = ConvGRU(embed_dim, embed_dim, dropout=dropout)
        self.final_bn = nn.BatchNorm1d(embed_dim) if final_bn else None
        # If `forward` does not use the GRU, it needs no gradient; the CPC method enables it.
        self.gru.requires_grad_(pool == "context")
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                parts = 3 if module.out_features == 3 * module.in_features else 1  # queries, keys, values
                for part in module.weight.data.chunk(parts):
                    nn.init.orthogonal_(part)
                nn.init.zeros_(module.bias)

    def grid(self, clip: Tensor) -> tuple[int, int]:
        """Rows and columns of the map of one frame of clip (B, 3, T, H, W).

        Raises:
            ValueError: not such a clip.
        """
        check_clip(clip, min_size=1)
        return (clip.shape[3] + STRIDE - 1) // STRIDE, (clip.shape[4] + STRIDE - 1) // STRIDE

    def frame_features(self, clip: Tensor) -> Tensor:
        """The ResNet's output for every frame independently: clip (B, 3, T, H, W) -> (B, T, N, D)."""
        self.grid(clip)
        batch = clip.shape[0]
        maps = self.resnet(clip.transpose(1, 2).flatten(0, 1))  # (B*T, D, h, w): every frame an image
        return maps.flatten(2).transpose(1, 2).unflatten(0, (batch, -1))  # (B, T, N, D)

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, None]:
        """The transformer's input (B, T*N, D) for clip (B, 3, T, H, W); no mask, so all frames attend to each other."""
        return self._enter(self.frame_features(clip), self.grid(clip)), None

    def _enter(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
        x = F.relu(frames) if self.relu else frames
        if self.positions:
            x = x + space_time_sinusoids(frames.shape[1], grid, frames.shape[3], x.device).to(x.dtype)
        return x.flatten(1, 2)  # (B, T*N, D): frame by frame

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """The patches of x (B, T*N, D), and their mean as class feature."""
        patches = (self.norm(x) if norm else x).unflatten(1, (clip.shape[2], -1))  # (B, T, N, D)
        return Features(patches.mean(dim=(1, 2)), patches)

    def tokens(self, frames: Tensor, grid: tuple[int, int], *, causal: bool = False) -> Tensor:
        """The transformer on `frame_features` (B, T, N, D), of the same shape; `causal` attends to no later frame."""
        num_frames, places = frames.shape[1:3]
        x = self._enter(frames, grid)
        mask = None
        if causal:
            frame = torch.arange(num_frames, device=x.device).repeat_interleave(places)  # (T*N,)
            mask = frame[:, None] >= frame[None, :]
        for block in self.blocks:
            x = self.run_block(block, x, mask)
        return self.norm(x).unflatten(1, (num_frames, places))  # (B, T, N, D)

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, 3, T, H, W); all frames attend to each other."""
        grid = self.grid(clip)
        patches = self.tokens(self.frame_features(clip), grid)
        cls = patches.mean(dim=(1, 2)) if self.pool == "tokens" else self._state(patches, grid).mean(dim=(2, 3))
        if self.final_bn is not None:
            cls = F.dropout(self.final_bn(cls), 0.5, self.training)
        return Features(cls, patches)

    def context(self, clip: Tensor) -> Tensor:
        """CPC's context: the ConvGRU's state (B, D, h, w) after the last frame of clip (B, 3, T, H, W)."""
        grid = self.grid(clip)
        return self._state(self.tokens(self.frame_features(clip), grid), grid)

    def _state(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = F.relu(patches).transpose(2, 3).unflatten(3, grid)  # (B, T, D, h, w)
        return self.gru(maps)[:, -1]


def space_time_sinusoids(
    num_frames: int, grid: tuple[int, int], embed_dim: int, device: torch.device | None = None
) -> Tensor:
    """Positions (T, N, D) of Vaswani et al. (2017): a third of the channels each for time, row and column."""
    third = embed_dim // 6 * 2
    parts = (third, third, embed_dim - 2 * third)
    time, row, column = (sinusoids(size, dim, device) for size, dim in zip((num_frames, *grid), parts, strict=True))
    shape = (num_frames, *grid, -1)
    placed = (time[:, None, None].expand(shape), row[None, :, None].expand(shape), column[None, None].expand(shape))
    return torch.cat(placed, dim=-1).flatten(1, 2)  # (T, N, D)


def sinusoids(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal positions (length, dim): sine and cosine interleaved, with wavelengths from 2 pi to 10,000 * 2 pi."""
    steps = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
    frequency = torch.exp(steps * (-torch.log(torch.tensor(10000.0)) / dim))
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequency  # (length, ceil(dim / 2))
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)[:, :dim]


def cpc_resnet18(*, embed_dim: int = 256, **options: Any) -> CPCNetwork:
    """ResNet-18 and the transformer: 8.1 M parameters, 256 features. Options are those of `CPCNetwork`."""
    return CPCNetwork(BasicBlock, (2, 2, 2, 2), embed_dim=embed_dim, **options)


def cpc_resnet34(*, embed_dim: int = 256, **options: Any) -> CPCNetwork:
    """ResNet-34 and the transformer: 256 features. Options are those of `CPCNetwork`."""
    return CPCNetwork(BasicBlock, (3, 4, 6, 3), embed_dim=embed_dim, **options)


def cpc_resnet50(*, embed_dim: int = 1024, **options: Any) -> CPCNetwork:
    """ResNet-50 and a transformer as wide as its last stage, 1024, as DPC has it. Options are those of `CPCNetwork`."""
    return CPCNetwork(Bottleneck, (3, 4, 6, 3), embed_dim=embed_dim, **options)


def cpc_resnet101(*, embed_dim: int = 1024, **options: Any) -> CPCNetwork:
    """ResNet-101 and a transformer as wide as its last stage, 1024. Options are those of `CPCNetwork`."""
    return CPCNetwork(Bottleneck, (3, 4, 23, 3), embed_dim=embed_dim, **options)
