"""Token features of videos and of their controls, from one decode pass: float16, in memory-mapped files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Failure
from ..data.transforms import EvalTransform
from ..data.views import EvalViews, Indices, VideoViews
from ..device import clip_dtype
from ..models import Backbone, Features, ZooModel
from .features import Compute, prepare, weights_sha256
from .shards import ShardFolder

Control = Literal["static", "shuffled", "reversed", "random", "thumbnail"]
Key = tuple[str, int]  # a condition ("input" or a control), and a layer counted from 1; 0 is the network's output


@dataclass(frozen=True)
class TokenConfig:
    """What is stored of each video.

    Attributes:
        controls: "static" repeats the middle frame, "shuffled" and "reversed" change the order of the frames, "random"
            is the same network with random weights, "thumbnail" is 12 x 12 pixels of the median frame. "reversed" tests
            the probe of the input on reversed clips; all others are trained and tested on the control.
        layers: blocks to probe, counted from 1; none probes the output of the network.
        frames, grid: the tokens are the means of at most frames x grid x grid cells of the patches.
    """

    controls: tuple[Control, ...] = ("static", "shuffled", "reversed", "random", "thumbnail")
    layers: tuple[int, ...] = ()
    frames: int = 8
    grid: int = 2

    def keys(self) -> list[Key]:
        """All conditions and layers, in the order of the columns; a thumbnail has no layers."""
        layers = sorted(self.layers) or [0]
        return [(name, n) for name in ("input", *self.controls) for n in (layers if name != "thumbnail" else [0])]


class Thumbnail(Backbone):
    """12 x 12 pixels of the median frame: colors and layout of the scene, no motion."""

    embed_dim, num_frames, patch_size = 3 * 3 * 3, 8, 5
    cls_dim = 3 * 12 * 12

    def __init__(self, **options: Any) -> None:
        super().__init__()  # options are for other networks in the same recipe

    def forward(self, clip: Tensor) -> Features:
        """The class feature is the full picture (B, 432); the patches are its 4 x 4 squares (B, 1, 16, 27)."""
        small = F.adaptive_avg_pool2d(clip.median(dim=2).values, 12)  # (B, 3, 12, 12)
        return Features(small.flatten(1), F.unfold(small, 3, stride=3).mT.unsqueeze(1))


class ClipAndShuffled:
    """Views of a video: its center clip, and the frames of this clip in another, random order."""

    def __init__(self, transform: EvalTransform) -> None:
        self.center = EvalViews(transform)

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of the center clip."""
        return self.center.indices(total, fps, rng)

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Two float views (3, T, H, W), without parameters."""
        [clip] = self.center.make(frames, places, rng).views
        order = rng.permutation(clip.shape[1])
        if (order[:-1] < order[1:]).all():
            order = np.roll(order, 1)
        return VideoViews([clip, clip[:, torch.from_numpy(order)]], [])


class Part(NamedTuple):
    """The place of one condition and layer in a row: from `start`, a class feature (C,), then tokens (S, D)."""

    start: int
    cls_dim: int
    tokens: tuple[int, ...]

    @property
    def end(self) -> int:
        """The column after the last."""
        return self.start + self.cls_dim + math.prod(self.tokens)


class TokenCompute(Compute):
    """Computes one row per video: class features and pooled tokens of all conditions and layers, side by side."""

    def __init__(
        self, network: ZooModel, untrained: ZooModel, options: TokenConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(network, "none", device, dtype, "float16")
        self.untrained = prepare(untrained, device, dtype)[0]
        self.thumbnail = Thumbnail()
        self.options = options
        self.settings = {"weights_sha256": weights_sha256(network), "untrained_sha256": weights_sha256(untrained)}
        self.settings |= {"dtype": str(dtype), "transform": repr(network.transforms())}
        self.settings |= {field.name: str(getattr(options, field.name)) for field in fields(TokenConfig)}

    def pooled(self, views: Sequence[Tensor]) -> Tensor:
        """Rows (n, P) of the two views of `ClipAndShuffled`."""
        outputs = self._outputs(self.options.keys(), *views)
        return torch.cat([part.flatten(1).float() for output in outputs for part in output], dim=1)

    @torch.inference_mode()
    def parts(self, transform: EvalTransform) -> dict[Key, Part]:
        """The columns of each condition and layer; the network runs once, on an empty clip."""
        clip = torch.zeros(1, 3, transform.num_frames, *transform.crop_size, device=self.device)
        clip = clip.to(clip_dtype(self.dtype))
        keys, parts, start = self.options.keys(), dict[Key, Part](), 0
        shown = [key for key in keys if key[0] in ("input", "thumbnail")]
        shapes = dict(zip(shown, self._outputs(shown, clip, clip), strict=True))
        for name, layer in keys:
            cls, tokens = shapes[name if name == "thumbnail" else "input", layer]
            parts[name, layer] = Part(start, cls.shape[1], tuple(tokens.shape[1:]))
            start = parts[name, layer].end
        return parts

    def _outputs(self, keys: Sequence[Key], clip: Tensor, shuffled: Tensor) -> Iterator[Features]:
        """Class feature and pooled tokens (n, S, D) of each key; layers of one condition are computed together."""
        middle = clip.shape[2] // 2
        layers = [layer - 1 for layer in sorted(self.options.layers)]
        for name in dict.fromkeys(name for name, _ in keys):
            shown = {"static": clip[:, :, middle : middle + 1].expand_as(clip), "shuffled": shuffled}.get(name, clip)
            shown = clip.flip(2) if name == "reversed" else shown
            network: Any = {"random": self.untrained, "thumbnail": self.thumbnail}.get(name, self.network)
            if layers and name != "thumbnail":
                outputs = network.forward_intermediates(shown, layers, norm=True)
            else:
                outputs = [network(shown)]
            for cls, patches in outputs:
                yield Features(cls, pool_tokens(patches.float(), self.options.frames, self.options.grid))


def pool_tokens(patches: Tensor, frames: int, grid: int) -> Tensor:
    """Means of patches (B, T, N, D) in at most `frames` x `grid` x `grid` cells: (B, S, D)."""
    side = math.isqrt(patches.shape[2])
    is_square = side * side == patches.shape[2]
    cells = patches.permute(0, 3, 1, 2).unflatten(3, (side, side) if is_square else (1, -1))  # (B, D, T, h, w)
    time, height, width = cells.shape[2:]
    size = (min(frames, time), min(grid, height), min(grid if is_square else grid * grid, width))
    return F.adaptive_avg_pool3d(cells, size).flatten(2).mT  # (B, S, D)


class Tokens:
    """The rows of features of the readable videos of a list; only what is asked for is read from the disk."""

    def __init__(self, folder: ShardFolder, parts: dict[Key, Part]) -> None:
        self.parts = parts
        self.video_index: list[int] = []
        self.missing: list[Failure] = []
        self._rows: list[Tensor] = []
        for shard in folder.read():
            good = [row.video_index for row in shard.rows if row.error is None]
            self.video_index += good
            self._rows += shard.features.unbind() if good else ()  # views of the file in memory
            failed = [row for row in shard.rows if row.error is not None]
            self.missing += [Failure(folder.videos.rows[row.video_index].path, row.error or "") for row in failed]

    def cls(self, key: Key, rows: Tensor) -> Tensor:
        """Class features (n, C) of these rows, float32."""
        part = self.parts[key]
        return self._read(rows, part.start, part.start + part.cls_dim)

    def tokens(self, key: Key, rows: Tensor) -> Tensor:
        """Tokens (n, S, D) of these rows, float32."""
        part = self.parts[key]
        return self._read(rows, part.start + part.cls_dim, part.end).unflatten(1, part.tokens)

    def _read(self, rows: Tensor, start: int, end: int) -> Tensor:
        return torch.stack([self._rows[row][start:end] for row in rows.tolist()]).float()
