"""The training loop, for any method and any number of processes; a run that continues after a kill is exact."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..config import FinetuneRecipe, PretrainRecipe
from ..data.loader import VideoLoader
from ..device import choose_precision, memory_advice
from ..distributed import all_mean, gather_objects, is_main, rank
from ..evaluation.results import log_start
from ..methods import Method
from ..models import ZooModel
from ..schedules import cosine, multi_step, warmup_cosine
from .checkpoint import NONFINITE_NAME, RunState, seed_all
from .monitor import Monitor
from .optim import build_optimizer, clip_gradients, scaled_lr, set_hyperparameters
from .parallel import compile_networks, full_state, gradient_exchange, parallelize, plain_copy
from .signals import on_stop_signal

_log = logging.getLogger(__name__)

_LOWER = (
    "halve data.batch_size and double optim.accumulation, or set model.options.grad_checkpointing=mlp or true; the "
    "same command then continues the run"
)
Evaluate = Callable[[ZooModel], Mapping[str, float]]


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient is NaN or infinite; `nonfinite.json` in the run's folder names the videos."""


class Trainer:
    """Trains a method; `Trainer(...).fit()` starts, or continues from the newest checkpoint in `run.output`.

    A step is: learning rate and decay; for each of `optim.accumulation` batches augmentation, `method(batch, epoch)`
    and backward; `method.before_step`, clipping, the optimizer, `method.after_step`; metrics, and at times a
    checkpoint. All processes act in the same step: they exchange one small message in each.

    Args:
        method: the objective, on its device.
        loader: its batches of uint8 views.
        augment: `(views, params) -> float views`, on the device.
        recipe: its sections `optim` and `run` configure the loop; all of it is compared with that of a checkpoint.
        device: of this process.
        evaluate: numbers of the backbone, such as kNN accuracy, every `run.knn_every_epochs`; called in all processes.
        max_entropy: largest entropy of the method's targets in nats, for the warning about a collapse.
    """

    def __init__(
        self,
        method: Method,
        loader: VideoLoader,
        augment: Callable[[Tensor, Any], Tensor],
        recipe: PretrainRecipe | FinetuneRecipe,
        *,
        device: torch.device,
        evaluate: Evaluate | None = None,
        max_entropy: float | None = None,
    ) -> None:
        self.method, self.loader, self.augment, self.device = method, loader, augment, device
        self.optim, self.run = optim, run = recipe.optim, recipe.run
        self.evaluate, self.max_entropy = evaluate, max_entropy
        self.output = Path(run.output)
        self.steps_per_epoch = len(loader) // optim.accumulation
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"an epoch has {len(loader)} batches, too few for one step of optim.accumulation={optim.accumulation}"
            )
        self.total_steps = self.steps_per_epoch * optim.epochs
        self.warmup_steps = self.steps_per_epoch * optim.warmup_epochs
        videos_per_step = loader.sampler.samples_per_step * optim.accumulation
        self.peak_lr = scaled_lr(optim.lr, videos_per_step) if optim.scale_lr else optim.lr
        self.precision = choose_precision(run.precision, device)
        if run.compile:
            compile_networks(method)
        self.network = parallelize(method, run.parallel, device)
        self.optimizer = build_optimizer(method, optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.state = RunState(
            method,
            self.optimizer,
            self.scaler,
            loader,
            recipe,
            device=device,
            folder=self.output / "checkpoints",
            videos_per_step=videos_per_step,
        )
        self._saved_at = time.monotonic()
        self._data_seconds = 0.0

    @property
    def step(self) -> int:
        """Completed steps."""
        return self.state.step

    def fit(self, started: Callable[[], None] | None = None) -> bool:
        """Train to the end; False if a signal asked to stop, after a checkpoint.

        Args:
            started: called in the main process as soon as it is clear that the run starts or continues.

        Raises:
            CheckpointError: there are checkpoints, but none to continue from.
            NonFiniteLoss: in all processes at once.
            TooManyFailures: more videos cannot be read than `data.max_failure_fraction` allows.
        """
        self.method.train()
        seed_all(self.run.seed, rank())
        self.state.resume()
        if started is not None and is_main():
            started()
        videos = self.loader.dataset.videos
        log_start(
            f"training by {type(self.method).__name__}",
            self.method.backbone,
            device=self.device,
            precision=self.precision,
            output=self.output,
            videos=len(videos),
            classes=videos.num_classes,
            steps=self.total_steps,
            epochs=self.optim.epochs,
            steps_done=self.step,
        )
        monitor = Monitor(
            self.run, step=self.step, total_steps=self.total_steps, active=is_main(), max_entropy=self.max_entropy
        )
        stop = threading.Event()
        with on_stop_signal(stop.set), closing(monitor):
            while self.step < self.total_steps:
                if not self._train_epoch(monitor, stop):
                    _log.info(
                        "stopped by a signal at step %d of %d; the checkpoint is saved, and the same command continues",
                        self.step,
                        self.total_steps,
                    )
                    return False
                monitor.draw(now=self.step == self.total_steps)
        return True

    def _train_epoch(self, monitor: Monitor, stop: threading.Event) -> bool:
        """The rest of an epoch; False if a signal asked to stop, after a checkpoint."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        self.loader.set_epoch(epoch)
        batches = iter(self.loader)
        for number in range(done + 1, self.steps_per_epoch + 1):
            started = time.monotonic()
            line, signals = self._train_step(batches, stop)
            epoch_ends = number == self.steps_per_epoch
            if epoch_ends:
                self.loader.set_epoch(epoch + 1)  # also after batches that do not fill a step
                line |= self._evaluate(epoch + 1)
            times = {"data_seconds": self._data_seconds}
            times["compute_seconds"] = time.monotonic() - started - self._data_seconds
            monitor.record({**line, **times})
            stopping = signals["stop"] and self.step < self.total_steps
            if stopping or self._checkpoint_due(epoch_ends, signals["overdue"]):
                monitor.sync()
                self.state.save()
                self._saved_at = time.monotonic()
            if stopping:
                return False
        return True

    def _train_step(self, batches: Iterator[Batch], stop: threading.Event) -> tuple[dict[str, float], dict[str, bool]]:
        """One step of the optimizer: its metrics, and the signals of all processes."""
        epoch = self.step / self.steps_per_epoch
        lr, weight_decay = self.hyperparameters(self.step)
        set_hyperparameters(self.optimizer, lr=lr, weight_decay=weight_decay)
        losses, names = self._accumulate_gradients(batches, epoch)
        self.scaler.unscale_(self.optimizer)
        self.method.before_step(epoch)
        trained = (parameter for parameter in self.method.parameters() if parameter.requires_grad)
        norm = clip_gradients(trained, self.optim.clip_grad, mode=self.optim.clip_mode)
        numbers, signals = self._exchange(losses, norm, stop)  # the step's one wait for the GPU
        # With fp16, infinite gradients are expected: GradScaler skips the step and lowers its scale.
        finite_norm = math.isfinite(numbers["grad_norm"]) or self.scaler.is_enabled()
        if not (math.isfinite(numbers["loss"]) and finite_norm):
            self._raise_nonfinite(names, losses, numbers)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.method.after_step(epoch)
        self.state.step += 1
        place = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
        return {**place, **numbers, "lr": lr, "weight_decay": weight_decay, **self._method_metrics()}, signals

    def hyperparameters(self, step: int) -> tuple[float, float]:
        """Learning rate and weight decay of `step` (from 0)."""
        optim, total = self.optim, self.total_steps
        if optim.schedule == "steps" and step >= self.warmup_steps:
            epoch = step / self.steps_per_epoch
            lr = multi_step(self.peak_lr, epoch=epoch, milestones=optim.milestones, factor=optim.factor)
        else:
            lr = warmup_cosine(self.peak_lr, optim.lr_end, step=step, total_steps=total, warmup_steps=self.warmup_steps)
        return lr, cosine(optim.weight_decay, optim.weight_decay_end, step / total)

    def _accumulate_gradients(self, batches: Iterator[Batch], epoch: float) -> tuple[dict[str, Tensor], list[str]]:
        """Forward and backward of the step's batches: their mean losses by name, and the names of their videos."""
        weight = 1 / self.optim.accumulation
        means: dict[str, Tensor] = {}
        names: list[str] = []
        self._data_seconds = 0.0
        for number in range(1, self.optim.accumulation + 1):
            started = time.monotonic()
            batch = next(batches)
            self._data_seconds += time.monotonic() - started
            names += batch.names
            shapes = ", ".join(f"{t}x{h}x{w}" for _, t, h, w, _ in (view.shape for view in batch.views))
            advice = memory_advice(f"{len(batch)} videos of views {shapes} (frames x pixels)", _LOWER)
            with advice, gradient_exchange(self.network, on=number == self.optim.accumulation):
                batch = _augmented(batch.to(self.device), self.augment)
                with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                    losses: dict[str, Tensor] = self.network(batch, epoch)
                self.scaler.scale(torch.stack(list(losses.values())).sum() * weight).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, torch.zeros_like(loss)) + loss.detach() * weight
        return means, names

    def _exchange(
        self, losses: Mapping[str, Tensor], norm: Tensor, stop: threading.Event
    ) -> tuple[dict[str, float], dict[str, bool]]:
        """The step's one message between processes: mean losses, and whether any of them must stop or save."""
        minutes = self.run.checkpoint_every_minutes
        overdue = is_main() and minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        flags = torch.tensor([stop.is_set(), overdue], dtype=torch.float32).to(self.device, non_blocking=True)
        own = torch.stack([loss.float() for loss in losses.values()])
        values = all_mean(torch.cat((own.sum()[None], own, _scalar(norm).to(own)[None], flags))).tolist()
        named = dict(zip(losses, values[1 : 1 + len(losses)], strict=True)) if len(losses) > 1 else {}
        numbers = {"loss": values[0], **named, "grad_norm": values[-3]}
        return numbers, {"stop": values[-2] > 0, "overdue": values[-1] > 0}

    def _method_metrics(self) -> dict[str, float]:
        """The method's metrics: plain numbers in every step, tensors, which need a synchronization, at times."""
        look = self.step % self.run.monitor_every_steps == 0 or self.step == self.total_steps
        metrics = self.method.metrics()
        tensors = {name: _scalar(value) for name, value in metrics.items() if isinstance(value, Tensor) and look}
        if tensors:
            means = all_mean(torch.stack([value.float() for value in tensors.values()]).to(self.device)).tolist()
            metrics |= dict(zip(tensors, means, strict=True))
        return {name: value for name, value in metrics.items() if not isinstance(value, Tensor)}

    def _evaluate(self, epoch: int) -> dict[str, float]:
        every = self.run.knn_every_epochs
        if self.evaluate is None or not every or (epoch % every and epoch != self.optim.epochs):
            return {}
        return dict(self.evaluate(plain_copy(self.method.backbone, self.device)))

    def _raise_nonfinite(self, names: list[str], losses: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        mine = {"rank": rank(), "losses": {name: str(loss.item()) for name, loss in losses.items()}, "videos": names}
        path = self.output / NONFINITE_NAME
        processes = gather_objects(mine)
        if is_main():
            self.output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"step": self.step + 1, "processes": processes}, indent=2) + "\n")
        raise NonFiniteLoss(
            f"step {self.step + 1}: the loss is {numbers['loss']}, the gradient norm {numbers['grad_norm']}; {path} "
            "lists the videos of this step. With a lower optim.lr or optim.clip_grad, or run.precision=fp32, the "
            "same command continues from the last checkpoint"
        )

    def _checkpoint_due(self, epoch_ends: bool, overdue: bool) -> bool:
        steps = self.run.checkpoint_every_steps
        if epoch_ends and (self.step // self.steps_per_epoch) % self.run.checkpoint_every_epochs == 0:
            return True
        return self.step == self.total_steps or overdue or (steps is not None and self.step % steps == 0)


def _augmented(batch: Batch, augment: Callable[[Tensor, Any], Tensor]) -> Batch:
    """The batch with views as the input of a network: float (B, 3, T, H, W)."""
    views = [augment(view, params) for view, params in zip(batch.views, batch.params, strict=True)]
    return replace(batch, views=views)


def _scalar(value: Tensor) -> Tensor:
    """One number, also if it is sharded."""
    full: Tensor = full_state(value) if hasattr(value, "full_tensor") else value.detach()
    return full.reshape(())
