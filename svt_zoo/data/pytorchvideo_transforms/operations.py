"""The operations that RandAugment and AugMix draw from, on all frames of a clip at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F


def apply_operation(name: str, video: Tensor, argument: float, fill: Sequence[float]) -> Tensor:
    """Apply the operation `name` to frames (T, C, H, W), float on the scale [0, 1] or uint8.

    `fill`, on the scale [0, 1], goes where a shift or a rotation uncovers the edge. Raises ValueError for an
    unknown name.
    """
    is_uint8 = video.dtype == torch.uint8
    height, width = video.shape[-2:]
    edge = [255 * value for value in fill] if is_uint8 else list(fill)
    result: Tensor
    match name:
        case "AdjustBrightness":
            result = F.adjust_brightness(video, argument)
        case "AdjustContrast":
            result = F.adjust_contrast(video, argument)
        case "AdjustSaturation":
            result = F.adjust_saturation(video, argument)
        case "AdjustSharpness":
            result = F.adjust_sharpness(video, argument)
        case "AutoContrast":
            result = F.autocontrast(video)
        case "Equalize":
            result = _on_uint8(F.equalize, video)
        case "Invert":
            result = F.invert(video)
        case "Rotate":
            result = F.rotate(video, argument, interpolation=InterpolationMode.BILINEAR, fill=edge)
        case "Posterize":
            result = _on_uint8(lambda x: F.posterize(x, int(argument)), video)
        case "Solarize":
            result = F.solarize(video, int(argument * 255) if is_uint8 else argument)
        case "ShearX":
            result = _affine(video, edge, shear=(argument, 0))
        case "ShearY":
            result = _affine(video, edge, shear=(0, argument))
        case "TranslateX":
            result = _affine(video, edge, translate=(-argument * width, 0))
        case "TranslateY":
            result = _affine(video, edge, translate=(0, -argument * height))
        case _:
            raise ValueError(f"unknown operation {name!r}; known are those of RandAugment, such as 'ShearX'")
    return result


def _affine(
    video: Tensor,
    fill: list[float],
    *,
    translate: tuple[float, float] = (0, 0),
    shear: tuple[float, float] = (0, 0),
) -> Tensor:
    """Shift by pixels, or shear by a slope around the top left corner."""
    moved: Tensor = F.affine(
        video,
        angle=0.0,
        translate=list(translate),
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        center=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
        fill=fill,
    )
    return moved


def _on_uint8(operation: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    """Apply an operation that counts grey levels to frames of any type."""
    if video.dtype == torch.uint8:
        return operation(video)
    return (operation((video * 255).to(torch.uint8)) / 255).to(video.dtype)
