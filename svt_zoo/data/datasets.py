"""A list of videos as a dataset: each index gives the views of one video, the same in any worker or process."""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Failure
from ..video import Limits, VideoReadError, open_video
from ..video.frames import FrameFolder
from .failures import reason_of
from .flow import FlowLabels
from .lists import Row, VideoList
from .remote import is_url, local_path
from .sampling import replacement_index, sample_rng
from .transforms import EvalTransform

Indices = Sequence[Sequence[int]]  # the frames of each view


class Made(NamedTuple):
    """What was made of one video: its views, what was drawn for each, and targets of the first by name."""

    views: list[Tensor]
    params: list[Any]
    targets: dict[str, Tensor] = {}  # noqa: RUF012 - never changed


class Views(Protocol):
    """What is made of one video: which frames each view shows, and what becomes of them."""

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each view of a video of `total` frames."""
        ...

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> tuple[list[Tensor], list[Any]] | Made:
        """Views, and what was drawn for each, from frames (n, H, W, 3); `places` are the rows that each view shows."""
        ...


class FrameReader(Protocol):
    """What a dataset needs of an open video: an `EncodedVideo`, a `FrameFolder`, or a reader of your own."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        ...

    @property
    def pts(self) -> Sequence[float]:
        """When each frame is shown, in seconds from the first."""
        ...

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """Frames by number, uint8 RGB (len(indices), H, W, 3); raises `VideoReadError`."""
        ...

    def __enter__(self) -> "FrameReader": ...

    def __exit__(self, *exception: object) -> None: ...


class TrainViews:
    """Random views: `sampler(total, fps, rng)` gives the frames of each, and each has a transform.

    Args:
        sampler: frame indices of all views of a video, such as `svt_views`; module-level, so that
            workers can be spawned.
        transforms: one a view, `ViewTransform` or the like: `(frames, rng, index=rows) -> (view, what was drawn)`.
        flow: makes the target "flow" of the first view, in which all frames have one crop and flip.
    """

    def __init__(
        self,
        sampler: Callable[[int, float, np.random.Generator], Indices],
        transforms: Sequence[Callable[..., tuple[Tensor, Any]]],
        *,
        flow: FlowLabels | None = None,
    ) -> None:
        self.sampler = sampler
        self.transforms = list(transforms)
        self.flow = flow

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each view, from the sampler.

        Raises:
            ValueError: the sampler made another number of views than there are transforms.
        """
        indices = self.sampler(total, fps, rng)
        if len(indices) != len(self.transforms):
            raise ValueError(f"the sampler makes {len(indices)} views, there are {len(self.transforms)} transforms")
        return indices

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> Made:
        """One view a transform, and its parameters."""
        made = [transform(frames, rng, index=place) for transform, place in zip(self.transforms, places, strict=True)]
        views, params = [view for view, _ in made], [params for _, params in made]
        if self.flow is None:
            return Made(views, params)
        return Made(views, params, {"flow": self.flow(views[0], flip=bool(params[0].flip[0]))})


class EvalViews:
    """Fixed views: `num_clips` clips spread over the video, `num_crops` crops of each; crop by crop within a clip.

    Three crops cover the whole frame: its short side becomes the crop's, as in SlowFast's protocol, which TimeSformer,
    SVT and TIME share. A single one is cut from a short side of the transform's `resize_size`.
    """

    def __init__(self, transform: EvalTransform, *, num_clips: int = 1, num_crops: Literal[1, 3] = 1) -> None:
        self.transform = transform if num_crops == 1 else transform.resized(min(transform.crop_size))
        self.num_clips = num_clips
        self.num_crops = num_crops

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of each clip, once a crop; nothing is drawn."""
        clips = [
            self.transform.clip_indices(total, fps=fps, clip=clip, num_clips=self.num_clips)
            for clip in range(self.num_clips)
        ]
        return [clip for clip in clips for _ in range(self.num_crops)]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> tuple[list[Tensor], list[Any]]:
        """Float views (3, T, H, W), without parameters."""
        views = [
            self.transform(frames[list(place)], crop=i % self.num_crops, num_crops=self.num_crops)
            for i, place in enumerate(places)
        ]
        return views, []


