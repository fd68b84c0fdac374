"""Random crops of training views: their settings, their drawn parameters, and the crop and resize in the worker.

A `ViewTransform` draws the parameters of a view, then crops and resizes it on uint8. The batch holds the parameters
too. `augment.Augment` then applies color jitter, blur, flip and normalization to the batch on the training device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from ..options import bounds
from .transforms import Frames

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # steps of the color jitter in ViewParams.order
_RATIO = (3 / 4, 4 / 3)  # width / height of a crop by area, drawn log-uniformly
_BLUR_SIGMA = (0.1, 2.0)  # range of the standard deviation of the blur, in pixels of the view


class Box(NamedTuple):
    """A crop in pixels of the source frame."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """Settings for the random transform of one view. The defaults are those of SVT's global view, without blur.

    Attributes:
        size: side of the square view in pixels.
        area: fraction of the frame area that the crop covers, drawn uniformly; None crops by `short_side`.
        short_side: with `area=None`, range in pixels for the short side before a `size` crop, as in TimeSformer and
            SlowFast. If both are None, the full frame is resized to the view: no spatial variation (SVT, table 5).
        hflip, jitter, grayscale, blur, solarize: probability of each.
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x.
        hue: shift is drawn from -x to x, as a fraction of the full hue circle (0 to 0.5).
        grayscale_by: "luma" weights the channels; "channel" repeats one random channel, as CPC does.
        interpolation, antialias: how the crop is resized.
        consistent: draw once per view; False draws everything for each frame (SVT, table 7).
        consistent_color: False draws the color jitter for each frame, but crop and flip once per view, as CPC does.
    """

    size: int = 224
    area: tuple[float, float] | None = (0.4, 1.0)
    short_side: tuple[int, int] | None = None
    hflip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.0
    grayscale: float = 0.2
    grayscale_by: Literal["luma", "channel"] = "luma"
    blur: float = 0.0
    solarize: float = 0.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    antialias: bool = True
    consistent: bool = True
    consistent_color: bool = True

    def __post_init__(self) -> None:
        bounds(self, "hflip", "jitter", "grayscale", "blur", "solarize", low=0, high=1)
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be (low, high) with 0 < low <= high <= 1, got {self.area}")
        if self.area is not None and self.short_side is not None:
            raise ValueError(f"area={self.area} and short_side={self.short_side} exclude each other; set one to None")
        if self.short_side is not None and not self.size <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(
                f"short_side must be (low, high) with low at least size={self.size}, got {self.short_side}"
            )


class ViewParams(NamedTuple):
    """The drawn parameters of one view: one entry per view (F = 1), or per frame if each has its own draw (F = T).

    `collate` stacks the fields of B views to (B, F), for `augment.Augment`.
    """

    box: Tensor  # (F, 4) int64: top, left, height, width in pixels of the source
    flip: Tensor  # (F,) bool
    brightness: Tensor  # (F,) float32 factor, 1 changes nothing
    contrast: Tensor  # (F,) float32 factor, 1 changes nothing
    saturation: Tensor  # (F,) float32 factor, 1 changes nothing
    hue: Tensor  # (F,) float32 fraction of the full hue circle, 0 changes nothing
    order: Tensor  # (F, 4) int64: the jitter's steps in the order they are applied
    gray: Tensor  # (F,) int64: 0 keeps the colors, 1 is luma, 2 / 3 / 4 repeat red / green / blue
    sigma: Tensor  # (F,) float32 standard deviation of the blur in pixels, 0 is none
    solarize: Tensor  # (F,) bool

    def to(self, device: torch.device | str) -> "ViewParams":
        """The same parameters on `device`."""
        return ViewParams(*(value.to(device, non_blocking=True) for value in self))


def draw_views(
    specs: Sequence[ViewSpec], height: int, width: int, num_frames: Sequence[int], rng: np.random.Generator
) -> list[ViewParams]:
    """Draws the parameters of views of frames of `height` x `width` pixels; `num_frames` is that of each view."""
    boxes, flips, colors, counts = [], [], [], []
    for spec, frames in zip(specs, num_frames, strict=True):
        frames_of_space = 1 if spec.consistent else frames
        frames_of_color = 1 if spec.consistent and spec.consistent_color else frames
        repeat = frames_of_color // frames_of_space  # so that all fields have the same F
        boxes += [_draw_box(spec, height, width, rng) for _ in range(frames_of_space)] * repeat
        flips += (rng.random(frames_of_space) < spec.hflip).tolist() * repeat
        colors += [_draw_color(spec, rng) for _ in range(frames_of_color)]
        counts.append(frames_of_color)
    strengths, orders, grays, solarized = zip(*colors, strict=True)
    # One tensor for all views, because creating tensors is the main cost of a draw.
    fields = (np.array(strengths, np.float32), *map(np.array, (boxes, flips, orders, grays, solarized)))
    split = zip(*(torch.from_numpy(values).split(counts) for values in fields), strict=True)
    return [_view_params(*view) for view in split]


def _view_params(
    strengths: Tensor, box: Tensor, flip: Tensor, order: Tensor, gray: Tensor, solarize: Tensor
) -> ViewParams:
    brightness, contrast, saturation, hue, sigma = strengths.unbind(1)  # (F,)
    return ViewParams(box, flip, brightness, contrast, saturation, hue, order, gray, sigma, solarize)


def draw_view(spec: ViewSpec, height: int, width: int, num_frames: int, rng: np.random.Generator) -> ViewParams:
    """Draws the parameters of one view of `num_frames` frames of `height` x `width` pixels."""
    return draw_views([spec], height, width, [num_frames], rng)[0]


def _draw_box(spec: ViewSpec, height: int, width: int, rng: np.random.Generator) -> Box:
    if spec.area is not None:
        return random_area_box(height, width, spec.area, _RATIO, rng)
    if spec.short_side is not None:
        return random_short_side_box(height, width, spec.size, spec.short_side, rng)
    return Box(0, 0, height, width)


def _draw_color(spec: ViewSpec, rng: np.random.Generator) -> tuple[tuple[float, ...], NDArray[np.int64], int, bool]:
    """Draws the strengths (brightness, contrast, saturation, hue, sigma), order (4,), gray and solarize of one frame.

    Always draws all numbers, so that no setting changes the other draws.
    """
    jitter, gray, blur, solarize = (rng.random(4) < (spec.jitter, spec.grayscale, spec.blur, spec.solarize)).tolist()
    limits = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    change = (rng.uniform(-1, 1, size=4) * limits * jitter).astype(np.float32)
    order = rng.permutation(4)
    channel = int(rng.integers(2, 5))
    strengths = (*(1 + change[:HUE]), change[HUE], rng.uniform(*_BLUR_SIGMA) * blur)
    return strengths, order, gray * (1 if spec.grayscale_by == "luma" else channel), solarize


class ViewTransform:
    """Draws a view, then crops and resizes it: frames (T, H, W, 3) become uint8 (T, size, size, 3) + `ViewParams`.

    `augment.Augment` applies the other parameters. All random values come from the generator of the call.
    """

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec

    def __call__(
        self, frames: Frames, rng: np.random.Generator, *, index: Sequence[int] | None = None
    ) -> tuple[Tensor, ViewParams]:
        """Makes one view of `frames`, or of the frames in `index`, so that all views can share decoded frames."""
        _, height, width, _ = frames.shape
        index = range(len(frames)) if index is None else index
        params = draw_view(self.spec, height, width, len(index), rng)
        return self.crop(frames, params.box, index), params

    def crop(self, frames: Frames, boxes: Tensor, index: Sequence[int]) -> Tensor:
        """Crops and resizes the frames in `index` by `boxes` (F, 4): one box for all frames, or one per frame."""
        if len(boxes) == 1 or (boxes == boxes[0]).all():
            return self.cut(frames, boxes[0].tolist(), index)
        parts = [self.cut(frames, box, [i]) for box, i in zip(boxes.tolist(), index, strict=True)]
        return torch.cat(parts)  # (T, size, size, 3)

    def cut(self, frames: Frames, box: Sequence[int], index: Sequence[int], size: int | None = None) -> Tensor:
        """Crops the frames in `index` with one box; resizes to `size`, by default the view's: (T, size, size, 3)."""
        kind, antialias = self.spec.interpolation, self.spec.antialias
        return crop_and_resize(
            frames, box, size or self.spec.size, index=index, interpolation=kind, antialias=antialias
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec})"


