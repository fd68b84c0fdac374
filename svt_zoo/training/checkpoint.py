"""Checkpoints that survive a kill at any time: complete or absent, checked by a hash, never the only one."""

import logging
import os
import pickle
import random
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config import FinetuneRecipe, PretrainRecipe
from ..data.lists import VideoList
from ..data.loader import VideoLoader
from ..distributed import from_main, gather_objects, is_main, rank, world_size
from ..files import sha256_of
from ..methods import Method
from ..options import ConfigError, build, flatten, to_dict
from .parallel import full_state, load_full_optimizer_state, load_full_state

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEEP = 2  # the newest, and the one before it
NONFINITE_NAME = "nonfinite.json"  # in the run's folder, while it has ended because of a loss that is not finite
_NAME = re.compile(r"step_(\d{9})-([0-9a-f]{16})\.pt")

# Sections and options that a run may change on the way. The loader compares the lists by their hash, and `RunState` the
# number of videos per step.
HARMLESS = (
    "kind",
    "repeat",
    "report",
    "data.train",
    "data.root",
    "data.val",
    "data.num_workers",
    "data.batch_size",
    "data.max_failure_fraction",
    "data.allow_overlap",
    "model.options.folded",  # no longer has an effect
    "model.options.grad_checkpointing",
    "optim.accumulation",
    "run.compile",
    "run.output",
    "run.knn_every_epochs",
    "run.checkpoint_every_epochs",
    "run.checkpoint_every_minutes",
    "run.checkpoint_every_steps",
    "run.log_every_steps",
    "run.monitor_every_steps",
    "run.parallel",
    "run.tensorboard",
)
# Options that may change if the loss was not finite, so that the run can be saved; schedules follow the new values.
RESCUE = ("optim.lr", "optim.clip_grad", "run.precision")


class CheckpointError(RuntimeError):
    """A run cannot continue from its checkpoints; the message states why, and what to do."""


class Checkpoint(NamedTuple):
    """One file and its content."""

    path: Path
    payload: dict[str, Any]


