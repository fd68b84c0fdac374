"""A list of videos as a dataset: each index returns the views of one video, equal in any worker or process."""

import logging
import os
import posixpath
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Failure
from ..files import fetched_path, is_url, local_path
from ..video import Limits, VideoReadError, open_video
from ..video.frames import FrameFolder
from ..video.remote import RemoteVideo, open_remote
from .flow import FlowLabels
from .lists import DataConfig, Row, VideoList, training_list
from .pool import reason_of
from .sampling import replacement_index, sample_rng
from .views import CPCViewsConfig, Indices, VideoViews, Views, ViewsConfig, train_views

_AHEAD = 2  # videos from URLs that are fetched while one is decoded
_log = logging.getLogger(__name__)
CUT = "the file was cut: it ends before the duration that it states"


class FrameReader(Protocol):
    """Interface of an open video in a dataset: an `EncodedVideo`, a `FrameFolder`, or your own reader."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    @property
    def fps(self) -> float:
        """Average frames per second."""

    @property
    def pts(self) -> Sequence[float]:
        """Presentation time of each frame, in seconds from the first frame."""

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """Frames by number, uint8 RGB (len(indices), H, W, 3); raises `VideoReadError`."""

    def __enter__(self) -> "FrameReader": ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(eq=False, repr=False)
class VideoDataset(Dataset[dict[str, Any]]):
    """Views of the videos of a list.

    `dataset[index]` returns a dictionary with PyTorchVideo's keys: `video` (a view, or a list of views), `label` (-1
    for none), `video_name`, `video_index`, `clip_index`. It adds `params`, `targets` and `failures`. The loader uses
    `dataset[epoch, index]`. Random values depend only on (seed, epoch, index).

    In training, a video that cannot be read is replaced by another one, which depends only on (seed, epoch, index);
    `video_index` and `label` belong to the replacement. In evaluation, `video` is None for such a video, and nothing
    depends on the epoch. `failures` lists each failed video with its reason; any exception is a failure.

    Args:
        videos: the list.
        views: makes the views of each video.
        train: replace videos that cannot be read; draw again in each epoch.
        allow_cut: train on videos whose file ends before the duration that it states; without it, they fail.
        seed: seed of all random values.
        max_attempts: number of videos to try for a training sample; if all fail, the sample has no video.
        open_row: opens a row of the list; pass your own function for other storage. It raises `VideoReadError`.
    """

    videos: VideoList
    views: Views
    _: KW_ONLY
    train: bool
    allow_cut: bool = False
    seed: int = 0
    max_attempts: int = 10
    open_row: Callable[[Row], FrameReader] | None = None
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.videos)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of `dataset[index]`. The loader uses `dataset[epoch, index]` and does not need this call."""
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return self._load(key)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch, as a DataLoader asks for them; while one is decoded, the next URLs are fetched."""
        rows = [self.videos.rows[key[1] if isinstance(key, tuple) else key] for key in keys]
        if self.open_row or not any(is_url(row.path) for row in rows):
            return [self[key] for key in keys]
        with ThreadPoolExecutor(_AHEAD) as pool:
            opened = deque(pool.submit(self._open, *self._place(key)) for key in keys[:_AHEAD])
            samples = []
            for i, key in enumerate(keys):
                first = opened.popleft()
                opened.extend(pool.submit(self._open, *self._place(key)) for key in keys[i + _AHEAD : i + _AHEAD + 1])
                samples.append(self._load(key, first))
        return samples

    def _place(self, key: int | tuple[int, int]) -> tuple[int, int, int]:
        """The index of the video, and the epoch and index that the random values depend on."""
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a list of {len(self)}")
        return index, epoch if self.train else 0, index  # in evaluation, the same clip in every epoch

    def _load(self, key: int | tuple[int, int], opened: "Future[_Opened] | None" = None) -> dict[str, Any]:
        """A sample; `opened` is its video, which another thread opens."""
        index, epoch, _ = self._place(key)
        failures: list[Failure] = []
        attempts = min(self.max_attempts, len(self)) if self.train else 1
        for attempt in range(attempts):
            candidate = replacement_index(self.seed, epoch, index, attempt - 1, len(self)) if attempt else index
            try:
                ready = self._open(candidate, epoch, index) if opened is None or attempt else opened.result()
                with ready.reader as reader:
                    frames, places = shared_frames(reader, ready.indices, ready.first)
                return self._sample(candidate, self.views.make(frames, places, ready.rng), failures)
            except Exception as error:  # any error affects only this video
                failures.append(Failure(self.videos.rows[candidate].path, reason_of(error)))
        return self._sample(index, None, failures)

    def _sample(self, index: int, views: VideoViews | None, failures: list[Failure]) -> dict[str, Any]:
        row = self.videos.rows[index]
        return {
            "video": None if views is None else views.views[0] if len(views.views) == 1 else views.views,
            "label": -1 if row.label is None else row.label,
            "video_name": row.path,
            "video_index": index,
            "clip_index": 0,
            "params": [] if views is None else views.params,
            "targets": {} if views is None else views.targets,
            "failures": failures,
        }

    def _open(self, video: int, epoch: int, index: int) -> "_Opened":
        """Opens a video, draws its frames with the random values of (epoch, index), and fetches them from a URL."""
        row, rng = self.videos.rows[video], sample_rng(self.seed, epoch, index)
        with ExitStack() as stack:
            reader = self.open_row(row) if self.open_row else open_row(row, frame_rate=self.videos.frame_rate)
            stack.enter_context(reader)
            if self.train and not self.allow_cut and getattr(reader, "cut", False):
                raise VideoReadError(row.path, f"{CUT}; repair the file, or set data.allow_cut=true")
            first, last = frame_range(row, reader)
            indices = self.views.indices(last - first, reader.fps, rng)
            if isinstance(reader, RemoteVideo):
                reader.prefetch(first + i for view in indices for i in view)
            stack.pop_all()  # keeps the video open
        return _Opened(reader, indices, first, rng)


class _Opened(NamedTuple):
    """An open video, the frames of its views counted from `first`, and the generator of further random values."""

    reader: FrameReader
    indices: Indices
    first: int
    rng: np.random.Generator


def training_dataset(
    data: DataConfig, views: ViewsConfig | CPCViewsConfig, *, seed: int = 0, flow: FlowLabels | None = None
) -> VideoDataset:
    """Builds the dataset of a recipe's training videos and views; `flow` as in `train_views`."""
    videos = training_list(data, seed=seed)
    return VideoDataset(videos, train_views(views, flow=flow), train=True, allow_cut=data.allow_cut, seed=seed)


