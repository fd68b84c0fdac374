"""The evaluation transform of a network: which frames a clip has, and how they become the input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..options import bounds
from .sampling import clip_window, random_clips, tsn_eval_clip, tsn_train_clip, uniform_clip

Frames = Tensor | np.ndarray  # uint8 (T, H, W, 3), as the video reader returns them


@dataclass(frozen=True)
class ClipConfig:
    """The input clip of the network; null uses the clip of the weights, or SVT's where the weights have none.

    Attributes:
        num_frames: frames of a clip, over the same duration unless `sampling_rate` changes it.
        sampling_rate: a clip lasts `num_frames` x `sampling_rate` frames of a video with 30 frames per second;
            "segments" spreads its frames over the full video (Something-Something).
        resize_size: pixels of the short side before the crop.
        crop_size: pixels of the square crop.
        mean, std: normalization on the scale [0, 1].
    """

    num_frames: int | None = None
    sampling_rate: float | Literal["segments"] | None = None
    resize_size: int | None = None
    crop_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        bounds(self, "num_frames", "resize_size", "crop_size", low=1)
        bounds(self, "sampling_rate", "std", above=0)
        bounds(self, "mean")


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the short side is resized to `size` pixels; the long side is rounded down."""
    if height < width:
        return size, math.floor(width / height * size)
    return math.floor(height / width * size), size


def spatial_crop(
    height: int, width: int, size: tuple[int, int], *, crop: int = 0, num_crops: int = 1
) -> tuple[int, int]:
    """Top and left of crop `crop` of `num_crops`, spread evenly along the long side; a single crop is the center.

    If the margin is odd, the extra pixel is above or to the left, as in SlowFast and SVT.
    """
    if not 0 <= crop < num_crops:
        raise ValueError(f"crop must be 0 to {num_crops - 1} for num_crops={num_crops}, got {crop}")
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} pixels does not fit frames of {height}x{width}; "
            "raise resize_size or lower crop_size"
        )
    position = crop / (num_crops - 1) if num_crops > 1 else 0.5
    down, right = (position, 0.5) if height > width else (0.5, position)
    return math.ceil((height - size[0]) * down), math.ceil((width - size[1]) * right)


class EvalTransform:
    """The deterministic evaluation transform of a model: chooses frames and converts them to the input.

    `clip_indices` returns the frame numbers of a clip. A call converts frames to float32 (3, T, H, W): resize the short
    side to `resize_size`, crop, scale to [0, 1], `(x - mean) / std`. The resize is bilinear without antialiasing, and
    rounds the long side down, as in the evaluations of SVT, TimeSformer and SlowFast. Mean and std have the order of
    the output channels, so with `channel_order="BGR"` the first number belongs to blue.

    Args:
        num_frames: number of frames in a clip.
        sampling_rate: a clip covers `num_frames * sampling_rate` frames of a video at `fps` frames per second. Its
            frames are spread evenly from the first to the last, as in SlowFast and SVT: 8x32 is 8 frames, about 36
            apart, in 256. None spreads them over the complete video.
        crop_size: side of the square crop in pixels, or (height, width).
        resize_size: length of the short side before cropping, in pixels.
        mean, std: of each channel, on the scale [0, 1].
        channel_order: order of the color channels in the output; input frames are RGB.
        fps: frame rate that `sampling_rate` refers to.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        sampling_rate: float | None,
        crop_size: int | tuple[int, int],
        resize_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: Literal["RGB", "BGR"] = "RGB",
        fps: float = 30.0,
    ) -> None:
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}")
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean and std need 3 numbers each, got {tuple(mean)} and {tuple(std)}")
        self.num_frames = num_frames
        self.sampling_rate = sampling_rate
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        self.resize_size = resize_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.channel_order = channel_order
        self.fps = fps
        if min(self.crop_size) > resize_size:
            raise ValueError(f"crop_size {crop_size} does not fit a short side of resize_size={resize_size} pixels")

    def resized(self, resize_size: int) -> "EvalTransform":
        """The same transform with another `resize_size`."""
        return EvalTransform(**{**vars(self), "resize_size": resize_size})

    def clip_indices(self, total: int, *, fps: float, clip: int = 0, num_clips: int = 1) -> list[int]:
        """Frame numbers of clip `clip` of `num_clips` in a video of `total` frames at `fps` per second.

        A clip covers `num_frames * sampling_rate / self.fps` seconds of any video; a single clip lies in the center.
        Without a sampling rate, it has the middles of equal segments of the video (TSN), a second clip their starts.
        """
        if self.sampling_rate is None:
            if not 0 <= clip < num_clips <= 2:
                raise ValueError(f"segments of the full video give 1 or 2 clips, got clip {clip} of {num_clips}")
            return tsn_eval_clip(total, self.num_frames, at="start" if clip else "middle")
        return uniform_clip(total, self.num_frames, window=self.window(fps), clip=clip, num_clips=num_clips)

    def random_clip_indices(self, total: int, *, fps: float, rng: np.random.Generator) -> list[int]:
        """Frame numbers of a training clip: a random window as long as in `clip_indices`, or one frame per segment."""
        if self.sampling_rate is None:
            return tsn_train_clip(total, self.num_frames, rng)
        return random_clips(total, self.num_frames, rng, window=self.window(fps))[0]

    def window(self, fps: float) -> float | None:
        """Length of a clip in frames of a video at `fps` per second; None for the complete video."""
        if self.sampling_rate is None:
            return None
        return clip_window(self.num_frames, self.sampling_rate, fps, target_fps=self.fps)

    def __call__(self, frames: Frames, *, crop: int = 0, num_crops: int = 1) -> Tensor:
        """Converts uint8 RGB frames (T, H, W, 3) or (T, 3, H, W) to float32 (3, T, crop height, crop width).

        `frames` is an array or a tensor. `crop` counts from the left or the top; a single crop is the center.

        Raises:
            ValueError: the frames have another shape or type, or the crop does not exist.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]) or frames.dtype != torch.uint8:
            shape = f"{frames.dtype} {tuple(frames.shape)}"
            raise ValueError(f"frames must be uint8 (T, H, W, 3) or (T, 3, H, W), as `frames_at` returns, got {shape}")
        if frames.shape[3] != 3:
            frames = frames.permute(0, 2, 3, 1)  # (T, H, W, 3)
        num_frames, height, width, _ = frames.shape
        size = short_side_size(height, width, self.resize_size)
        crop_h, crop_w = self.crop_size
        top, left = spatial_crop(*size, (crop_h, crop_w), crop=crop, num_crops=num_crops)
        clip = frames.new_empty((3, num_frames, crop_h, crop_w), dtype=torch.float32)
        for t, frame in enumerate(frames.permute(0, 3, 1, 2)):  # one float frame in memory at a time
            image = frame.unsqueeze(0).float()
            if size != (height, width):
                image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            clip[:, t] = image[0, :, top : top + crop_h, left : left + crop_w]
        if self.channel_order == "BGR":
            clip = clip.flip(0)
        mean = torch.tensor(self.mean, device=clip.device).view(3, 1, 1, 1)
        std = torch.tensor(self.std, device=clip.device).view(3, 1, 1, 1)
        return clip.div_(255).sub_(mean).div_(std)

    def __repr__(self) -> str:
        return f"EvalTransform({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
