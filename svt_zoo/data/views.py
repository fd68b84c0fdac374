"""Views of a video: those of pre-training (SVT, CPC), random, and those of evaluation, fixed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from ..options import bounds
from . import sampling
from .crops import ViewSpec, ViewTransform, draw_views
from .flow import FlowLabels
from .transforms import EvalTransform

Indices = Sequence[Sequence[int]]  # the frames of each view


class VideoViews(NamedTuple):
    """The result of `Views.make`: views, the random parameters of each, and targets of the first view by name."""

    views: list[Tensor]
    params: list[Any]
    targets: dict[str, Tensor] = {}  # noqa: RUF012 - never changed


class Views(Protocol):
    """Interface for views of one video: chooses the frames of each view and transforms them."""

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each view of a video of `total` frames."""
        ...

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Makes the views and the parameters of each from frames (n, H, W, 3); `places` are the rows of each view."""
        ...


class EvalViews:
    """Fixed views: `num_clips` clips spread over the video, `num_crops` crops of each; ordered by clip, then crop.

    Three crops cover the complete frame: the short side is resized to the crop size. This is SlowFast's protocol, also
    used by TimeSformer, SVT and TIME. For a single crop, the short side is resized to the transform's `resize_size`.
    """

    def __init__(self, transform: EvalTransform, *, num_clips: int = 1, num_crops: Literal[1, 3] = 1) -> None:
        self.transform = transform if num_crops == 1 else transform.resized(min(transform.crop_size))
        self.num_clips = num_clips
        self.num_crops = num_crops

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each clip, repeated for each crop; nothing is random."""
        clips = [
            self.transform.clip_indices(total, fps=fps, clip=clip, num_clips=self.num_clips)
            for clip in range(self.num_clips)
        ]
        return [clip for clip in clips for _ in range(self.num_crops)]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Float views (3, T, H, W), without parameters."""
        views = [
            self.transform(frames[list(place)], crop=i % self.num_crops, num_crops=self.num_crops)
            for i, place in enumerate(places)
        ]
        return VideoViews(views, [])


@dataclass(eq=False)
class TrainViews:
    """Random views: `sampler(total, fps, rng)` returns the frame indices of each view, and each view has a transform.

    `flow` makes the target "flow" of the first view. All must be picklable, so that workers can be spawned.
    """

    sampler: Callable[[int, float, np.random.Generator], Indices]
    transforms: Sequence[ViewTransform]
    flow: FlowLabels | None = field(default=None, kw_only=True)

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each view, from the sampler.

        Raises:
            ValueError: the numbers of views and transforms differ.
        """
        indices = self.sampler(total, fps, rng)
        if len(indices) != len(self.transforms):
            raise ValueError(f"the sampler makes {len(indices)} views, there are {len(self.transforms)} transforms")
        return indices

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Makes one view and its parameters with each transform."""
        # All draws come first: after a resize, which fills the caches of the processor, a draw takes 3 times as long.
        specs, (height, width) = [transform.spec for transform in self.transforms], frames.shape[1:3]
        params = draw_views(specs, height, width, [len(place) for place in places], rng)
        triples = zip(self.transforms, params, places, strict=True)
        views = [transform.crop(frames, drawn.box, place) for transform, drawn, place in triples]
        if self.flow is None:
            return VideoViews(views, params)
        return VideoViews(views, params, {"flow": self.flow(views[0], flip=bool(params[0].flip[0]))})


@dataclass(frozen=True)
class ViewsConfig:
    """SVT's views of a video (SVT section 3.2; tables 5 to 7 are the ablations).

    Attributes:
        sampling: "paper" draws the views from the full video. "code", as the authors' release, draws them from one
            random window of 8.5 seconds and ignores spans and frame counts; see `rand_fr`. "cvrl" draws the two
            global views with CVRL's interval (table 6); the local views are the paper's.
        global_frames, local_frames: frames of each view; their length is the number of views.
        global_span, local_span: fraction of the video that a view covers.
        global_size, local_size: pixels of the square views.
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        blur_and_solarize: apply both, as in the paper. The authors' released code, which trained the published weights,
            calls them without effect, and the authors state that they hardly matter.
        spatial_variation: False gives all views the full frame (table 5).
        temporal_variation: False gives all views the same seconds (table 5).
        consistent: False draws the augmentation for each frame separately (table 7).
        rand_fr: for "code": 4 and 8 frames in the global views, 2 to 16 in the local ones, instead of 8 in all.
        mean, std: normalization on the scale [0, 1].
    """

    sampling: Literal["paper", "code", "cvrl"] = "paper"
    global_frames: tuple[int, int] = (8, 16)
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    global_span: float = 0.9
    local_span: float = 0.125
    global_size: int = 224
    local_size: int = 96
    hflip: float = 0.5
    blur_and_solarize: bool = False
    spatial_variation: bool = True
    temporal_variation: bool = True
    consistent: bool = True
    rand_fr: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        bounds(self, "global_frames", "local_frames", "global_size", "local_size", low=1)
        bounds(self, "global_span", "local_span", above=0, high=1)
        bounds(self, "hflip", low=0, high=1)
        bounds(self, "std", above=0)
        if self.rand_fr and self.sampling != "code":
            raise ValueError(f'rand_fr=true needs sampling="code", got sampling="{self.sampling}"')
        if not self.temporal_variation and self.sampling != "paper":
            raise ValueError(f'temporal_variation=false needs sampling="paper", got sampling="{self.sampling}"')

    def sample(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame indices of all views, global views first, of a video of `total` frames at `fps` frames per second."""
        if self.sampling == "code":
            python = random.Random(int(rng.integers(2**63)))  # the release draws from Python's generator
            window = sampling.clip_window(8, 32, fps)
            return sampling.svt_views_code(total, python, rand_fr=self.rand_fr, window=window)
        num_frames = (*self.global_frames, *self.local_frames)
        spans = [self.global_span] * len(self.global_frames) + [self.local_span] * len(self.local_frames)
        views = sampling.span_clips(total, rng, num_frames, spans, same=not self.temporal_variation)
        if self.sampling == "cvrl":
            views[:2] = sampling.cvrl_interval_clips(total, rng, num_frames=self.global_frames)
        return views

    def specs(self) -> list[ViewSpec]:
        """Settings of the two global views and the local views, as intended in the authors' `transform.py`."""
        num_local = 8 if self.sampling == "code" else len(self.local_frames)
        first = ViewSpec(size=self.global_size, hflip=self.hflip, blur=1.0, consistent=self.consistent)
        second = replace(first, blur=0.1, solarize=0.2)
        local = replace(first, size=self.local_size, area=(0.05, 0.4), blur=0.5)
        specs = [first, second, *[local] * num_local]
        if not self.spatial_variation:
            specs = [replace(spec, area=None, size=self.global_size) for spec in specs]
        if not self.blur_and_solarize:
            specs = [replace(spec, blur=0.0, solarize=0.0) for spec in specs]
        return specs


