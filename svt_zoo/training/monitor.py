"""Measurements of a run: metrics, progress, curves, warnings about a collapse, kNN accuracy."""

import json
import logging
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from tqdm import tqdm

from ..config import FinetuneRecipe, PretrainRecipe
from ..data.lists import VideoList
from ..distributed import barrier, is_main
from ..evaluation.knn import KNNConfig
from ..evaluation.protocols import Extractor, knn_protocol
from ..files import atomic
from ..models import ZooModel
from ..options import ConfigError
from .optim import RunConfig

_log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
TIMES = ("data_seconds", "compute_seconds")  # two equal runs differ only in these
_RECENT = 50  # steps whose mean the time left is estimated from
_SECONDS_BETWEEN_DRAWINGS = 60.0
# Title of each panel, and the metrics in it.
_PANELS = (
    ("loss", ("loss",)),
    ("learning rate", ("lr",)),
    ("weight decay", ("weight_decay",)),
    ("gradient norm", ("grad_norm",)),
    ("entropy of the teacher (nats)", ("teacher_entropy",)),
    ("standard deviation of the features", ("feature_std",)),
    ("rank of the features", ("feature_rank",)),
    ("kNN top-1 (%)", ("knn_top1",)),
    ("seconds per step", ("compute_seconds", "data_seconds")),
)


class Monitor:
    """Writes `metrics.jsonl` and shows progress, in the main process; in others it does nothing.

    On a terminal there is a bar with the time left and the fraction of time that is spent waiting for data; elsewhere a
    log line every `log_every_steps`. When a run continues, the metrics after `step` are removed first.

    Args:
        run: the section of the recipe: the folder, the steps between log lines, whether to write TensorBoard's events.
        step: number of completed steps.
        total_steps: of the run.
        active: whether this is the main process.
        max_entropy: entropy in nats of uniform targets, log K; for the warning about a collapse.
        terminal: whether to show a bar; by default whether standard error is a terminal.

    Raises:
        ValueError: `run.tensorboard` is set, and TensorBoard is not installed.
    """

    def __init__(
        self,
        run: RunConfig,
        *,
        step: int,
        total_steps: int,
        active: bool = True,
        max_entropy: float | None = None,
        terminal: bool | None = None,
    ) -> None:
        self.output, self.log_every, self.total_steps = Path(run.output), run.log_every_steps, total_steps
        self.active, self.max_entropy = active, max_entropy
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # seconds of waiting for data, of the step
        self._started = False
        self._drawn = time.monotonic()
        self._file: IO[str] | None = None
        self._events: Any = None
        self._bar: tqdm[Any] | None = None
        if not active:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        truncate_metrics(self.output / METRICS_NAME, step)
        self._file = open(self.output / METRICS_NAME, "a", encoding="utf-8")  # noqa: SIM115  # closed by `close`
        if run.tensorboard:
            self._events = _event_writer(self.output / "tensorboard", step)
        if sys.stderr.isatty() if terminal is None else terminal:
            shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self._bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, bar_format=shown)

    def record(self, line: Mapping[str, float]) -> None:
        """Write the metrics of a step: `step` (from 1), `epoch`, `loss`, `lr`, the two times and others."""
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        step = int(line["step"])
        if self._events is not None:
            for name, value in line.items():
                self._events.add_scalar(name, value, step)
        self._show(step, line)
        reason = collapse(line, max_entropy=self.max_entropy)
        if reason:
            _log.warning("step %d: the features may have collapsed: %s", step, reason)

    def _show(self, step: int, line: Mapping[str, float]) -> None:
        if len(self._recent) == 1 and not self._started:
            self._recent.clear()  # the first step starts workers and compiles, so it is slower than the others
            self._started = True
        self._recent.append((line["data_seconds"], sum(line[name] for name in TIMES)))
        waiting, total = (sum(times) / len(self._recent) for times in zip(*self._recent, strict=True))
        fraction = waiting / max(total, 1e-9)
        left = tqdm.format_interval((self.total_steps - step) * total)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {line['loss']:.4f}, data {fraction:.0%}, {left} left", refresh=False)
            self._bar.update()
        elif step % self.log_every == 0 or step == self.total_steps:
            _log.info(
                "step %d/%d, epoch %.2f: loss %.4f, lr %.3g, %.3f s per step (waiting for data %.0f%%), %s left",
                step,
                self.total_steps,
                line["epoch"],
                line["loss"],
                line["lr"],
                total,
                100 * fraction,
                left,
            )

    def sync(self) -> None:
        """Write the metrics so far to the disk: a checkpoint must not be ahead of them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def draw(self, *, now: bool = False) -> None:
        """Draw the curves into `curves.png`; without `now` at most once a minute."""
        if self.active and (now or time.monotonic() - self._drawn > _SECONDS_BETWEEN_DRAWINGS):
            self._drawn = time.monotonic()
            draw_curves(read_metrics(self.output / METRICS_NAME), self.output / "curves.png")

    def close(self) -> None:
        """Close the bar and the files."""
        for output in (self._file, self._events, self._bar):
            if output is not None:
                output.close()
        self._file = self._events = self._bar = None


def _event_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which removes events after `step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"run.tensorboard=true, but TensorBoard is not installed ({error}): pip install tensorboard"
        ) from error
    return SummaryWriter(folder, purge_step=step + 1)


def collapse(metrics: Mapping[str, float], *, max_entropy: float | None = None) -> str | None:
    """The reason why the features may have collapsed, by the teacher's entropy and the spread of its features, or None.

    Self-distillation has two kinds of collapse (DINO section 5.3): all targets are the same prototype, with entropy 0,
    or all are uniform, with entropy log K.
    """
    entropy, spread = metrics.get("teacher_entropy"), metrics.get("feature_std")
    if entropy is not None and entropy < 1e-3:
        return (
            f"the teacher's entropy is {entropy:.2g} nats, so all videos get the same prototype; try stronger centering"
        )
    if entropy is not None and max_entropy is not None and entropy > 0.999 * max_entropy:
        return (
            f"the teacher's entropy is {entropy:.4g} of at most {max_entropy:.4g} nats, so its targets are uniform; "
            "a lower teacher temperature may help"
        )
    if spread is not None and spread < 1e-4:
        return f"normalized features have standard deviation {spread:.2g} over videos; a lower learning rate may help"
    return None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, without a line that a kill cut off."""
    return [line for line, _ in _lines(path)]


