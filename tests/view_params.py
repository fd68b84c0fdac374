"""Parameters of views that change nothing."""

import torch

from svt_zoo.data.crops import ViewParams


def identity_params(num: int = 1) -> ViewParams:
    """For `num` views or frames: (num, ...) in every field."""
    one, off = torch.ones(num), torch.zeros(num, dtype=torch.bool)
    return ViewParams(
        box=torch.zeros(num, 4, dtype=torch.int64),
        flip=off,
        brightness=one,
        contrast=one,
        saturation=one,
        hue=torch.zeros(num),
        order=torch.arange(4).repeat(num, 1),
        gray=torch.zeros(num, dtype=torch.int64),
        sigma=torch.zeros(num),
        solarize=off,
    )
