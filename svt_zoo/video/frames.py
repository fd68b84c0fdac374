"""Videos stored as folders of images, one image per frame."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import VideoReadError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class FrameFolder:
    """A folder of JPEG or PNG files, read like a video. The numbers in the file names give the order.

    Args:
        path: the folder.
        fps: frames per second; images do not store it.
        num_frames: number of frames to use from the start; None for all.

    Raises:
        VideoReadError: the path is not a folder, or it holds no images or fewer than `num_frames`.
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
        if num_frames is not None and num_frames < 1:
            raise VideoReadError(self.path, f"num_frames must be >= 1, the list gives it {num_frames}")
        if num_frames is not None and len(names) < num_frames:
            raise VideoReadError(self.path, f"holds {len(names)} of the {num_frames} frames that the list gives it")
        self._names = sorted(names, key=_frame_order)[:num_frames]

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self._names)

    @property
    def pts(self) -> list[float]:
        """Presentation time of each frame, in seconds from the first frame."""
        return [i / self.fps for i in range(self.num_frames)]

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.fps

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """Reads frames by index.

        Returns:
            uint8 RGB (len(indices), H, W, 3), in the order of `indices`.

        Raises:
            IndexError: an index is out of range.
            VideoReadError: an image cannot be decoded, or the images differ in size.
        """
        for index in indices:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{self.path}: index must be 0 to {self.num_frames - 1}, got {index}")
        images = dict(self._decode(sorted(set(indices))))
        if not images:
            return torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        return torch.from_numpy(np.stack([images[index] for index in indices]))

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        """Does nothing: no file is open."""

    def _decode(self, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yields (index, RGB uint8 (H, W, 3)), one image at a time; all must have the size of the first."""
        size = None
        for index in indices:
            image = self._read(index)
            height, width, _ = image.shape
            size = size or (width, height)
            if (width, height) != size:
                reason = f"{self._names[index]} is {width}x{height}, an earlier frame {size[0]}x{size[1]}"
                raise VideoReadError(self.path, f"{reason}; all frames must have one size")
            yield index, image

    def _read(self, index: int) -> NDArray[np.uint8]:
        name = self._names[index]
        try:
            with Image.open(os.path.join(self.path, name)) as image:
                return np.asarray(image.convert("RGB"))  # (H, W, 3)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoReadError(self.path, f"{name} is not a readable image: {error}") from error


def is_image(name: str) -> bool:
    """Whether a file name is a frame's: not hidden, with the suffix of an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _frame_order(name: str) -> tuple[list[int], str]:
    # img_2 sorts before img_10, with or without padding.
    return [int(digits) for digits in re.findall(r"\d+", os.path.splitext(name)[0])], name
