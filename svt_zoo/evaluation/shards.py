"""Reads the clips of a list of videos, and stores their features in shards: files for ranges of the list."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import safetensors
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import default_collate

from ..data import datasets, sampling
from ..data.datasets import FrameReader, frame_range, shared_frames
from ..data.lists import Row, VideoList
from ..data.pool import Outcomes, TaskResult, reason_of
from ..data.transforms import EvalTransform
from ..data.views import Indices, Views
from ..files import read_facts, write_tensors, write_whole

_T = TypeVar("_T")


class ClipRow(NamedTuple):
    """A row of features: the number of its video in the list, the seconds that its frames cover, or an error."""

    video_index: int
    start_sec: float | None
    end_sec: float | None
    error: str | None = None


class ClipBatch(NamedTuple):
    """Rows that go through the network together.

    `views` holds one tensor (n, 3, T, H, W) per view, for the n rows without an error, in order. `start` is the first
    video of the range that was asked for; `last` marks the last batch of this range.
    """

    start: int
    rows: list[ClipRow]
    views: list[Tensor]
    last: bool


class ClipReader:
    """Reads the clips of a list: one row of `views` per video, or one clip of `transform` every so many seconds.

    A range of videos gives the same batches in every process, of at most `batch_size` rows. Random views depend only on
    the seed and the video's number. One batch is in memory at a time, for any video length.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Views,
        transform: EvalTransform | None = None,
        *,
        every: float | None = None,
        batch_size: int = 1,
        seed: int = 0,
        open_row: Callable[[Row], FrameReader] | None = None,
    ) -> None:
        if every is not None and not every >= 0.001:  # less than a frame; a row each fills the memory
            raise ValueError(f"every must be >= 0.001 seconds, got {every}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.videos = videos
        self.views = views
        self.transform = transform
        self.every = every
        self.batch_size = batch_size
        self.seed = seed
        self.open_row = open_row or partial(datasets.open_row, frame_rate=videos.frame_rate)

    def batches(self, videos: range) -> Iterator[ClipBatch]:
        """Yields the rows of these videos, in order; an unreadable row has an error instead of clips."""
        groups = _groups((row for index in videos for row in self._rows(index)), self.batch_size)
        group = next(groups)  # every video has a row
        while group:
            following = next(groups, [])
            clips = [views for _, views in group if views]
            # default_collate stacks directly into shared memory when a worker of a loader calls it.
            views = [default_collate(list(view)) for view in zip(*clips, strict=True)]  # each (n, 3, T, H, W)
            yield ClipBatch(videos.start, [row for row, _ in group], views, last=not following)
            group = following

    def _rows(self, index: int) -> Iterator[tuple[ClipRow, list[Tensor]]]:
        row = self.videos.rows[index]
        rng = sampling.sample_rng(self.seed, 0, index)
        try:
            with self.open_row(row) as reader:
                first, last = frame_range(row, reader)
                for places in _groups(self._places(last - first, reader.fps, rng), self.batch_size):
                    yield from self._decode(index, reader, first, places, rng)
        except Exception as error:  # one bad file must not stop the others
            yield ClipRow(index, None, None, reason_of(error)), []

    def _places(self, total: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """Frame numbers of each row of a video, per view."""
        if self.every is None:
            return [self.views.indices(total, fps, rng)]
        assert self.transform is not None
        clip, step = self.transform, self.every * fps
        if clip.sampling_rate is None:  # made for videos of any length, so also for a part
            window = max(step, clip.num_frames)
        else:
            window = sampling.clip_window(clip.num_frames, clip.sampling_rate, fps, target_fps=clip.fps)
        return [[clip] for clip in sampling.dense_clips(total, clip.num_frames, window=window, step=step)]

    def _decode(
        self, index: int, reader: FrameReader, first: int, rows: Sequence[Indices], rng: np.random.Generator
    ) -> Iterator[tuple[ClipRow, list[Tensor]]]:
        """Decode rows of one video together; if that fails, one by one, so that readable rows are kept."""
        try:
            frames, places = shared_frames(reader, [view for views in rows for view in views], first)
            rest = iter(places)
            clips = [self.views.make(frames, list(islice(rest, len(views))), rng)[0] for views in rows]
        except Exception as error:
            if len(rows) == 1:
                yield ClipRow(index, *_span(reader, first, rows[0]), reason_of(error)), []
                return
            for one in rows:
                yield from self._decode(index, reader, first, [one], rng)
            return
        for views, clip in zip(rows, clips, strict=True):
            yield ClipRow(index, *_span(reader, first, views)), clip


def _span(reader: FrameReader, first: int, views: Indices) -> tuple[float, float]:
    """Start of the first frame and end of the last frame, in seconds."""
    frames = [first + i for view in views for i in view]
    return reader.pts[min(frames)], reader.pts[max(frames)] + 1 / reader.fps


def _groups(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yields the items in lists of `size`; the last list may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


class Shard(NamedTuple):
    """Rows of features in list order; `features` (n, ...) holds those of the n rows without an error."""

    rows: list[ClipRow]
    features: Tensor


class Computed(NamedTuple):
    """The features of one batch of clips; `start` and `last` are those of the `ClipBatch`."""

    start: int
    shard: Shard
    last: bool


class ShardFolder:
    """The shards of the features of a list; a folder never mixes features of different `settings`.

    Several processes may share a folder; each writes its own shards. A killed process loses only unfinished shards.
    """

    def __init__(self, folder: Path, videos: VideoList, settings: Mapping[str, str], shard_size: int) -> None:
        if shard_size < 1:
            raise ValueError(f"shard_size must be >= 1, got {shard_size}")
        self.folder = folder
        self.videos = videos
        self.settings = dict(settings)
        self.shard_size = shard_size
        self.paths = [folder / f"shard_{start:08d}.safetensors" for start in range(0, len(videos), shard_size)]

    def claim(self) -> None:
        """Record the settings in the folder, which is created.

        Raises:
            ValueError: the folder has features of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "claim.lock"):
            self._claim()

    def _claim(self) -> None:
        path = self.folder / "settings.json"
        settings = {**self.settings, "shard_size": str(self.shard_size)}
        known = read_facts(path) if path.exists() else None
        if known == settings:  # most often; listing thousands of shards for each new one takes longer than writing it
            return
        if known is None or not any(self.folder.glob("shard_*.safetensors")):  # no result, so no claim
            write_whole(path, json.dumps(settings, indent=2).encode())
            return
        if different := differences(known, settings):
            raise ValueError(f"{self.folder} holds other features: {different}; delete it or choose another output")

    def todo(self, rank: int, world_size: int, batch_size: int) -> list[range]:
        """Returns the videos of this process's missing shards, in ranges of at most `batch_size`.

        If earlier attempts read no video at all, their shards are computed again.
        """
        own = range(rank, len(self.paths), world_size)
        if not self.has_features():
            for number in own:
                self.paths[number].unlink(missing_ok=True)
        ranges = []
        for number in own:
            if not self.paths[number].exists():
                start, end = number * self.shard_size, min((number + 1) * self.shard_size, len(self.videos))
                ranges += [range(i, min(i + batch_size, end)) for i in range(start, end, batch_size)]
        return ranges

    def collect(self, computed: Iterable[Computed], ranges: list[range]) -> Iterator[TaskResult[str, bool]]:
        """Writes each shard when all its `ranges` are complete; yields the outcome of each video.

        Raises:
            CommonFailure: the first videos all fail for the same reason.
            ValueError: another command with other settings has written a shard in the meantime.
        """
        outcomes = Outcomes(len(self.videos), was_read=self.has_features())
        videos = {one.start: one for one in ranges}
        waiting: dict[int, set[int]] = defaultdict(set)
        for start in videos:
            waiting[start // self.shard_size].add(start)
        batches: dict[int, list[Shard]] = defaultdict(list)  # by the first video of the range
        for start, batch, last in computed:
            batches[start].append(batch)
            if not last:
                continue
            rows = [row for shard in batches[start] for row in shard.rows]
            number = start // self.shard_size
            waiting[number].remove(start)
            if not waiting[number]:
                starts = sorted(first for first in batches if first // self.shard_size == number)
                self._write(self.paths[number], [shard for first in starts for shard in batches.pop(first)])
            read = {row.video_index for row in rows if row.error is None}
            errors = {row.video_index: row.error for row in rows if row.error is not None}
            for i in videos[start]:
                outcomes.add(self.videos.rows[i].path, None if i in read else errors[i])
                yield TaskResult(self.videos.rows[i].path, None if i in errors else True, errors.get(i) or "")

    def has_features(self) -> bool:
        """Whether any shard holds a feature; True for a damaged one, on which `read` raises."""
        for path in self.folder.glob("shard_*.safetensors"):
            try:
                with safetensors.safe_open(path, framework="pt") as file:
                    if file.get_slice("features").get_shape()[0]:
                        return True
            except (safetensors.SafetensorError, OSError, RuntimeError):  # or another process has removed it
                return True
        return False

    def read(self) -> Iterator[Shard]:
        """Yields all shards, in list order.

        Raises:
            CommonFailure: no video was read, and all failed for the same reason.
            FileNotFoundError: shards are missing.
            ValueError: a shard is damaged.
        """
        if absent := [path.name for path in self.paths if not path.exists()]:
            raise FileNotFoundError(
                f"{len(absent)} of {len(self.paths)} shards are not in {self.folder} yet, the first is {absent[0]}; "
                "run the same command again when all processes have finished"
            )
        if not self.has_features():  # each of several processes read too few videos to raise this error
            errors = {row.video_index: row.error or "" for path in self.paths for row in _read(path).rows}
            Outcomes(len(self.videos)).add_all((self.videos.rows[i].path, error) for i, error in errors.items())
        yield from map(_read, self.paths)

    def _write(self, path: Path, batches: list[Shard]) -> None:
        features = [batch.features for batch in batches if len(batch.features)]
        tensors = {"features": torch.cat(features) if features else torch.empty(0, 0)}
        rows = json.dumps([row for batch in batches for row in batch.rows])
        with FileLock(self.folder / "claim.lock"):
            self._claim()  # before the first shard, another command may claim the folder
            write_tensors(path, tensors, {"rows": rows})


def _read(path: Path) -> Shard:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return Shard([ClipRow(*row) for row in json.loads(file.metadata()["rows"])], file.get_tensor("features"))
    except (safetensors.SafetensorError, RuntimeError) as error:
        if not path.exists():  # another process has removed it
            raise FileNotFoundError(path) from error
        raise ValueError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The settings that differ, as text; empty if none does."""
    return "; ".join(f"{name} was {old.get(name)}, is {value}" for name, value in new.items() if old.get(name) != value)
