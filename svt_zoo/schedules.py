"""Schedules of learning rate, weight decay, momentum and temperature, as pure functions of the progress of a run.

`progress` is step / steps of the run: 0 at the first step, and 1 only after the last one. The last step therefore has
not quite reached the end value, as in DINO and SVT.
"""

import math
from collections.abc import Sequence


def linear(start: float, end: float, progress: float) -> float:
    """Linear interpolation from `start` (progress 0) to `end` (progress >= 1)."""
    return start + (end - start) * min(progress, 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine wave from `start` (progress 0) to `end` (progress >= 1)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def warmup_cosine(
    peak: float, end: float, *, step: int, total_steps: int, warmup_steps: int = 0, start: float = 0.0
) -> float:
    """The value at `step` (from 0): a linear warm-up from `start` to `peak`, then a cosine to `end`.

    The last step of the warm-up and the first step of the cosine both have `peak`, as in DINO and SVT. A warm-up of one
    step has `start`.

    Raises:
        ValueError: `warmup_steps` is above `total_steps`.
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must be >= 0 and <= total_steps={total_steps}, got {warmup_steps}")
    if step < warmup_steps:
        return linear(start, peak, step / max(warmup_steps - 1, 1))
    return cosine(peak, end, (step - warmup_steps) / max(total_steps - warmup_steps, 1))


def multi_step(start: float, *, epoch: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`start` times `factor` for each of the `milestones` (epochs) up to `epoch`."""
    return start * factor ** sum(epoch >= milestone for milestone in milestones)


def warmup_epochs(start: float, end: float, *, epoch: float, warmup: int) -> float:
    """The value of an epoch: `warmup` evenly spaced values from `start` to `end`, both included, then `end`.

    It is constant within an epoch, as the teacher temperature of DINO and SVT.
    """
    index = int(epoch)
    return linear(start, end, index / max(warmup - 1, 1)) if index < warmup else end
