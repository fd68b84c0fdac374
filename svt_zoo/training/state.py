"""Everything that the rest of a run depends on, to a checkpoint and back."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data.loader import VideoLoader
from ..distributed import is_main, rank, world_size
from ..methods import Method
from .checkpoint import NONFINITE_NAME, CheckpointError, check_same_run, load_newest, read_checkpoint, save_checkpoint
from .parallel import from_main, gather_objects, load_whole, load_whole_optimizer, whole
from .random_state import random_state, set_random_state

_log = logging.getLogger(__name__)


class RunState:
    """What a run is made of, and how far it is (`step`, steps that are done).

    A checkpoint holds whole tensors, so runs with DDP and FSDP read each other's. It also holds, for each process, the
    loader's place and the states of all random generators.

    Args:
        method, optimizer, scaler, loader: whose states are kept.
        device: of this process.
        folder: of the checkpoints.
        recipe: as plain data; a checkpoint of another one is refused.
        videos_per_step: of all processes together, which must stay the same too.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        loader: VideoLoader,
        *,
        device: torch.device,
        folder: Path,
        recipe: Mapping[str, Any],
        videos_per_step: int,
    ) -> None:
        self.method, self.optimizer, self.scaler, self.loader = method, optimizer, scaler, loader
        self.device, self.folder, self.recipe = device, folder, dict(recipe)
        self.videos_per_step = videos_per_step
        self.step = 0

    def save(self) -> None:
        """Write a checkpoint; all processes call it."""
        process = {"loader": self.loader.state_dict(), "random": random_state(self.device)}
        payload = {
            "recipe": self.recipe,
            "videos_per_step": self.videos_per_step,
            "method": whole(self.method.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "processes": gather_objects(process),
        }
        if is_main():
            save_checkpoint(self.folder, self.step, payload)
            (self.folder.parent / NONFINITE_NAME).unlink(missing_ok=True)  # the run is past it

    def resume(self) -> None:
        """Go to where the newest whole checkpoint is; stay at the start if there is none. All processes call it.

        Raises:
            CheckpointError: no checkpoint is whole, or it is of another recipe or number of videos a step.
            ValueError: another list of videos.
        """
        found = load_newest(self.folder) if is_main() else None
        path: Path | None = from_main(found.path if found else None)
        if path is None:
            return
        payload = found.payload if found else read_checkpoint(path)
        check_same_run(path, payload["recipe"], self.recipe, rescue=(self.folder.parent / NONFINITE_NAME).exists())
        if payload["videos_per_step"] != self.videos_per_step:
            raise CheckpointError(
                f"{path} has {payload['videos_per_step']} videos per step, this run has "
                f"{self.videos_per_step}; set data.batch_size or optim.accumulation so that processes x batch_size x "
                "accumulation stays the same"
            )
        load_whole(self.method, payload["method"])
        load_whole_optimizer(self.optimizer, payload["optimizer"])
        if payload["scaler"]:  # empty if the run was not in fp16 so far: then the scaler starts anew
            self.scaler.load_state_dict(payload["scaler"])
        processes = payload["processes"]
        self.loader.load_state_dict(processes[min(rank(), len(processes) - 1)]["loader"])
        self.step = payload["step"]
        if len(processes) == world_size():
            set_random_state(processes[rank()]["random"], self.device)
        else:
            _log.warning(
                "%s was written by %d processes, and %d go on: random numbers, such as those of drop path, "
                "differ from the first run",
                path,
                len(processes),
                world_size(),
            )
        _log.info("resuming from %s, at step %d", path, self.step)
