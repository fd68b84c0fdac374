"""All functions that `pytorchvideo.transforms.functional` offers: those of clips, and those that also move boxes."""

from .boxes import (
    clip_boxes_to_image,
    crop_boxes,
    horizontal_flip_with_boxes,
    random_crop_with_boxes,
    random_short_side_scale_with_boxes,
    short_side_scale_with_boxes,
    uniform_crop_with_boxes,
)
from .clips import (
    convert_to_one_hot,
    div_255,
    random_resized_crop,
    short_side_scale,
    uniform_crop,
    uniform_temporal_subsample,
    uniform_temporal_subsample_repeated,
)

__all__ = [
    "clip_boxes_to_image",
    "convert_to_one_hot",
    "crop_boxes",
    "div_255",
    "horizontal_flip_with_boxes",
    "random_crop_with_boxes",
    "random_resized_crop",
    "random_short_side_scale_with_boxes",
    "short_side_scale",
    "short_side_scale_with_boxes",
    "uniform_crop",
    "uniform_crop_with_boxes",
    "uniform_temporal_subsample",
    "uniform_temporal_subsample_repeated",
]
