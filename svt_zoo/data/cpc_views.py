"""CPC's view of a video: one short clip; the model predicts its last frames from its first frames."""

from collections.abc import Sequence

import numpy as np

from ..config import CPCViewsConfig
from .datasets import TrainViews
from .random_views import ViewSpec, ViewTransform
from .sampling import random_clips


class CPCSampler:
    """Chooses the frames of CPC's clip: `num_frames` frames, `frame_step` apart, from a random start.

    As in the original, the clip never uses the last `frame_step` frames of the video. The original drops videos that
    are too short; here their clip is spread over all frames.
    """

    def __init__(self, num_frames: int, frame_step: int) -> None:
        self.num_frames, self.frame_step = num_frames, frame_step

    def __call__(self, total: int, fps: float, rng: np.random.Generator) -> Sequence[Sequence[int]]:
        """Frame indices of the single view of a video of `total` frames."""
        starts = total - self.num_frames * self.frame_step
        if starts <= 0:
            return random_clips(total, self.num_frames, rng)
        start = int(rng.integers(starts))
        return [[start + k * self.frame_step for k in range(self.num_frames)]]


def cpc_train_views(views: CPCViewsConfig) -> TrainViews:
    """Builds CPC's single random view for a dataset."""
    strength = views.jitter_strength
    spec = ViewSpec(
        size=views.size,
        area=None,
        short_side=(views.scaled_side, views.scaled_side),
        hflip=views.hflip,
        jitter=1.0 if strength else 0.0,
        brightness=strength,
        contrast=strength,
        saturation=strength,
        hue=strength / 2,
        grayscale=views.grayscale,
        grayscale_by="channel",
        consistent_color=views.jitter == "clip",
    )
    return TrainViews(CPCSampler(views.num_frames, views.frame_step), [ViewTransform(spec)])
