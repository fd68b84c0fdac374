"""A folder of images, one a frame, read like a video."""

import os
import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import VideoReadError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class FrameFolder:
    """A video kept as a folder of JPEG or PNG files, in the order of the numbers in their names.

    Args:
        path: the folder.
        fps: frames per second; images do not carry it.
        num_frames: the first so many frames are the video; None takes all.

    Raises:
        VideoReadError: not a folder, no images in it, or fewer than `num_frames`.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float = 30.0, num_frames: int | None = None) -> None:
        self.path = str(path)
        self.fps = fps
        try:
            names = [entry.name for entry in os.scandir(self.path) if is_image(entry.name)]
        except OSError as error:
            raise VideoReadError(self.path, f"cannot be listed: {error.strerror}") from error
        if not names:
            raise VideoReadError(self.path, "a folder without images (.jpg, .jpeg, .png)")
        if num_frames is not None and len(names) < num_frames:
            raise VideoReadError(self.path, f"holds {len(names)} of the {num_frames} frames that the list gives it")
        self._names = sorted(names, key=_frame_order)[:num_frames]

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self._names)

    @property
    def pts(self) -> list[float]:
        """When each frame is shown, in seconds from the first."""
        return [i / self.fps for i in range(self.num_frames)]

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.fps

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """The frames asked for, in that order: uint8 RGB (len(indices), H, W, 3).

        Raises:
            IndexError: no such frame.
            VideoReadError: an image cannot be decoded, or is not of the first one's size.
        """
        for index in indices:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{self.path}: frame {index} of {self.num_frames} frames; count from 0")
        unique = sorted(set(indices))
        images = [self._read(index) for index in unique]
        for index, image in zip(unique, images, strict=True):
            if image.shape != images[0].shape:
                height, width, _ = image.shape
                first_height, first_width, _ = images[0].shape
                reason = f"{width}x{height} after {first_width}x{first_height}: frames of one size are needed"
                raise VideoReadError(self.path, f"{self._names[index]} is {reason}")
        if not images:
            return torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        place = {index: i for i, index in enumerate(unique)}
        return torch.from_numpy(np.stack([images[place[index]] for index in indices]))

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held open."""

    def _read(self, index: int) -> NDArray[np.uint8]:
        name = self._names[index]
        try:
            with Image.open(os.path.join(self.path, name)) as image:
                return np.asarray(image.convert("RGB"))  # (H, W, 3)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoReadError(self.path, f"{name} is not a readable image: {error}") from error


def is_image(name: str) -> bool:
    """Whether a file name is that of a frame: a visible file with an image's suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _frame_order(name: str) -> tuple[list[int], str]:
    # img_2 before img_10, whether or not the numbers are padded.
    return [int(digits) for digits in re.findall(r"\d+", os.path.splitext(name)[0])], name