def random_area_box(
    height: int, width: int, area: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> Box:
    """Draws a box whose fraction of the frame area is uniform in `area` and whose width / height is in `ratio`.

    This is the loop of torchvision's RandomResizedCrop. The loop of SVT's released code does not stop at the first box
    that fits, which gives larger boxes in wide videos.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(area[0], area[1])
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def random_short_side_box(
    height: int, width: int, size: int, short_side: tuple[int, int], rng: np.random.Generator
) -> Box:
    """Draws the box of a random `size` crop after the short side is scaled to a random length in `short_side`.

    Cropping first and resizing once gives the same image, except that the box is rounded to integer pixels.
    """
    side = max(1, round(min(height, width) * size / int(rng.integers(short_side[0], short_side[1] + 1))))
    return Box(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def crop_and_resize(
    frames: Frames,
    box: Sequence[int],
    size: int | tuple[int, int],
    *,
    index: Sequence[int] | None = None,
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """Crops `box` from frames (T, H, W, 3) and resizes it to (T, height, width, 3) of the same dtype.

    uint8 in channels-last layout is 3 times as fast as channels first on one core, and 4 times as fast as float. uint8
    output is rounded and clamped. float32 with `antialias=False` equals the resize of SVT's released code.
    """
    top, left, height, width = box
    view = torch.as_tensor(frames)[:, top : top + height, left : left + width]
    repeats = None  # for each result, the row of its image
    if index is not None:
        if len(different := sorted(set(index))) < len(index):  # a view of a short video repeats frames
            row = {frame: n for n, frame in enumerate(different)}
            index, repeats = different, torch.tensor([row[frame] for frame in index])
        # It copies complete rows; view[index] copies single bytes and is ten times slower.
        view = view.index_select(0, torch.as_tensor(index, dtype=torch.int64))
    images: Tensor = v2.functional.resize(
        view.permute(0, 3, 1, 2),  # (T, 3, height, width), channels last in memory
        [size, size] if isinstance(size, int) else list(size),
        interpolation=v2.InterpolationMode(interpolation),
        antialias=antialias,
    )
    images = images.permute(0, 2, 3, 1)  # (T or fewer, size, size, 3)
    return images.contiguous() if repeats is None else images.index_select(0, repeats)
