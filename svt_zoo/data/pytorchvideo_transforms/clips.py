"""Functions on clips (C, T, H, W), as `pytorchvideo.transforms.functional` names them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..transforms import random_area_box, short_side_size, spatial_crop

_ALIGNED_MODES = ("linear", "bilinear", "bicubic", "trilinear")  # the modes that know align_corners


def uniform_temporal_subsample(x: Tensor, num_samples: int, temporal_dim: int = -3) -> Tensor:
    """Take `num_samples` frames spread evenly from the first to the last; a short clip repeats frames."""
    frames = x.shape[temporal_dim]
    if num_samples < 1 or frames < 1:
        raise ValueError(f"num_samples and the clip need at least 1 frame, got {num_samples} and {frames}")
    indices = torch.linspace(0, frames - 1, num_samples).clamp(0, frames - 1).long()
    return x.index_select(temporal_dim, indices.to(x.device))


def uniform_temporal_subsample_repeated(
    frames: Tensor, frame_ratios: Sequence[int], temporal_dim: int = -3
) -> list[Tensor]:
    """One clip a pathway (SlowFast): for each ratio, a share of 1 / ratio of the frames, spread evenly."""
    length = frames.shape[temporal_dim]
    return [uniform_temporal_subsample(frames, length // ratio, temporal_dim) for ratio in frame_ratios]


def short_side_scale(x: Tensor, size: int, interpolation: str = "bilinear", backend: str = "pytorch") -> Tensor:
    """Resize frames so that their short side has `size` pixels; the long side is rounded down.

    Raises ValueError for another backend than "pytorch": PyTorchVideo's "opencv" is not offered.
    """
    if backend != "pytorch":
        raise ValueError(f"backend must be 'pytorch', got {backend!r}")
    if x.ndim != 4:
        raise ValueError(f"short_side_scale takes a clip (C, T, H, W), got {tuple(x.shape)}")
    size_2d = short_side_size(x.shape[-2], x.shape[-1], size)
    return _resize(x, size_2d, interpolation)


def uniform_crop(images: Tensor, size: int, spatial_idx: int) -> Tensor:
    """Cut the left, centre or right square (top, centre, bottom if upright) for `spatial_idx` 0, 1 or 2."""
    top, left = spatial_crop(images.shape[-2], images.shape[-1], (size, size), crop=spatial_idx, num_crops=3)
    return images[..., top : top + size, left : left + size]


def random_resized_crop(
    frames: Tensor,
    target_height: int,
    target_width: int,
    scale: tuple[float, float],
    aspect_ratio: tuple[float, float],
    shift: bool = False,
    log_uniform_ratio: bool = True,
    interpolation: str = "bilinear",
    num_tries: int = 10,
) -> Tensor:
    """Cut a random box and resize it; with `shift` the box moves from one draw to another through the clip.

    Args:
        frames: clip (C, T, H, W), float.
        target_height: height of the result in pixels.
        target_width: width of the result in pixels.
        scale: share of the frame that the box covers, drawn uniformly.
        aspect_ratio: width / height of the box.
        shift: draw a box for the first and one for the last frame, and go from one to the other.
        log_uniform_ratio: draw the ratio log-uniformly, otherwise uniformly.
        interpolation: a mode of `torch.nn.functional.interpolate`.
        num_tries: draws before the largest centred box is taken.
    """
    if min(*scale, *aspect_ratio) <= 0 or num_tries < 1:
        raise ValueError(
            f"scale, aspect_ratio and num_tries must be greater than 0, got {scale}, {aspect_ratio} and {num_tries}"
        )
    num_frames, height, width = frames.shape[1:]
    area, ratio, size = sorted(scale), sorted(aspect_ratio), (target_height, target_width)

    def draw() -> Tensor:
        box = random_area_box(height, width, area, ratio, _TorchDraws(), log_ratio=log_uniform_ratio, tries=num_tries)
        return torch.tensor(box, dtype=torch.float32)

    first = draw()
    if not shift:
        return _resize(_cut(frames, first), size, interpolation)
    last = draw()
    shares = torch.linspace(0, 1, num_frames)
    crops = [
        _resize(_cut(frames[:, t : t + 1], first + share * (last - first)), size, interpolation)
        for t, share in enumerate(shares)
    ]
    return torch.cat(crops, dim=1)  # (C, T, target_height, target_width)


def convert_to_one_hot(targets: Tensor, num_class: int, label_smooth: float = 0.0) -> Tensor:
    """Labels (B,) as rows (B, num_class) of which `label_smooth` is spread over all classes."""
    if not 0 <= label_smooth < 1:
        raise ValueError(f"label_smooth must be 0 or more and below 1, got {label_smooth}")
    if targets.max() >= num_class:
        raise ValueError(f"labels must be below num_class={num_class}, got {int(targets.max())}")
    one_hot = F.one_hot(targets.long().flatten(), num_class)
    return one_hot if label_smooth == 0 else one_hot * (1 - label_smooth) + label_smooth / num_class


def div_255(x: Tensor) -> Tensor:
    """Scale [0, 255] to [0, 1]."""
    return x / 255.0


class _TorchDraws:
    """Random numbers of torch's global generator, which PyTorchVideo's users seed."""

    def uniform(self, low: float, high: float, /) -> float:
        return low + float(torch.rand(1)) * (high - low)

    def integers(self, high: int, /) -> int:
        return int(torch.randint(0, high, (1,)))


def _cut(frames: Tensor, box: Tensor) -> Tensor:
    top, left, height, width = (int(value) for value in box)
    return frames[:, :, top : top + height, left : left + width]


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode in _ALIGNED_MODES else None)
