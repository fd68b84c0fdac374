"""Resizing, cropping and flipping of clips (C, T, H, W) together with boxes (N, 4), for action detection.

A box is x1, y1, x2, y2 in pixels, as a tensor or a NumPy array. The boxes that come in are left alone.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..transforms import spatial_crop
from .clips import short_side_scale

Boxes = TypeVar("Boxes", Tensor, np.ndarray)


def clip_boxes_to_image(boxes: Boxes, height: int, width: int) -> Boxes:
    """Boxes cut off at the borders of a frame of `height` x `width` pixels."""
    clipped = _copy(boxes)
    clipped[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width - 1)
    clipped[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height - 1)
    return clipped


def crop_boxes(boxes: Boxes, x_offset: int, y_offset: int) -> Boxes:
    """Boxes as seen from a crop that starts at (x_offset, y_offset)."""
    cropped = _copy(boxes)
    cropped[:, [0, 2]] = boxes[:, [0, 2]] - x_offset
    cropped[:, [1, 3]] = boxes[:, [1, 3]] - y_offset
    return cropped


def short_side_scale_with_boxes(
    images: Tensor, boxes: Boxes, size: int, interpolation: str = "bilinear", backend: str = "pytorch"
) -> tuple[Tensor, Boxes]:
    """Resize the short side to `size` pixels, boxes with it."""
    scaled = short_side_scale(images, size, interpolation, backend)
    return scaled, boxes * (size / min(images.shape[-2:]))


def random_short_side_scale_with_boxes(
    images: Tensor,
    boxes: Boxes,
    min_size: int,
    max_size: int,
    interpolation: str = "bilinear",
    backend: str = "pytorch",
) -> tuple[Tensor, Boxes]:
    """Resize the short side to a length drawn from `min_size` to `max_size` pixels, boxes with it."""
    size = int(torch.randint(min_size, max_size + 1, (1,)))
    return short_side_scale_with_boxes(images, boxes, size, interpolation, backend)


def random_crop_with_boxes(images: Tensor, size: int, boxes: Boxes) -> tuple[Tensor, Boxes]:
    """Cut a random square; every place is equally likely, also the last, and boxes always come back."""
    height, width = images.shape[-2:]
    top = int(torch.randint(0, max(height - size, 0) + 1, (1,)))
    left = int(torch.randint(0, max(width - size, 0) + 1, (1,)))
    return _crop(images, size, boxes, top, left)


def uniform_crop_with_boxes(images: Tensor, size: int, spatial_idx: int, boxes: Boxes) -> tuple[Tensor, Boxes]:
    """Cut the left, centre or right square (top, centre, bottom if upright) for `spatial_idx` 0, 1 or 2."""
    top, left = spatial_crop(images.shape[-2], images.shape[-1], (size, size), crop=spatial_idx, num_crops=3)
    return _crop(images, size, boxes, top, left)


def horizontal_flip_with_boxes(prob: float, images: Tensor, boxes: Boxes) -> tuple[Tensor, Boxes]:
    """Flip clip and boxes with probability `prob`."""
    if float(torch.rand(1)) >= prob:
        return images, boxes
    flipped = _copy(boxes)
    flipped[:, [0, 2]] = images.shape[-1] - boxes[:, [2, 0]] - 1
    return images.flip(-1), flipped


def _crop(images: Tensor, size: int, boxes: Boxes, top: int, left: int) -> tuple[Tensor, Boxes]:
    cropped = images[..., top : top + size, left : left + size]
    return cropped, clip_boxes_to_image(crop_boxes(boxes, left, top), *cropped.shape[-2:])


def _copy(boxes: Boxes) -> Boxes:
    return boxes.clone() if isinstance(boxes, Tensor) else boxes.copy()
