"""Loads batches of a dataset in parallel workers: resumable, and equal for any number of workers."""

import csv
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..batch import Batch, Failure
from ..options import bounds
from .datasets import VideoDataset
from .pool import Outcomes, number_of_workers, share_with_few_files, start_worker

_log = logging.getLogger(__name__)


class TooManyFailures(RuntimeError):
    """More videos cannot be read than a run allows; the message lists them."""


@dataclass(eq=False)
class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Chooses the samples, as (epoch, index), of each batch of this process.

    The order of an epoch depends only on (seed, epoch); the processes take samples from it in turn. Training shuffles,
    and skips the last samples that do not fill a batch in every process. Evaluation returns each sample exactly once,
    so some processes may have a smaller last batch, or one batch fewer.

    Attributes:
        epoch: the current epoch.
        position: number of samples that all processes together have taken in this epoch; iteration starts after them.
    """

    size: int
    batch_size: int
    _: KW_ONLY
    train: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    position: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        bounds(self, "batch_size", low=1)
        if self.train and self.size < self.samples_per_step:
            batch = f"{self.batch_size} in each of {self.world_size} processes"
            raise ValueError(f"{self.size} videos are fewer than one batch of {batch}; lower data.batch_size")

    @property
    def samples_per_step(self) -> int:
        """Samples in one batch of all processes together."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Number of batches in a full epoch of this process."""
        if self.train:
            return self.size // self.samples_per_step
        mine = len(range(self.rank, self.size, self.world_size))
        return -(-mine // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, self._order()
        for start in range(self.position, self.size, self.samples_per_step):
            step = order[start : start + self.samples_per_step]
            if self.train and len(step) < self.samples_per_step:
                return
            if batch := [(epoch, index) for index in step[self.rank :: self.world_size].tolist()]:
                yield batch

    def _order(self) -> NDArray[np.int64]:
        if not self.train:
            return np.arange(self.size)
        seed = np.random.SeedSequence(self.seed, spawn_key=(self.epoch,))
        return np.random.Generator(np.random.Philox(seed)).permutation(self.size)


class WorkerError(RuntimeError):
    """Worker processes lack shared memory or open files; the message names the way out."""


class WorkerLoader(DataLoader[Any]):
    """A DataLoader for workers that read videos; takes the options of a DataLoader.

    Iteration raises WorkerError where workers lack shared memory or open files.
    """

    def __init__(self, dataset: Dataset[Any], *, num_workers: int, prefetch_factor: int = 2, **options: Any) -> None:
        if num_workers and share_with_few_files(num_workers):
            _log.warning("few files may be open (ulimit -n): workers share memory through the file system")
        super().__init__(
            dataset,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # the global one would change the random state of a training
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (RuntimeError, OSError) as error:
            text = str(error)
            if "shared memory" in text or "Bus error" in text:
                lack = "shared memory (/dev/shm); start the container with --shm-size=8g"
            elif "Too many open files" in text:
                lack = "open files; raise their limit (ulimit -n 4096)"
            else:
                raise
            raise WorkerError(f"the workers that read videos lack {lack}, or set data.num_workers=0") from error


class VideoLoader:
    """Iterates over the batches of one epoch at a time, and tracks its position and the failed videos.

    The batches depend on the dataset and its seed, not on the number of workers; a training dataset is shuffled. At the
    end of an epoch, `loader.epoch` increases by one. A `state_dict()` taken between two batches resumes with the next
    batch, regardless of prefetched batches; the numbers of processes and workers may change. An epoch that was left
    early starts again from its first batch. `failures` are the videos that this process could not read in this epoch:
    path to reason.

    Args:
        dataset: the videos.
        batch_size: videos per batch in this process.
        num_workers: processes that read videos, one thread each; 0 reads in this process, None uses one per core.
        rank, world_size: index of this process, and number of processes.
        prefetch_factor: number of batches that each worker prefetches.
        pin_memory: return batches in page-locked memory, so that a GPU can copy them while it computes.
        start_method: how workers start; None is Python's default for the platform.
        max_failure_fraction: maximum fraction of unreadable videos in a training epoch; above it, the run stops.
        output_dir: the run folder; its `failures.csv` lists the failed videos.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        *,
        batch_size: int,
        num_workers: int | None = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        start_method: Literal["fork", "forkserver", "spawn"] | None = None,
        max_failure_fraction: float = 0.01,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampler = EpochSampler(
            len(dataset), batch_size, train=dataset.train, seed=dataset.seed, rank=rank, world_size=world_size
        )
        num_workers = number_of_workers(num_workers)
        self.batches: Iterable[Batch] = WorkerLoader(
            dataset,
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            persistent_workers=num_workers > 0,
            multiprocessing_context=start_method if num_workers else None,
            pin_memory=pin_memory,
        )
        self.max_failures = max_failure_fraction * len(dataset) / world_size
        name = f"failures_rank{rank}.csv" if rank else "failures.csv"
        self.log = None if output_dir is None else Path(output_dir) / name
        self.failures: dict[str, str] = {}
        self._outcomes = Outcomes(len(dataset))
        self._resumes = False

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one between two epochs."""
        return self.sampler.epoch

    def __len__(self) -> int:
        """Number of batches in a full epoch of this process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the epoch, or the remaining ones after `load_state_dict`.

        Raises:
            CommonFailure: the first videos that this process reads all fail for the same reason.
            TooManyFailures: in training, the failed videos of this epoch exceed the allowed fraction.
        """
        if not self._resumes:
            self.sampler.position = 0
        if self.sampler.position == 0:
            self.failures = {}
        self._resumes = False
        for batch in self.batches:
            self.sampler.position += self.sampler.samples_per_step
            self._account(batch)
            if len(batch):  # in evaluation, a batch may have no readable video
                yield batch
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of an epoch; keeps the position if `load_state_dict` set one in the same epoch."""
        if epoch != self.sampler.epoch:
            self.sampler.epoch, self.sampler.position, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The position of the iteration, as plain numbers and strings."""
        return {
            "epoch": self.sampler.epoch,
            "position": self.sampler.position,
            "seed": self.sampler.seed,
            "list_sha256": self.dataset.videos.sha256,
            "failures": dict(self.failures),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Moves to the position in a `state_dict()` of another loader; ValueError if it had another list or seed."""
        for name, mine in (("list_sha256", self.dataset.videos.sha256), ("seed", self.sampler.seed)):
            if state[name] != mine:
                raise ValueError(
                    f"cannot resume in the middle of an epoch: {name} is {mine}, the saved run had {state[name]}; "
                    "use the same list and seed, or start a new run from the weights"
                )
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]
        self.failures = dict(state["failures"])
        self._resumes = True

    def _account(self, batch: Batch) -> None:
        new = {path: reason for path, reason in batch.failures if path not in self.failures}
        self.failures |= new
        for path, reason in new.items():
            _log.warning("epoch %d: %s cannot be read: %s", self.epoch, path, reason)
        if new and self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            first = not self.log.exists()
            with open(self.log, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
                rows = ([self.epoch, path, reason] for path, reason in new.items())
                csv.writer(file).writerows([("epoch", "path", "reason"), *rows] if first else rows)
        self._outcomes.add_all([(path, None) for path in batch.names])
        self._outcomes.add_all(new.items())
        gave_up = len(batch) < self.sampler.batch_size
        if self.dataset.train and (gave_up or len(self.failures) > self.max_failures):
            self._outcomes.stop()
            listed = "\n".join(f"  {path}: {reason}" for path, reason in list(self.failures.items())[:20])
            raise TooManyFailures(
                f"{len(self.failures)} of {self.sampler.size} videos cannot be read, at most "
                f"{self.max_failures:.4g} may fail (data.max_failure_fraction); repair or remove them"
                f"{f', {self.log} has all of them' if self.log else ''}:\n{listed}"
            )


def build_loader(dataset: VideoDataset, **options: Any) -> VideoLoader:
    """The former name of `VideoLoader`."""
    warnings.warn("build_loader is deprecated; use VideoLoader", DeprecationWarning, stacklevel=2)
    return VideoLoader(dataset, **options)


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Makes a batch of samples of `VideoDataset`; samples without a video add only their failures."""
    read = [sample for sample in samples if sample["video"] is not None]
    clips = [sample["video"] if isinstance(sample["video"], list) else [sample["video"]] for sample in read]
    for sample, views in zip(read, clips, strict=True):
        shapes, first = ([tuple(view.shape) for view in of] for of in (views, clips[0]))
        if shapes != first:
            raise ValueError(
                f"all videos of a batch need views of the same shapes, but {sample['video_name']} has {shapes}, "
                f"{read[0]['video_name']} has {first}; use batch_size=1, or views of a fixed number and size"
            )
    return Batch(
        # default_collate, because in a worker it writes directly into shared memory.
        views=[default_collate(list(views)) for views in zip(*clips, strict=True)],
        labels=torch.tensor([sample["label"] for sample in read], dtype=torch.int64),
        video_index=torch.tensor([sample["video_index"] for sample in read], dtype=torch.int64),
        names=[sample["video_name"] for sample in read],
        params=[_stack(params) for params in zip(*(sample["params"] for sample in read), strict=True)],
        targets=_stack([sample.get("targets", {}) for sample in read]) if read else {},
        failures=[Failure(*failure) for sample in samples for failure in sample["failures"]],
    )


def _stack(values: Sequence[Any]) -> Any:
    """Stacks the parameters of a view over all samples: tensors and numbers along a new first dimension."""
    first = values[0]
    if isinstance(first, tuple):
        return type(first)(*(_stack(parts) for parts in zip(*values, strict=True)))
    if isinstance(first, dict):
        return {key: _stack([value[key] for value in values]) for key in first}
    return torch.stack(list(values)) if isinstance(first, Tensor) else torch.tensor(values)  # (B, ...)
