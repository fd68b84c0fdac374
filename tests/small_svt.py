"""A small SVT, batches for it, and a network of one's own to train with it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svt_zoo.batch import Batch
from svt_zoo.methods import SVT, SVTConfig
from svt_zoo.models import Backbone, Features
from svt_zoo.models.timesformer import timesformer

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_frames": 8}
HEAD = {"out_dim": 40, "hidden_dim": 24, "bottleneck_dim": 12}
SHAPES = [(4, 32), (8, 32), (2, 16), (2, 16), (4, 16), (8, 16)]  # (frames, pixels): 2 global views, 4 local


def tiny_svt(drop_path_rate: float = 0.0, **options: Any) -> SVT:
    torch.manual_seed(0)
    return svt_of(timesformer(**TINY, drop_path_rate=drop_path_rate), **options)


def svt_of(backbone: Backbone, *, epochs: float = 4, num_global: int = 2, **options: Any) -> SVT:
    """SVT with a small head."""
    return SVT(backbone, SVTConfig(**{**HEAD, **options}), epochs=epochs, num_global=num_global)


def make_batch(views: Sequence[Tensor]) -> Batch:
    size = len(views[0])
    return Batch(views=list(views), labels=torch.full((size,), -1), video_index=torch.arange(size))


def random_batch(shapes: Sequence[tuple[int, int]] = SHAPES, size: int = 2, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return make_batch([torch.randn(size, 3, t, hw, hw, generator=generator) for t, hw in shapes])


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


class SmallCNN(Backbone):
    """What somebody may bring: three dimensional convolutions with batch normalization, no token anywhere."""

    embed_dim, num_frames, patch_size = 16, 4, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 3, stride=2, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU())

    def forward(self, clip: Tensor) -> Features:
        maps = self.body(self.stem(clip))  # (B, D, T', H', W')
        return Features(maps.mean(dim=(2, 3, 4)), maps.flatten(3).permute(0, 2, 3, 1))
