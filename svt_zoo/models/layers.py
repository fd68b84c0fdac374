"""Layers of the transformers.

Dimension letters, everywhere in the package: B batch, C color, T frames, H W pixels, N patches per frame,
D embed_dim, K outputs. Here also: R independent sequences, S tokens in a sequence, h heads, d = D / h.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Interpolation = Literal["nearest", "nearest-exact", "linear", "cubic"]
_MODES_2D = {"nearest": "nearest", "nearest-exact": "nearest-exact", "linear": "bilinear", "cubic": "bicubic"}
# In bfloat16 on a CPU, the explicit formula is faster than the fused kernel: 2.5 times as fast for 8 tokens (temporal
# attention), 1.6 times for 197 (spatial). For longer sequences, its weights would need too much memory.
_SHORT = 256
LAYER_NORM_EPS = 1e-6


class Features(NamedTuple):
    """The output of a backbone: `cls` (B, D), and `patches` (B, T, N, D) with the N patches row by row."""

    cls: Tensor
    patches: Tensor


def drop_path(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each entry of the first dimension with probability `p` and scale the others by 1 / (1 - p).

    Stochastic depth (Huang et al. 2016). An entry is a tube, a frame or a clip, according to the caller's layout.
    """
    if p == 0.0 or not training:
        return x
    keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), dtype=torch.float32, device=x.device) >= p
    return x * (keep.to(x.dtype) / (1.0 - p))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q, k, v (R, h, S, d), by the fastest kernel for the device."""
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= _SHORT
    if short and not torch.compiler.is_compiling():
        weights = (q.contiguous() * q.shape[-1] ** -0.5) @ k.contiguous().transpose(-2, -1)  # (R, h, S, S)
        return weights.softmax(dim=-1) @ v.contiguous()
    return F.scaled_dot_product_attention(q, k, v)


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise a ValueError unless `value` is one of the `Literal` `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_sizes(**sizes: Any) -> None:
    """Raise a ValueError unless each size of a network is an integer >= 1 (a depth: >= 0), and none is absurd.

    The upper limits stop a damaged config before it allocates terabytes.
    """
    for name, size in sizes.items():
        low, high = (0, 1000) if name.endswith("depth") else (1, 2**16)
        if not isinstance(size, Integral) or not low <= int(size) <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, got {size!r}")


class HeadProjections(nn.Module):
    """The linear layers of multi-head attention: `qkv` before it, `proj` after it."""

    def __init__(self, embed_dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        check_sizes(embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (R, S, D), each (R, h, S, d)."""
        return self.heads_of(self.qkv(x))

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (R, h, S, d), of the output (R, S, 3 D) of `qkv`."""
        # Chunks first: the gradients of q, k and v are then joined by one copy instead of two.
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in qkv.chunk(3, dim=-1))
        return q, k, v


class Attention(HeadProjections):
    """Multi-head self-attention over independent sequences: (R, S, D) -> (R, S, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend: x (R, S, D) -> (R, S, D)."""
        return self.mix(self.qkv(x))

    def mix(self, qkv: Tensor) -> Tensor:
        """Attend with queries, keys and values (R, S, 3 D) -> (R, S, D)."""
        out = attend(*self.heads_of(qkv)).transpose(1, 2).flatten(2)  # (R, S, D): heads side by side
        return self.proj(out)

    def weights(self, x: Tensor) -> Tensor:
        """The attention that `forward` uses, as probabilities (R, h, S, S): row = query, column = key."""
        q, k, _ = self.split_heads(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


class Block(nn.Module):
    """A plain transformer block: every token attends to every token.

    Attributes:
        recompute_mlp: whether the backward pass computes the MLP again, to save memory, and norms before attention.
    """

    recompute_mlp = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn: Callable[..., HeadProjections] = Attention,
    ) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = attn(embed_dim, num_heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        hidden_dim = int(embed_dim * mlp_ratio)
        if hidden_dim < 1:
            raise ValueError(f"mlp_ratio must be > 0, got {mlp_ratio}")
        fc1, fc2 = nn.Linear(embed_dim, hidden_dim), nn.Linear(hidden_dim, embed_dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Tokens x (B, 1 + T*N, D) -> the same shape; one drop-path decision per clip."""
        return self.add_mlp(x + drop_path(self.attend(x, num_frames), self.drop, self.training))

    def add_mlp(self, x: Tensor) -> Tensor:
        """x plus its MLP; one drop-path decision per entry of the first dimension."""

        def branch(x: Tensor) -> Tensor:
            return self.mlp(self.norm2(x))

        out = _again(branch, x) if self.recompute_mlp and torch.is_grad_enabled() else branch(x)
        return x + drop_path(out, self.drop, self.training)

    def attend(self, x: Tensor, num_frames: int) -> Tensor:
        """The attention of the normalized x (B, 1 + T*N, D)."""
        return self.attend_normalized(self.attn, self.norm1, x)

    def attend_normalized(self, attn: HeadProjections, norm: nn.Module, x: Tensor) -> Tensor:
        """attn(norm(x)) of x (R, S, D)."""
        if type(attn) is Attention and self.recompute_mlp and torch.is_grad_enabled():
            # The backward pass stops before the product: it computes the norm alone again.
            return attn.mix(_again(lambda x: attn.qkv(norm(x)), x))
        return attn(norm(x))


def _again(branch: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """branch(x), which the backward pass computes again as far as it needs it; it must not be random."""
    return checkpoint(branch, x, use_reentrant=False, preserve_rng_state=False)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth of each of `depth` blocks: it grows linearly from 0 to that of the last block."""
    check_sizes(depth=depth)
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate must be >= 0 and < 1, got {last}")
    return [last * i / max(1, depth - 1) for i in range(depth)]


def check_clip(clip: Tensor, *, min_size: int, channels: int = 3) -> None:
    """Raise a ValueError unless `clip` is (B, C, T, H, W), floating-point, with frames of `min_size` pixels or more."""
    shape = tuple(clip.shape)
    if clip.ndim != 5 or clip.shape[1] != channels:
        way_out = ""
        if clip.ndim == 4 and clip.shape[0] == channels:
            way_out = "; add the batch dimension: clip.unsqueeze(0)"
        elif clip.ndim == 5 and clip.shape[2] == channels:
            way_out = "; this looks like (B, T, C, H, W): clip.transpose(1, 2)"
        elif clip.ndim in (4, 5) and clip.shape[-1] == channels:
            way_out = "; frames (T, H, W, C) become a clip by model.transforms()(frames).unsqueeze(0)"
        raise ValueError(f"a clip must be (B, C={channels}, T, H, W), got shape {shape}{way_out}")
    if not clip.is_floating_point():
        raise ValueError(
            f"a clip must be floating-point and normalized, got {clip.dtype}; model.transforms()(frames) makes one "
            "from uint8 frames (T, H, W, 3)"
        )
    if clip.shape[2] < 1 or clip.shape[3] < min_size or clip.shape[4] < min_size:
        raise ValueError(
            f"a clip must have at least 1 frame of {min_size} x {min_size} pixels, got (T, H, W) = {shape[2:]}"
        )


class PatchEmbed(nn.Module):
    """Cut every frame into square patches and embed each: (B, C, T, H, W) -> (B, T, N, D).

    H and W need not be multiples of `patch_size`: remaining pixels at the right and bottom edges are ignored.
    """

    def __init__(self, patch_size: int, embed_dim: int, in_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def grid(self, clip: Tensor) -> tuple[int, int]:
        """Rows and columns of patches in a frame of clip (B, C, T, H, W)."""
        patch = self.patch_size
        check_clip(clip, min_size=patch, channels=self.proj.in_channels)
        return clip.shape[3] // patch, clip.shape[4] // patch

    def forward(self, clip: Tensor) -> Tensor:
        """Embed all frames of the clip."""
        batch = clip.shape[0]
        frames = clip.transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W): every frame an image
        tokens = self.proj(frames).flatten(2).transpose(1, 2)  # (B*T, N, D): patches row by row
        return tokens.unflatten(0, (batch, -1))  # (B, T, N, D)


def grid_of(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patches of a frame of `img_size` pixels, (H, W) or one number for both."""
    check_sizes(patch_size=patch_size)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    check_sizes(img_size=height)
    check_sizes(img_size=width)
    if min(height, width) < patch_size:
        raise ValueError(f"img_size must hold a patch of {patch_size} pixels, got {img_size}")
    return height // patch_size, width // patch_size


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """The index among `old` positions for each of `new` ones, with the arithmetic of `F.interpolate`'s "nearest".

    For exported programs: ONNX's resize divides by the inverse ratio, and rounding can give another index.
    """
    return (torch.arange(new, dtype=torch.float32, device=device) * (old / new)).long()


def resize_grid(table: Tensor, old: tuple[int, int], new: tuple[int, int], mode: Interpolation) -> Tensor:
    """Stretch a table of patch positions (1, old_h * old_w, D), row by row, to (1, new_h * new_w, D)."""
    if not torch.compiler.is_exporting() and tuple(old) == tuple(new):  # an exported program takes every size
        return table
    if torch.compiler.is_exporting() and mode == "nearest":
        rows, columns = (_nearest(*sizes, table.device) for sizes in zip(old, new, strict=True))
        return table.unflatten(1, old)[:, rows][:, :, columns].flatten(1, 2)  # (1, new_h*new_w, D)
    image = table.unflatten(1, old).permute(0, 3, 1, 2)  # (1, D, old_h, old_w)
    return F.interpolate(image, size=new, mode=_MODES_2D[mode]).flatten(2).transpose(1, 2)  # (1, new_h*new_w, D)


def resize_time(table: Tensor, length: int, mode: Interpolation) -> Tensor:
    """Stretch a table of frame positions (1, T, D) to (1, length, D); "cubic" is not defined in one dimension."""
    if not torch.compiler.is_exporting() and table.shape[1] == length:
        return table
    if torch.compiler.is_exporting() and mode == "nearest":
        return table[:, _nearest(table.shape[1], length, table.device)]
    return F.interpolate(table.transpose(1, 2), size=length, mode=mode).transpose(1, 2)  # (1, length, D)


def init_weights(modules: Iterable[nn.Module]) -> None:
    """Initialize as vision transformers do: linear weights truncated normal (std 0.02), biases 0, norms 1 and 0."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
