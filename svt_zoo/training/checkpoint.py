"""Checkpoints that survive a kill at any instant: whole or absent, checked by a hash, never the only one."""

import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import ConfigError, current_names, differences, was_removed, with_added
from ..files import sha256_of

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEEP = 2  # the newest, and the one before it
NONFINITE_NAME = "nonfinite.json"  # in the run's folder, while it has ended because of a loss that is not finite
_NAME = re.compile(r"step_(\d{9})-([0-9a-f]{16})\.pt")

# What a run may change on the way without becoming another run. The loader compares the lists by their hash, and the
# trainer the number of videos in a step.
HARMLESS = (
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
# What may change where the loss was not finite, so that the run can be saved; schedules follow the new values.
RESCUE = ("optim.lr", "optim.clip_grad", "run.precision")


class CheckpointError(RuntimeError):
    """A run cannot go on from its checkpoints; the message says why, and what to do."""


class Checkpoint(NamedTuple):
    """One file and what it holds."""

    path: Path
    payload: dict[str, Any]


def save_checkpoint(folder: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write `payload` (tensors and plain data) as the newest checkpoint, then delete all but `KEEP`.

    The file takes its name, which holds its hash, only when its bytes are on the disk: a kill leaves the old ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished_{os.getpid()}.tmp"
    with open(unfinished, "wb") as file:
        torch.save({"format": FORMAT_VERSION, "step": step, **payload}, file)
        file.flush()
        os.fsync(file.fileno())
    path = folder / f"step_{step:09d}-{sha256_of(unfinished)[:16]}.pt"
    os.replace(unfinished, path)
    sync_folder(folder)
    for old in checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a run, newest first, whole or not."""
    found = [(name, path) for path in folder.glob("step_*.pt") if (name := _NAME.fullmatch(path.name))]
    newest_first = sorted(found, key=lambda pair: (int(pair[0][1]), pair[1].stat().st_mtime_ns), reverse=True)
    return [path for _, path in newest_first]


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none at all. Says in the log what it skips.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole.
    """
    for rest in folder.glob("unfinished_*.tmp"):
        _log.warning("deleted %s, an unfinished checkpoint of a run that was killed", rest)
        rest.unlink()
    found = checkpoints(folder)
    for path in found:
        try:
            return Checkpoint(path, read_checkpoint(path))
        except CheckpointError as error:
            _log.warning("%s; trying the checkpoint before it", error)
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {folder} can be read; delete the folder to start again"
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What one checkpoint holds, if its bytes are those that were written. Nothing in it can run code.

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


def check_same_run(path: Path, saved: Mapping[str, Any], recipe: Mapping[str, Any], *, rescue: bool = False) -> None:
    """Refuse to go on from a checkpoint of another recipe; with `rescue`, what `RESCUE` names may differ.

    Raises:
        CheckpointError: names the keys that differ, with both values.
    """
    saved = with_added(current_names(saved))
    try:
        changed = [
            key
            for key in differences(saved, recipe)
            if key not in HARMLESS and not was_removed(key, _at(saved, key.rpartition(".")[0]), str(path))
        ]
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    told = {key: f"{key} (was {_at(saved, key)!r}, is {_at(recipe, key)!r})" for key in changed}
    if refused := [text for key, text in told.items() if not (rescue and key in RESCUE)]:
        raise CheckpointError(
            f"{path} was written by another recipe: {', '.join(refused)}; undo these changes, or set "
            "run.output to another folder (init=FILE starts from a finished run's final.safetensors)"
        )
    if told:
        _log.warning(
            "the recipe has changed since the run started: %s. The run goes on with the new values",
            ", ".join(told.values()),
        )


def _at(values: Mapping[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
