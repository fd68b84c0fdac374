"""CPC's network: a ResNet for every frame, a transformer over all tokens, a ConvGRU over time.

The network of "SSL for Video Understanding" (2025). It is CPCTR's (Liu et al., Neurocomputing 482, 2022) with two
layers of four heads, and derives from DPC (Han et al., ICCV workshops 2019).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Backbone, GradCheckpointing
from .layers import Attention, Features, check_choice, check_clip, check_sizes

Pool = Literal["tokens", "context"]
STRIDE = 32  # pixels per position of the ResNet's map, along either side
# Depths of the stages, whether the blocks are bottlenecks, and embed_dim, the width of the last stage as in DPC.
RESNETS: dict[str, tuple[tuple[int, int, int, int], bool, int]] = {
    "resnet18": ((2, 2, 2, 2), False, 256),
    "resnet34": ((3, 4, 6, 3), False, 256),
    "resnet50": ((3, 4, 6, 3), True, 1024),
    "resnet101": ((3, 4, 23, 3), True, 1024),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; as a bottleneck 1x1, 3x3 and 1x1, the last four times as wide, as in torchvision."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool, final_relu: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            layers = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            layers = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        self.num_layers, self.final_relu = len(layers), final_relu
        for number, layer in enumerate(layers, 1):
            self.add_module(f"conv{number}", _conv(*layer))
            self.add_module(f"bn{number}", nn.BatchNorm2d(layer[1]))
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (R, C, h, w) -> (R, D, h / stride, w / stride)."""
        out = x
        for number in range(1, self.num_layers + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            out = F.relu(out) if number < self.num_layers else out
        out = out + self.downsample(x)
        return F.relu(out) if self.final_relu else out


class FrameResNet(nn.Module):
    """Images (R, 3, H, W) -> maps (R, embed_dim, ceil(H / 32), ceil(W / 32)), whose values may be negative.

    He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in torchvision's layout and names, with two
    changes of DPC: the last stage is as wide as the one before it, and the last block ends without ReLU.

    Args:
        depths: number of blocks in each of the four stages.
        embed_dim: channels of the last two stages; the first two have a quarter and a half of them.
        bottleneck: the kind of blocks.
    """

    def __init__(self, depths: Sequence[int], embed_dim: int, *, bottleneck: bool) -> None:
        super().__init__()
        expansion = 4 if bottleneck else 1
        width, rest = divmod(embed_dim, 4 * expansion)
        if rest or width < 1:
            raise ValueError(f"embed_dim of this ResNet must be a multiple of {4 * expansion}, got {embed_dim}")
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, (depth, factor, stride) in enumerate(zip(depths, (1, 2, 4, 4), (1, 2, 2, 2), strict=True), 1):
            blocks = nn.Sequential()
            for index in range(depth):
                last = stage == 4 and index == depth - 1
                step = stride if index == 0 else 1
                blocks.append(ResidualBlock(inputs, factor * width, step, bottleneck=bottleneck, final_relu=not last))
                inputs = factor * width * expansion
            self.add_module(f"layer{stage}", blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps of R images."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def orthogonal_conv(inputs: int, outputs: int, kernel_size: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map size, initialized with orthogonal weights and zero bias."""
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
    nn.init.orthogonal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ConvGRU(nn.Module):
    """One layer of a GRU (Cho et al. 2014) with convolutions (Ballas et al., ICLR 2016): a state at every position.

    Args:
        in_channels: channels C of the input maps.
        hidden_dim: channels D of the state.
        kernel_size: odd; 1 processes every position independently.
        dropout: fraction of the state's values dropped at each training step; they stay dropped.
    """

    def __init__(self, in_channels: int, hidden_dim: int, *, kernel_size: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_dim, self.dropout = hidden_dim, dropout
        self.reset_gate, self.update_gate, self.out_gate = (
            orthogonal_conv(in_channels + hidden_dim, hidden_dim, kernel_size) for _ in range(3)
        )

    def step(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The state (B, D, h, w) after the next map x (B, C, h, w); None is the state before the first map."""
        if state is None:
            state = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        both = torch.cat((x, state), dim=1)  # (B, C + D, h, w)
        update, reset = torch.sigmoid(self.update_gate(both)), torch.sigmoid(self.reset_gate(both))
        new = torch.tanh(self.out_gate(torch.cat((x, state * reset), dim=1)))
        return F.dropout(state * (1 - update) + new * update, self.dropout, self.training)

    def forward(self, maps: Tensor) -> Tensor:
        """The states (B, T, D, h, w) after each of the maps (B, T, C, h, w); the last state depends on all maps."""
        states: list[Tensor] = []
        for x in maps.unbind(1):
            states.append(self.step(x, states[-1] if states else None))
        return torch.stack(states, dim=1)


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
        resnet: one of `RESNETS`.
        embed_dim: width D of tokens and of the ConvGRU's state; by default the ResNet's, 256 or 1024.
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
        resnet: str,
        *,
        embed_dim: int | None = None,
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
        grad_checkpointing: GradCheckpointing = False,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, Pool)
        check_sizes(num_frames=num_frames, img_size=img_size, depth=depth, mlp_dim=mlp_dim)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be >= 0 and < 1, got {dropout}")
        depths, bottleneck, resnet_dim = RESNETS[resnet]
        embed_dim = resnet_dim if embed_dim is None else embed_dim
        self.embed_dim, self.num_frames, self.img_size, self.patch_size = embed_dim, num_frames, img_size, STRIDE
        self.relu, self.positions, self.pool = relu, positions, pool
        heads = max(1, embed_dim // 64) if num_heads is None else num_heads
        check_sizes(embed_dim=embed_dim)
        self.resnet = FrameResNet(depths, embed_dim, bottleneck=bottleneck)
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
        self.set_grad_checkpointing(grad_checkpointing)

    def grid(self, clip: Tensor) -> tuple[int, int]:
        """Rows and columns of the map of one frame of clip (B, 3, T, H, W)."""
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
        return self._transformer_input(self.frame_features(clip), self.grid(clip)), None

    def _transformer_input(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
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
        num_frames, num_patches = frames.shape[1:3]
        x = self._transformer_input(frames, grid)
        mask = None
        if causal:
            frame = torch.arange(num_frames, device=x.device).repeat_interleave(num_patches)  # (T*N,)
            mask = frame[:, None] >= frame[None, :]
        for block in self.blocks:
            x = self.run_block(block, x, mask)
        return self.norm(x).unflatten(1, (num_frames, num_patches))  # (B, T, N, D)

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, 3, T, H, W); all frames attend to each other."""
        grid = self.grid(clip)
        patches = self.tokens(self.frame_features(clip), grid)
        cls = patches.mean(dim=(1, 2)) if self.pool == "tokens" else self._gru_state(patches, grid).mean(dim=(2, 3))
        if self.final_bn is not None:
            cls = F.dropout(self.final_bn(cls), 0.5, self.training)
        return Features(cls, patches)

    def context(self, clip: Tensor) -> Tensor:
        """CPC's context: the ConvGRU's state (B, D, h, w) after the last frame of clip (B, 3, T, H, W)."""
        grid = self.grid(clip)
        return self._gru_state(self.tokens(self.frame_features(clip), grid), grid)

    def _gru_state(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
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
