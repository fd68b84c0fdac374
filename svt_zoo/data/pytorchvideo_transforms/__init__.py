"""The transforms of PyTorchVideo on current torchvision, under their names and signatures.

`pytorchvideo.transforms` 0.1.5 cannot be imported with a torchvision of today. Code written for it runs with

    from svt_zoo.data.pytorchvideo_transforms import ApplyTransformToKey, Normalize, UniformTemporalSubsample

in place of `from pytorchvideo.transforms import ...`, and gives the same clips for the same seed. Clips are
(C, T, H, W) unless a transform says otherwise. Mistakes raise ValueError instead of AssertionError. Where the
original is wrong, this differs, and the docstring of the transform says how.
"""

from .factory import create_video_transform
from .mix import CutMix, MixUp, MixVideo
from .policies import AugMix, OpSampler, RandAugment
from .transforms import (
    ApplyTransformToKey,
    ConvertFloatToUint8,
    ConvertUint8ToFloat,
    Div255,
    MoveChannelFront,
    MoveChannelRear,
    Normalize,
    Permute,
    RandomResizedCrop,
    RandomShortSideScale,
    RemoveKey,
    ShortSideScale,
    UniformCropVideo,
    UniformTemporalSubsample,
    UniformTemporalSubsampleRepeated,
)

__all__ = [
    "ApplyTransformToKey",
    "AugMix",
    "ConvertFloatToUint8",
    "ConvertUint8ToFloat",
    "CutMix",
    "Div255",
    "MixUp",
    "MixVideo",
    "MoveChannelFront",
    "MoveChannelRear",
    "Normalize",
    "OpSampler",
    "Permute",
    "RandAugment",
    "RandomResizedCrop",
    "RandomShortSideScale",
    "RemoveKey",
    "ShortSideScale",
    "UniformCropVideo",
    "UniformTemporalSubsample",
    "UniformTemporalSubsampleRepeated",
    "create_video_transform",
]