def truncate_metrics(path: Path, step: int) -> None:
    """Remove the lines after `step`, and a line that was cut off: the run repeats those steps."""
    if not path.exists():
        return
    end = max((end for line, end in _lines(path) if line["step"] <= step), default=0)
    if end < path.stat().st_size:
        os.truncate(path, end)


def _lines(path: Path) -> list[tuple[dict[str, float], int]]:
    """Each complete line of a file, and the offset of its end."""
    lines, end = [], 0
    with open(path, "rb") as file:
        for text in file:
            end += len(text)
            if text.endswith(b"\n"):
                lines.append((json.loads(text), end))
    return lines


def _panels(metrics: Sequence[Mapping[str, float]]) -> list[tuple[str, list[str]]]:
    """Title and metrics of each panel with a curve; a run of one step has points alone."""
    counts = Counter(name for line in metrics for name in line)
    needed = 2 if len(metrics) > 1 else 1
    shown = [(title, [name for name in names if counts[name] >= needed]) for title, names in _PANELS]
    return [(title, names) for title, names in shown if names]


def draw_curves(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the metrics over the epochs into a PNG, one panel per metric that was measured at two steps or more."""
    from matplotlib.figure import Figure  # slow to load, and only the main process draws

    panels = _panels(metrics)
    if not panels:
        return
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for axis, (title, names) in zip(axes[: len(panels)], panels, strict=True):
        for name in names:
            points = [(line["epoch"], line[name]) for line in metrics if name in line]
            axis.plot(*zip(*points, strict=True), linewidth=1, label=name, marker="." if len(points) < 50 else "")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=100)


class OnlineKNN:
    """Measures the top-1 accuracy of a backbone during training by 20 weighted nearest neighbors.

    One clip with a center crop is evaluated per video. All processes must call it. They share the work through a
    folder in `run.output`, which is created and removed.

    Raises:
        ConfigError: a video has no label.
    """

    def __init__(
        self, recipe: PretrainRecipe | FinetuneRecipe, train: VideoList, val: VideoList, device: torch.device
    ) -> None:
        for name, videos in (("data.train", train), ("data.val", val)):
            if (videos.columns.labels < 0).any():
                raise ConfigError(
                    f"kNN needs a label for every video in {name}; set run.knn_every_epochs=0 to switch it off"
                )
        self.data, self.train, self.val, self.device = recipe.data, train, val, device
        self.scratch = Path(recipe.run.output) / "knn"
        self.k = min(20, len(train))

    def __call__(self, backbone: ZooModel) -> dict[str, float]:
        """`knn_top1` in percent."""
        self._clear()
        extractor = Extractor(backbone, self.scratch, self.device, self.data, progress=False)
        [outcome] = knn_protocol(extractor, self.train, self.val, KNNConfig(ks=(self.k,)))
        self._clear()
        return {"knn_top1": outcome.metrics()["top1"]}

    def _clear(self) -> None:
        """Remove the files of an earlier evaluation; all processes wait for it."""
        barrier()
        if is_main():
            shutil.rmtree(self.scratch, ignore_errors=True)
        barrier()