@dataclass(frozen=True)
class CPCViewsConfig:
    """The clip of CPC: context frames, followed by the frames to predict.

    Attributes:
        context_frames: frames that are encoded as context.
        pred_frames: frames that are predicted.
        frame_step: distance between two frames of the clip, in frames of the video.
        size: pixels of the square clip.
        short_side: pixels of the short side before the crop; null is `size` x 240 / 224, as in the original.
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        jitter: draw the color jitter once per "clip", or for each "frame" as in the original.
        jitter_strength: strength x of brightness, contrast and saturation (factors 1 - x to 1 + x); the hue has x / 2.
        grayscale: probability that one channel replaces all three.
        mean, std: normalization on the scale [0, 1].
    """

    context_frames: int = 5
    pred_frames: int = 3
    frame_step: int = 3
    size: int = 224
    short_side: int | None = None
    hflip: float = 0.5
    jitter: Literal["clip", "frame"] = "clip"
    jitter_strength: float = 0.5
    grayscale: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        bounds(self, "context_frames", "pred_frames", "frame_step", "size", low=1)
        bounds(self, "short_side", low=self.size)
        bounds(self, "hflip", "jitter_strength", "grayscale", low=0, high=1)
        bounds(self, "std", above=0)

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return self.context_frames + self.pred_frames

    @property
    def scaled_side(self) -> int:
        """Pixels of the short side before the crop."""
        return round(self.size * 240 / 224) if self.short_side is None else self.short_side

    def sample(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame indices of the single view: `num_frames` frames, `frame_step` apart, from a random start.

        As in the original, the clip never uses the last `frame_step` frames of the video. The original drops videos
        that are too short; here their clip is spread over all frames.
        """
        num_starts = total - self.num_frames * self.frame_step
        if num_starts <= 0:
            return sampling.random_clips(total, self.num_frames, rng)
        start = int(rng.integers(num_starts))
        return [[start + k * self.frame_step for k in range(self.num_frames)]]

    def specs(self) -> list[ViewSpec]:
        """Settings of the single view."""
        strength = self.jitter_strength
        return [
            ViewSpec(
                size=self.size,
                area=None,
                short_side=(self.scaled_side, self.scaled_side),
                hflip=self.hflip,
                jitter=1.0 if strength else 0.0,
                brightness=strength,
                contrast=strength,
                saturation=strength,
                hue=strength / 2,
                grayscale=self.grayscale,
                grayscale_by="channel",
                consistent_color=self.jitter == "clip",
            )
        ]


def train_views(views: ViewsConfig | CPCViewsConfig, *, flow: FlowLabels | None = None) -> TrainViews:
    """Builds the random views of a pre-training recipe; `flow` labels the first view of SVT."""
    return TrainViews(views.sample, [ViewTransform(spec) for spec in views.specs()], flow=flow)
