"""Transforms of clips (C, T, H, W) and of sample dictionaries, as `pytorchvideo.transforms` names them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from . import clips

Sample = dict[str, Any]  # PyTorchVideo's: "video", "label", "video_name", ...


class ApplyTransformToKey:
    """Replaces the value of `key` in a sample by what `transform` makes of it."""

    def __init__(self, key: str, transform: Callable[[Any], Any]) -> None:
        self._key = key
        self._transform = transform

    def __call__(self, x: Sample) -> Sample:
        """Change the sample in place and return it."""
        x[self._key] = self._transform(x[self._key])
        return x


class RemoveKey(nn.Module):
    """Takes `key` out of a sample, if it is there."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def forward(self, x: Sample) -> Sample:
        """Change the sample in place and return it."""
        x.pop(self._key, None)
        return x


class UniformTemporalSubsample(nn.Module):
    """Takes `num_samples` frames spread evenly from the first to the last; a short clip repeats frames."""

    def __init__(self, num_samples: int, temporal_dim: int = -3) -> None:
        super().__init__()
        self._num_samples = num_samples
        self._temporal_dim = temporal_dim

    def forward(self, x: Tensor) -> Tensor:
        """(C, T, H, W) becomes (C, num_samples, H, W)."""
        return clips.uniform_temporal_subsample(x, self._num_samples, self._temporal_dim)


class UniformTemporalSubsampleRepeated(nn.Module):
    """One clip a pathway (SlowFast): for each ratio, a share of 1 / ratio of the frames, spread evenly."""

    def __init__(self, frame_ratios: Sequence[int], temporal_dim: int = -3) -> None:
        super().__init__()
        self._frame_ratios = frame_ratios
        self._temporal_dim = temporal_dim

    def forward(self, x: Tensor) -> list[Tensor]:
        """(C, T, H, W) becomes one (C, T // ratio, H, W) for each ratio."""
        return clips.uniform_temporal_subsample_repeated(x, self._frame_ratios, self._temporal_dim)


class ShortSideScale(nn.Module):
    """Resizes frames so that their short side has `size` pixels; the long side is rounded down."""

    def __init__(self, size: int, interpolation: str = "bilinear", backend: str = "pytorch") -> None:
        super().__init__()
        self._size = size
        self._interpolation = interpolation
        self._backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """Resize a clip (C, T, H, W)."""
        return clips.short_side_scale(x, self._size, self._interpolation, self._backend)


class RandomShortSideScale(nn.Module):
    """Resizes the short side to a length drawn from `min_size` to `max_size` pixels, both included."""

    def __init__(self, min_size: int, max_size: int, interpolation: str = "bilinear", backend: str = "pytorch") -> None:
        super().__init__()
        self._min_size = min_size
        self._max_size = max_size
        self._interpolation = interpolation
        self._backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """Resize a clip (C, T, H, W)."""
        size = int(torch.randint(self._min_size, self._max_size + 1, (1,)))
        return clips.short_side_scale(x, size, self._interpolation, self._backend)


class UniformCropVideo(nn.Module):
    """Cuts the left, centre or right square of a sample's clip, as the sample's `aug_index_key` says (0, 1, 2)."""

    def __init__(self, size: int, video_key: str = "video", aug_index_key: str = "aug_index") -> None:
        super().__init__()
        self._size = size
        self._video_key = video_key
        self._aug_index_key = aug_index_key

    def forward(self, x: Sample) -> Sample:
        """Change the sample in place and return it."""
        x[self._video_key] = clips.uniform_crop(x[self._video_key], self._size, x[self._aug_index_key])
        return x


class RandomResizedCrop(nn.Module):
    """Cuts a random box and resizes it; see `functional.random_resized_crop`."""

    def __init__(
        self,
        target_height: int,
        target_width: int,
        scale: tuple[float, float],
        aspect_ratio: tuple[float, float],
        shift: bool = False,
        log_uniform_ratio: bool = True,
        interpolation: str = "bilinear",
        num_tries: int = 10,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "target_height": target_height,
            "target_width": target_width,
            "scale": scale,
            "aspect_ratio": aspect_ratio,
            "shift": shift,
            "log_uniform_ratio": log_uniform_ratio,
            "interpolation": interpolation,
            "num_tries": num_tries,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(C, T, H, W) becomes (C, T, target_height, target_width)."""
        return clips.random_resized_crop(x, **self._options)


class Normalize(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        super().__init__()
        self.mean = mean
        self.std = std
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a float clip (C, T, H, W)."""
        frames = v2.functional.normalize(x.transpose(0, 1), list(self.mean), list(self.std), self.inplace)
        return frames.transpose(0, 1)  # (C, T, H, W)


class Div255(nn.Module):
    """Scales [0, 255] to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale a clip of any shape."""
        return clips.div_255(x)


class ConvertUint8ToFloat(nn.Module):
    """Turns uint8 into float32 on the scale [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Convert a clip of any shape; ValueError if it is not uint8."""
        if x.dtype != torch.uint8:
            raise ValueError(f"ConvertUint8ToFloat takes uint8, got {x.dtype}")
        return v2.functional.to_dtype(x, torch.float32, scale=True)


class ConvertFloatToUint8(nn.Module):
    """Turns floats on the scale [0, 1] into uint8."""

    def forward(self, x: Tensor) -> Tensor:
        """Convert a clip of any shape; ValueError if it is neither float32 nor float16."""
        if x.dtype not in (torch.float32, torch.float16):
            raise ValueError(f"ConvertFloatToUint8 takes float32 or float16, got {x.dtype}")
        return v2.functional.to_dtype(x, torch.uint8, scale=True)


class Permute(nn.Module):
    """Reorders the dimensions of a clip."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        if sorted(dims) != list(range(len(dims))):
            raise ValueError(f"dims must hold each of 0 to {len(dims) - 1} once, got {tuple(dims)}")
        self._dims = tuple(dims)

    def forward(self, x: Tensor) -> Tensor:
        """Permute `x` by the dims of the constructor."""
        return x.permute(*self._dims)


class MoveChannelRear(Permute):
    """Turns (C, T, H, W) into (T, H, W, C)."""

    def __init__(self) -> None:
        super().__init__((1, 2, 3, 0))


class MoveChannelFront(Permute):
    """Turns (T, H, W, C) into (C, T, H, W)."""

    def __init__(self) -> None:
        super().__init__((3, 0, 1, 2))