def save_checkpoint(folder: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write `payload` (tensors and plain data) as the newest checkpoint, then delete all but `KEEP`.

    The file gets its name, which contains its hash, after its bytes are on the disk: a kill leaves the old ones.

    Raises:
        CheckpointError: the disk is full, or the file cannot be written for another reason.
    """
    unfinished = folder / f"unfinished_{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            torch.save({"format": FORMAT_VERSION, "step": step, **payload}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch may hide that the disk is full
        unfinished.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written to {folder}, where {free:.0f} MB are free ({error}); "
            "make room, and repeat the command, which continues from the checkpoint before it"
        ) from error
    path = folder / f"step_{step:09d}-{sha256_of(unfinished)[:16]}.pt"
    os.replace(unfinished, path)
    _sync_folder(folder)
    for old in checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a run, newest first, complete or not."""
    files = [path for path in folder.glob("step_*.pt") if path.is_file()]
    named = [(name, path) for path in files if (name := _NAME.fullmatch(path.name))]
    newest_first = sorted(named, key=lambda pair: (int(pair[0][1]), pair[1].stat().st_mtime_ns), reverse=True)
    return [path for _, path in newest_first]


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is no checkpoint. The log names what is skipped.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    for unfinished in folder.glob("unfinished_*.tmp"):
        _log.warning("deleted %s, an unfinished checkpoint of a run that was killed", unfinished)
        unfinished.unlink()
    for path in folder.glob("step_*.pt"):
        if path.is_dir():
            _log.warning("%s is a folder, not a checkpoint", path)
    paths = checkpoints(folder)
    for path in paths:
        try:
            return Checkpoint(path, read_checkpoint(path))
        except CheckpointError as error:
            _log.warning("%s; trying the checkpoint before it", error)
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} can be read; delete the folder to start again"
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one checkpoint, if its bytes are those that were written. Nothing in it can run code.

    Raises:
        CheckpointError: a damaged file, or one of another version.
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise CheckpointError(f"{path} is not named step_NUMBER-HASH.pt, so its hash cannot be checked")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; run.output must be a folder that all processes share")
    digest = sha256_of(path)[:16]
    if digest != name[2]:
        raise CheckpointError(f"{path} is damaged: its hash is {digest}")
    try:
        payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if payload["format"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {payload['format']}, this version reads {FORMAT_VERSION}")
    return payload


def check_same_run(
    path: Path, saved: Mapping[str, Any], recipe: PretrainRecipe | FinetuneRecipe, *, rescue: bool = False
) -> None:
    """Refuse to continue from a checkpoint of another recipe; with `rescue`, the options `RESCUE` may differ.

    An option that is newer than the checkpoint counts as its default, with which a run is as it was without the option.

    Raises:
        CheckpointError: names the options that differ, with both values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a saved recipe may have old names
            before = flatten(to_dict(build(type(recipe), saved, source=str(path))))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    now = flatten(to_dict(recipe))
    changed = {
        key: f"{key} (was {before.get(key)!r}, is {now.get(key)!r})"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and key not in HARMLESS and key.split(".")[0] not in HARMLESS
    }
    if refused := [text for key, text in changed.items() if not (rescue and key in RESCUE)]:
        raise CheckpointError(
            f"{path} was written by another recipe: {', '.join(refused)}; undo these changes, or set "
            "run.output to another folder (init=FILE starts from a finished run's final.safetensors)"
        )
    if changed:
        _log.warning(
            "the recipe has changed since the run started: %s. The run continues with the new values",
            ", ".join(changed.values()),
        )


@dataclass
class RunState:
    """The state of a run, which a checkpoint holds, and `step`, the number of completed steps.

    A checkpoint holds full tensors, so runs with DDP and FSDP read each other's. It also holds, for each process, the
    place of the loader and the states of all random generators.

    Attributes:
        videos_per_step: of all processes together; a checkpoint with another number is refused.
        video_sizes: of some videos in the main process; if they differ from those of a checkpoint, the log warns.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: VideoLoader
    recipe: PretrainRecipe | FinetuneRecipe
    device: torch.device
    folder: Path
    videos_per_step: int
    step: int = 0
    video_sizes: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.video_sizes = video_sizes(self.loader.dataset.videos, self.recipe.run.seed) if is_main() else {}

    def save(self) -> None:
        """Write a checkpoint; all processes call it."""
        process = {"loader": self.loader.state_dict(), "random": random_state(self.device)}
        payload = {
            "recipe": to_dict(self.recipe),
            "videos_per_step": self.videos_per_step,
            "video_sizes": self.video_sizes,
            "method": full_state(self.method.state_dict()),
            "optimizer": full_state(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "processes": gather_objects(process),
        }
        if is_main():
            save_checkpoint(self.folder, self.step, payload)
            (self.folder.parent / NONFINITE_NAME).unlink(missing_ok=True)  # the run is past it

    def resume(self) -> None:
        """Continue from the newest checkpoint that can be read; do nothing if there is none. All processes call it.

        Raises:
            CheckpointError: no checkpoint can be read, or it is of another recipe or number of videos per step.
            ValueError: another list of videos.
        """
        newest = load_newest(self.folder) if is_main() else None
        path: Path | None = from_main(newest.path if newest else None)
        if path is None:
            return
        payload = newest.payload if newest else read_checkpoint(path)
        check_same_run(path, payload["recipe"], self.recipe, rescue=(self.folder.parent / NONFINITE_NAME).exists())
        if payload["videos_per_step"] != self.videos_per_step:
            raise CheckpointError(
                f"{path} has {payload['videos_per_step']} videos per step, this run has "
                f"{self.videos_per_step}; set data.batch_size or optim.accumulation so that processes x batch_size x "
                "accumulation stays the same"
            )
        self._compare_sizes(payload.get("video_sizes", {}))
        load_full_state(self.method, payload["method"])
        load_full_optimizer_state(self.optimizer, payload["optimizer"])
        if payload["scaler"]:  # empty if the run was not in fp16 so far: then the scaler starts from its first scale
            self.scaler.load_state_dict(payload["scaler"])
        processes = payload["processes"]
        self.loader.load_state_dict(processes[min(rank(), len(processes) - 1)]["loader"])
        self.step = payload["step"]
        if len(processes) == world_size():
            set_random_state(processes[rank()]["random"], self.device)
        else:
            _log.warning(
                "%s was written by %d processes, and %d continue: random numbers, such as those of drop path, "
                "differ from the first run",
                path,
                len(processes),
                world_size(),
            )
        _log.info("resuming from %s, at step %d", path, self.step)

    def _compare_sizes(self, before: Mapping[int, int]) -> None:
        rows = self.loader.dataset.videos.rows
        changed = [rows[row].path for row, size in self.video_sizes.items() if before.get(row, size) != size]
        if changed:
            _log.warning(
                "%d of %d videos have another size than when the run was saved, such as %s; the run continues with "
                "them, but differs from one whose videos did not change",
                len(changed),
                len(self.video_sizes),
                ", ".join(changed[:3]),
            )


def video_sizes(videos: VideoList, seed: int, most: int = 1000) -> dict[int, int]:
    """The sizes in bytes of up to `most` local files by their rows in the list, which `seed` draws."""
    sizes = {}
    for row in random.Random(seed).sample(range(len(videos)), min(most, len(videos))):
        path = videos.rows[row].path
        if os.path.isfile(path):  # not a URL, a folder of frames, or a missing file, which the loader counts as failed
            sizes[row] = os.path.getsize(path)
    return sizes


def seed_all(seed: int, process: int = 0) -> None:
    """Seed the generators of torch, NumPy and Python, differently for each seed and process."""
    numbers = np.random.SeedSequence(seed, spawn_key=(process,)).generate_state(3, np.uint32)
    torch.manual_seed(int(numbers[0]))
    np.random.seed(int(numbers[1]))  # noqa: NPY002  # other people's code uses the global generator
    random.seed(int(numbers[2]))


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators, as data that `torch.load(weights_only=True)` can read."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the states of all generators from `random_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
