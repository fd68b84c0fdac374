"""What a run says of itself: one line of numbers a step, a progress bar or plain lines, and a word on collapse."""

import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from .plots import draw_curves

_log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
TIMES = ("data_seconds", "compute_seconds")  # what two equal runs differ in
_RECENT = 50  # steps whose mean the time left is estimated from
_SECONDS_BETWEEN_DRAWINGS = 60.0


class Monitor:
    """Writes `metrics.jsonl` and shows progress, in the main process; in others it does nothing.

    On a terminal there is a bar with the time left and the share of it that goes into waiting for data; elsewhere a
    line every `log_every` steps. Of a run that goes on, the lines behind `step` are taken back first.

    Args:
        output: the run's folder.
        step: steps that are done.
        total_steps: of the run.
        log_every: steps between two lines.
        active: whether this is the main process.
        max_entropy: entropy in nats of targets that say nothing, log K; for the word on collapse.
        tensorboard: also write event files into `output/tensorboard`.
        terminal: whether to show a bar; by default whether standard error is a terminal.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        output: Path,
        *,
        step: int,
        total_steps: int,
        log_every: int = 20,
        active: bool = True,
        max_entropy: float | None = None,
        tensorboard: bool = False,
        terminal: bool | None = None,
    ) -> None:
        self.output, self.total_steps, self.log_every, self.active = output, total_steps, log_every, active
        self.max_entropy = max_entropy
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # seconds of waiting for data, of all
        self._started = False
        self._drawn = time.monotonic()
        self._file: IO[str] | None = None
        self._events: Any = None
        self._bar: tqdm[Any] | None = None
        if not active:
            return
        output.mkdir(parents=True, exist_ok=True)
        truncate_metrics(output / METRICS_NAME, step)
        self._file = open(output / METRICS_NAME, "a", encoding="utf-8")  # noqa: SIM115  # closed by `close`
        if tensorboard:
            self._events = _event_writer(output / "tensorboard", step)
        if sys.stderr.isatty() if terminal is None else terminal:
            shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self._bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, bar_format=shown)

    def record(self, line: Mapping[str, float]) -> None:
        """Take the numbers of a step: its `step` (from 1), `epoch`, `loss`, `lr`, the two times and others."""
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
            self._recent.clear()  # the first step starts readers and compiles: it says nothing of the rest
            self._started = True
        self._recent.append((line["data_seconds"], sum(line[name] for name in TIMES)))
        waiting, total = (sum(times) / len(self._recent) for times in zip(*self._recent, strict=True))
        share = waiting / max(total, 1e-9)
        left = tqdm.format_interval((self.total_steps - step) * total)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {line['loss']:.4f}, data {share:.0%}, {left} left", refresh=False)
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
                100 * share,
                left,
            )

    def sync(self) -> None:
        """Put the lines so far on the disk: a checkpoint must not be ahead of them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def draw(self, *, now: bool = False) -> None:
        """Draw the curves into `curves.png`; without `now` at most once a minute."""
        if self.active and (now or time.monotonic() - self._drawn > _SECONDS_BETWEEN_DRAWINGS):
            self._drawn = time.monotonic()
            draw_curves(read_metrics(self.output / METRICS_NAME), self.output / "curves.png")

    def close(self) -> None:
        """End the bar and the files."""
        for part in (self._file, self._events, self._bar):
            if part is not None:
                part.close()
        self._file = self._events = self._bar = None

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _event_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which takes back what lies behind `step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"run.tensorboard=true, but TensorBoard is not installed ({error}): pip install tensorboard"
        ) from error
    return SummaryWriter(folder, purge_step=step + 1)


def collapse(metrics: Mapping[str, float], *, max_entropy: float | None = None) -> str | None:
    """Why the features may have collapsed, by the teacher's entropy and the spread of its features, or None.

    The two collapses of self-distillation (DINO section 5.3): all targets are one and the same prototype, entropy 0,
    or all are uniform, entropy log K.
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
    """The lines of a `metrics.jsonl`, without one that was cut off by a kill."""
    return [line for line, _ in _lines(path)]


def truncate_metrics(path: Path, step: int) -> None:
    """Take back all lines behind `step`, and one that was cut off: the run does those steps again."""
    if not path.exists():
        return
    end = max((end for line, end in _lines(path) if line["step"] <= step), default=0)
    if end < path.stat().st_size:
        os.truncate(path, end)


def _lines(path: Path) -> list[tuple[dict[str, float], int]]:
    """Each whole line of a file, and the byte behind it."""
    lines, end = [], 0
    with open(path, "rb") as file:
        for text in file:
            end += len(text)
            if text.endswith(b"\n"):
                lines.append((json.loads(text), end))
    return lines