def open_row(row: Row, *, frame_rate: float = 30.0, limits: Limits | None = None) -> FrameReader:
    """Opens the video of a row: a file, a URL, or a folder of frames at `frame_rate` frames per second."""
    if is_url(row.path) and not fetched_path(row.path).exists():
        try:
            return open_remote(row.path, limits=limits)
        except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
            cause = str(error) if isinstance(error, ImportError) else type(error).__name__
            _warn_of_missing_index(posixpath.dirname(row.path), cause)
    try:
        path = local_path(row.path)
    except OSError as error:
        raise VideoReadError(row.path, str(error).removeprefix(f"{row.path} ")) from error
    if not is_url(row.path) and os.path.isdir(path):
        return FrameFolder(path, fps=frame_rate, num_frames=row.num_frames)
    return open_video(path, limits=limits)


@cache  # once per folder and process
def _warn_of_missing_index(folder: str, cause: str) -> None:
    _log.warning(
        "videos in %s are read without an index (%s). Each file is downloaded completely and kept in %s. After "
        "`svt-zoo index LIST`, only the packets that are needed are fetched",
        folder,
        cause,
        fetched_path(folder).parent,
    )


def shared_frames(reader: FrameReader, indices: Indices, first: int = 0) -> tuple[Tensor, list[list[int]]]:
    """Decodes each frame of the views once, counted from `first`: frames (n, H, W, 3) and the rows of each view."""
    union = sorted({i for view in indices for i in view})
    place = {i: n for n, i in enumerate(union)}
    return reader.frames_at([first + i for i in union]), [[place[i] for i in view] for view in indices]


def frame_range(row: Row, reader: FrameReader) -> tuple[int, int]:
    """Range [first, last + 1) of the frames whose times lie in [start_sec, end_sec). Raises VideoReadError."""
    if row.start_sec is None and row.end_sec is None:
        return 0, reader.num_frames
    first = bisect_left(reader.pts, row.start_sec or 0.0)
    last = reader.num_frames if row.end_sec is None else bisect_left(reader.pts, row.end_sec)
    if first >= last:
        part = f"from {row.start_sec or 0.0} s " + ("on" if row.end_sec is None else f"to {row.end_sec} s")
        raise VideoReadError(row.path, f"no frame {part}; the last is shown at {reader.pts[-1]:.2f} s")
    return first, last