class VideoDataset(Dataset[dict[str, Any]]):
    """Views of the videos of a list.

    `dataset[index]`, or `dataset[epoch, index]` as the loader's sampler asks, is a dictionary in PyTorchVideo's words:
    `video` (a view, or the list of several), `label` (-1 for none), `video_name`, `video_index`, `clip_index`, and
    `params`, `targets`, `failures`. Everything drawn depends on (seed, epoch, index) alone.

    In training, a video that cannot be read is replaced by the next of a fixed sequence for (seed, epoch, index);
    `video_index` and `label` are then those of the stand-in. In evaluation nothing is replaced and nothing depends on
    the epoch: `video` is None. Either way `failures` lists what failed and why; any exception counts as a failure.

    Args:
        videos: the list.
        views: what to make of a video.
        train: replace what cannot be read; draw anew in each epoch.
        seed: of everything that is drawn.
        cache_dir: where files behind URLs are kept, as in `local_path`.
        max_attempts: so many videos in a row may fail before a training sample gives up, without a video.
        open_row: opens a row of the list; your own for other kinds of storage. It raises `VideoReadError`.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Views,
        *,
        train: bool,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        max_attempts: int = 10,
        open_row: Callable[[Row], FrameReader] | None = None,
    ) -> None:
        self.videos = videos
        self.views = views
        self.train = train
        self.seed = seed
        self.epoch = 0
        self.cache_dir = cache_dir
        self.max_attempts = max_attempts
        self.open_row = open_row

    def __len__(self) -> int:
        return len(self.videos)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that `dataset[index]` draws for. The loader asks for `dataset[epoch, index]` and needs no call."""
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a list of {len(self)}")
        if not self.train:
            epoch = 0  # the same clip in every epoch
        failures: list[Failure] = []
        attempts = min(self.max_attempts, len(self)) if self.train else 1
        for attempt in range(attempts):
            shown = index
            if attempt:
                shown = replacement_index(self.seed, epoch, index, attempt - 1, len(self))
            try:
                made = self._read(shown, sample_rng(self.seed, epoch, index))
                return self._sample(shown, made, failures)
            except Exception as error:  # whatever it is, it is a failure of this video alone
                failures.append(Failure(self.videos.rows[shown].path, reason_of(error)))
        return self._sample(index, None, failures)

    def _sample(self, index: int, made: Made | None, failures: list[Failure]) -> dict[str, Any]:
        row = self.videos.rows[index]
        return {
            "video": None if made is None else made.views[0] if len(made.views) == 1 else made.views,
            "label": -1 if row.label is None else row.label,
            "video_name": row.path,
            "video_index": index,
            "clip_index": 0,
            "params": [] if made is None else made.params,
            "targets": {} if made is None else made.targets,
            "failures": failures,
        }

    def _read(self, index: int, rng: np.random.Generator) -> Made:
        """The views of one video, of which each frame is decoded once."""
        row = self.videos.rows[index]
        with self._open(row) as reader:
            first, last = frame_range(row, reader)
            frames, places = shared_frames(reader, self.views.indices(last - first, reader.fps, rng), first)
        return Made(*self.views.make(frames, places, rng))

    def _open(self, row: Row) -> FrameReader:
        if self.open_row is not None:
            return self.open_row(row)
        return open_row(row, frame_rate=self.videos.frame_rate, cache_dir=self.cache_dir)


def open_row(
    row: Row,
    *,
    frame_rate: float = 30.0,
    cache_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> FrameReader:
    """Open the video of a row: a file, a file behind a URL, or a folder of frames.

    `frame_rate` is that of a folder, in frames per second; `limits` are those of `open_video`,
    `cache_dir` that of `local_path`.

    Raises:
        VideoReadError: it cannot be fetched or read.
    """
    try:
        path = local_path(row.path, cache_dir=cache_dir)
    except OSError as error:
        raise VideoReadError(row.path, str(error)) from error
    if not is_url(row.path) and os.path.isdir(path):
        return FrameFolder(path, fps=frame_rate, num_frames=row.num_frames)
    return open_video(path, limits=limits)


def shared_frames(reader: FrameReader, indices: Indices, first: int = 0) -> tuple[Tensor, list[list[int]]]:
    """The frames that views see, each decoded once, (n, H, W, 3), and where each view finds its own among them.

    `indices` count from frame `first`.
    """
    union = sorted({i for view in indices for i in view})
    place = {i: n for n, i in enumerate(union)}
    return reader.frames_at([first + i for i in union]), [[place[i] for i in view] for view in indices]


def frame_range(row: Row, reader: FrameReader) -> tuple[int, int]:
    """First frame of a row's part of its video, and the one behind its last: those shown in [start_sec, end_sec).

    Raises:
        VideoReadError: no frame is.
    """
    if row.start_sec is None and row.end_sec is None:
        return 0, reader.num_frames
    first = bisect_left(reader.pts, row.start_sec or 0.0)
    last = reader.num_frames if row.end_sec is None else bisect_left(reader.pts, row.end_sec)
    if first >= last:
        part = f"from {row.start_sec or 0.0} s " + ("on" if row.end_sec is None else f"to {row.end_sec} s")
        raise VideoReadError(row.path, f"no frame {part}; the last is shown at {reader.pts[-1]:.2f} s")
    return first, last
