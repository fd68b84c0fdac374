"""Reads the clips of a list of videos, part by part, for all engines of the extraction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data import datasets, sampling
from ..data.datasets import FrameReader, frame_range, shared_frames
from ..data.lists import Row, VideoList
from ..data.pool import reason_of
from ..data.transforms import EvalTransform
from ..data.views import Views

_NO_DRAWS = np.random.default_rng(0)  # views by name use no random numbers
_T = TypeVar("_T")

Places = Sequence[Sequence[int]]  # the frames of each view of one row


class Piece(NamedTuple):
    """One row of the future table: number of the video in its list, and the time of its frames or an error."""

    video_index: int
    start_sec: float | None
    end_sec: float | None
    error: str | None = None


class Chunk(NamedTuple):
    """Rows that go through the network together.

    `views` holds one tensor (n, 3, T, H, W) per view, for the n pieces without an error, in order. `part` is the number
    of the part of the list that they belong to; `last` marks the last chunk of a part.
    """

    part: int
    pieces: list[Piece]
    views: list[Tensor]
    last: bool


class ClipReader:
    """Reads the clips of a list: one row per video, or one row per `every` seconds.

    A part of the list gives the same chunks in every process. One chunk is in memory at a time, for any video length.

    Args:
        videos: the list.
        views: of each video, for one row per video.
        every: seconds between two rows of one video (each is one clip of `transform`); None for one row per video.
        transform: of the network.
        batch_size: maximum number of rows in a chunk.
        open_row: opens a row of the list, by default `datasets.open_row`.

    Raises:
        ValueError: `every` is not > 0.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Views,
        transform: EvalTransform,
        *,
        every: float | None = None,
        batch_size: int = 1,
        open_row: Callable[[Row], FrameReader] | None = None,
    ) -> None:
        if every is not None and not every > 0:
            raise ValueError(f"every is a number of seconds above 0, got {every}")
        self.videos = videos
        self.views = views
        self.transform = transform
        self.every = every
        self.batch_size = batch_size
        self.open_row = open_row or partial(datasets.open_row, frame_rate=videos.frame_rate)

    def chunks(self, part: int, indices: Sequence[int]) -> Iterator[Chunk]:
        """Yields the rows of the videos `indices`, in order; an unreadable row becomes a piece with an error."""
        rows = (row for index in indices for row in self._rows(index))
        groups = _groups(rows, self.batch_size)
        group = next(groups)  # every video has a row
        while group:
            following = next(groups, [])
            views = [torch.stack(list(of)) for of in zip(*(views for _, views in group if views), strict=True)]
            yield Chunk(part, [piece for piece, _ in group], views, last=not following)
            group = following

    def _rows(self, index: int) -> Iterator[tuple[Piece, list[Tensor]]]:
        row = self.videos.rows[index]
        try:
            with self.open_row(row) as reader:
                first, last = frame_range(row, reader)
                for places in _groups(self._places(last - first, reader.fps), self.batch_size):
                    yield from self._decode(index, reader, first, places)
        except Exception as error:  # one bad file must not stop the extraction
            yield Piece(index, None, None, reason_of(error)), []

    def _places(self, total: int, fps: float) -> list[Places]:
        """Frame numbers of each row of a video, per view."""
        if self.every is None:
            return [self.views.indices(total, fps, _NO_DRAWS)]
        clip, step = self.transform, self.every * fps
        if clip.sampling_rate is None:  # made for videos of any length, so also for a part
            window = max(step, clip.num_frames)
        else:
            window = sampling.clip_window(clip.num_frames, clip.sampling_rate, fps, target_fps=clip.fps)
        return [[clip] for clip in sampling.dense_clips(total, clip.num_frames, window=window, step=step)]

    def _decode(
        self, index: int, reader: FrameReader, first: int, rows: Sequence[Places]
    ) -> Iterator[tuple[Piece, list[Tensor]]]:
        """Decode rows of one video together; if that fails, one by one, so that readable rows are kept."""
        try:
            frames, places = shared_frames(reader, [view for views in rows for view in views], first)
            rest = iter(places)
            made = [self.views.make(frames, list(islice(rest, len(views))), _NO_DRAWS)[0] for views in rows]
        except Exception as error:
            if len(rows) == 1:
                yield Piece(index, *_span(reader, first, rows[0]), reason_of(error)), []
                return
            for one in rows:
                yield from self._decode(index, reader, first, [one])
            return
        yield from (
            (Piece(index, *_span(reader, first, views)), clips) for views, clips in zip(rows, made, strict=True)
        )


def _span(reader: FrameReader, first: int, views: Places) -> tuple[float, float]:
    """Start of the first frame and end of the last frame, in seconds."""
    frames = [first + i for view in views for i in view]
    return reader.pts[min(frames)], reader.pts[max(frames)] + 1 / reader.fps


def _groups(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yields the items in lists of `size`; the last list may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
