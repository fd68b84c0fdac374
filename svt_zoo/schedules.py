"""How a value moves during a run: pure functions of where the run stands, for learning rates, decay and momentum.

`progress` is the share of the run that is done: 0 at the first step, and 1 only behind the last, so a run of N steps
comes within one step of the end value and does not reach it. DINO and SVT train so.
"""

import math
from collections.abc import Sequence


def linear(start: float, end: float, progress: float) -> float:
    """The value on a straight line from `start` (progress 0) to `end` (progress 1, and beyond)."""
    return start + (end - start) * min(progress, 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """The value on half a cosine wave from `start` (progress 0) to `end` (progress 1, and beyond)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def warmup_cosine(
    peak: float, end: float, *, step: int, total_steps: int, warmup_steps: int = 0, start: float = 0.0
) -> float:
    """The value at `step` (from 0): a straight warm-up from `start` to `peak`, then a cosine towards `end`.

    The warm-up includes both its ends, so its last step and the first step of the cosine both have `peak`, as in
    DINO and SVT; a warm-up of one step is `start`.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie in 0..total_steps={total_steps}, got {warmup_steps}")
    if step < warmup_steps:
        return linear(start, peak, step / max(warmup_steps - 1, 1))
    return cosine(peak, end, (step - warmup_steps) / max(total_steps - warmup_steps, 1))


def multi_step(start: float, *, epoch: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`start`, multiplied by `factor` at each of the `milestones` (epochs) that has been reached."""
    return start * factor ** sum(epoch >= milestone for milestone in milestones)


def warmup_epochs(start: float, end: float, *, epoch: float, warmup: int) -> float:
    """The value of an epoch: `warmup` equal values from `start` to `end`, both included, then `end`.

    It stays the same within an epoch. DINO's and SVT's teacher temperature moves so.
    """
    whole = int(epoch)
    return linear(start, end, whole / max(warmup - 1, 1)) if whole < warmup else end
