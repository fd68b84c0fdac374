"""Sections of recipes that belong to no single method: data, views, network, clip, run."""

from dataclasses import dataclass
from typing import Literal

from ..options import bounds


@dataclass(frozen=True)
class DataConfig:
    """The videos, and how they are read.

    Attributes:
        train: list or folder of the training videos, in any format that `read_list` knows; a path or a URL.
        val: list or folder of the evaluation videos.
        root: folder that the paths in the lists are relative to; by default the folder of each list.
        format: the format of the lists; "auto" detects it.
        where_train: rows to take from a table with columns, such as "split=train,set=ucf101".
        where_val: rows to take from the table of the evaluation videos.
        labels: file of class names.
        validation_fraction: fraction of the training groups of each class to hold out and evaluate on instead of `val`,
            to choose a recipe without looking at the test videos; 0 evaluates on `val`.
        subset: number of training videos to keep, drawn by the seed; null keeps all.
        allow_overlap: allow a training list that shares files or groups with the evaluation list.
        frame_rate: frames per second of frame folders, which do not store it.
        num_workers: processes that read videos; null is one per core, at most 8.
        batch_size: videos per batch in each process.
        max_failure_fraction: fraction of the training list that may be unreadable in an epoch before the run stops.
    """

    train: str = ""
    val: str = ""
    root: str | None = None
    format: str = "auto"
    where_train: str | None = None
    where_val: str | None = None
    labels: str | None = None
    validation_fraction: float = 0.0
    subset: int | None = None
    allow_overlap: bool = False
    frame_rate: float = 30.0
    num_workers: int | None = None
    batch_size: int = 8
    max_failure_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be >= 0 and < 1, got {self.validation_fraction}")


@dataclass(frozen=True)
class ViewsConfig:
    """SVT's views of a video (SVT section 3.2; tables 5 to 7 are the ablations).

    Attributes:
        sampling: "paper" draws the views from the full video. "code", as the authors' release, draws them from one
            random window of 8.5 seconds and ignores spans and frame counts; see `rand_fr`. "cvrl" draws two clips with
            CVRL's interval (table 6).
        global_frames, local_frames: frames of each view; their length is the number of views.
        global_span, local_span: fraction of the video that a view covers.
        global_size, local_size: pixels of the square views.
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        blur_and_solarize: apply both, as in the paper. The authors' released code, which trained the published weights,
            calls them without effect, and the authors state that they hardly matter.
        spatial_variation, temporal_variation: False gives all views the full frame, or the same seconds (table 5).
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
        if self.rand_fr and self.sampling != "code":
            raise ValueError(f'rand_fr=true needs sampling="code", got sampling="{self.sampling}"')
        if not self.temporal_variation and self.sampling != "paper":
            raise ValueError(f'temporal_variation=false needs sampling="paper", got sampling="{self.sampling}"')


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
        bounds(self, "context_frames", "pred_frames", "frame_step", low=1)

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return self.context_frames + self.pred_frames

    @property
    def scaled_side(self) -> int:
        """Pixels of the short side before the crop."""
        return round(self.size * 240 / 224) if self.short_side is None else self.short_side


@dataclass(frozen=True)
class FinetuneViewsConfig:
    """The random clip of a training video: a random window, a random crop at a random scale, a flip.

    Attributes:
        short_side: range of the short side before the crop, in pixels; null is 1 to 1.25 times the clip's `resize_size`
            (256 to 320).
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        policy: torchvision's RandAugment or AutoAugment, the same for all frames of a clip.
        slow_fast: use a slow and a fast clip of the same window and crop (SVT section 3.4).
    """

    short_side: tuple[int, int] | None = None
    hflip: float = 0.5
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    slow_fast: bool = True

    def __post_init__(self) -> None:
        if self.slow_fast and self.policy != "none":
            raise ValueError(f"policy={self.policy} needs a single clip; set views.slow_fast=false")


@dataclass(frozen=True)
class ClipConfig:
    """The input clip of the network; null uses the clip of the weights, or SVT's where the weights have none.

    Attributes:
        num_frames: frames of a clip, over the same duration unless `sampling_rate` changes it.
        sampling_rate: a clip lasts `num_frames` x `sampling_rate` frames of a video with 30 frames per second;
            "segments" spreads its frames over the full video (Something-Something).
        resize_size: pixels of the short side before the crop.
        crop_size: pixels of the square crop.
        mean, std: normalization on the scale [0, 1].
    """

    num_frames: int | None = None
    sampling_rate: float | Literal["segments"] | None = None
    resize_size: int | None = None
    crop_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
