"""Evaluation views of a video: clips at several times, crops at several positions, slow and fast clips."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from ..data.datasets import shared_frames
from ..data.pool import reason_of
from ..data.transforms import EvalTransform
from ..data.views import EvalViews, Indices, VideoViews, Views
from ..video import Limits, VideoReadError, open_video


def parse_views(spec: str, transform: EvalTransform) -> "EvalViews | SlowFastViews":
    """Parse the name of views: "3x1" is 3 crops x 1 clip, "slow-fast 3x1" the same for slow and fast clips.

    Raises:
        ValueError: the text has another format.
    """
    match = check_views(spec)
    num_crops, num_clips = cast(Literal[1, 3], int(match[2])), int(match[3])
    if match[1]:
        return SlowFastViews(transform, num_clips=num_clips, num_crops=num_crops)
    return EvalViews(transform, num_clips=num_clips, num_crops=num_crops)


def check_views(spec: str) -> re.Match[str]:
    """Match the name of views with slow-fast, crops and clips; raises ValueError for another text."""
    match = re.fullmatch(r"(slow-fast )?([13])x([1-9]\d*)", spec)
    if match is None:
        raise ValueError(
            f'views must be "CROPSxCLIPS" with 1 or 3 crops, as "1x1", "3x10" or "slow-fast 3x1", got {spec!r}'
        )
    return match


def refuse_fast_views(views: str, *, slow_fast: bool, where: str) -> None:
    """Refuse fast clips in the test of a network or a layer that was trained without them.

    Raises:
        ValueError: `views` contains fast clips although `slow_fast` is off, or is not the name of views.
    """
    check_views(views)
    if views.startswith("slow-fast") and not slow_fast:
        plain = views.removeprefix("slow-fast ")
        raise ValueError(f"{where}views={views!r} tests fast clips, but slow_fast=false; set {where}views={plain}")


def describe_views(value: Any) -> str:
    """Describe all settings of views in one line; equal views have equal descriptions."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(describe_views, value))}]"
    if hasattr(value, "__qualname__"):  # a function or a class
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__"):
        inside = ", ".join(f"{name}={describe_views(item)}" for name, item in vars(value).items())
        return f"{type(value).__name__}({inside})"
    return repr(value)


def fast_transform(slow: EvalTransform, *, num_frames: int = 64, crop_size: int = 96) -> EvalTransform:
    """Return a transform with more and smaller frames, for the same time span and the same region of the frame.

    It turns 8x32 at 224 pixels into 64x4 at 96 pixels. SVT, section 3.4, states 64 frames but not their rate.
    """
    rate = slow.sampling_rate
    changes = {
        "num_frames": num_frames,
        "sampling_rate": None if rate is None else rate * slow.num_frames / num_frames,
        "crop_size": crop_size,
        "resize_size": round(slow.resize_size * crop_size / min(slow.crop_size)),
    }
    return EvalTransform(**{**vars(slow), **changes})


class SlowFastViews:
    """Slow clips (few large frames) and fast clips (many small frames) of the same time windows, for one network.

    All views of the slow transform come first, then all of the fast one. `extract` averages or sums the outputs of the
    network for both (SVT, section 3.4).

    Args:
        slow: the network's own transform.
        fast: by default `fast_transform(slow)`.
        num_clips, num_crops: of each of the two, as in `EvalViews`.
    """

    def __init__(
        self,
        slow: EvalTransform,
        fast: EvalTransform | None = None,
        *,
        num_clips: int = 1,
        num_crops: Literal[1, 3] = 3,
    ) -> None:
        transforms = (slow, fast or fast_transform(slow))
        self.paths = [EvalViews(each, num_clips=num_clips, num_crops=num_crops) for each in transforms]

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of the slow views, then of the fast ones; nothing is random."""
        return [view for path in self.paths for view in path.indices(total, fps, rng)]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Float views (3, T, H, W) of two shapes, without parameters."""
        half = len(places) // 2
        slow, fast = self.paths
        both = slow.make(frames, places[:half], rng).views + fast.make(frames, places[half:], rng).views
        return VideoViews(both, [])


def load_views(
    video: str | Path | Tensor, views: Views, *, limits: Limits | None = None, fps: float = 30.0
) -> list[Tensor]:
    """Load the evaluation views of one video, each (3, T, H, W); every frame is decoded once.

    Args:
        video: a file, or uint8 frames (T, H, W, 3) or (T, 3, H, W) at `fps` frames per second.
        views: the views to make.
        limits: as in `open_video`.
        fps: used for frames only; a file has its own.

    Raises:
        VideoReadError: the file cannot be read, for any reason.
    """
    rng = np.random.default_rng(0)  # views by name draw nothing
    if isinstance(video, Tensor):
        return views.make(video, views.indices(len(video), fps, rng), rng)[0]
    with faults_as_read_errors(video):
        with open_video(video, limits=limits) as reader:
            frames, places = shared_frames(reader, views.indices(reader.num_frames, reader.fps, rng))
        return views.make(frames, places, rng)[0]


@contextmanager
def faults_as_read_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Context manager that turns any exception into `VideoReadError`: a fault of one file ends no run."""
    try:
        yield
    except VideoReadError:
        raise
    except Exception as error:
        raise VideoReadError(path, reason_of(error)) from error
