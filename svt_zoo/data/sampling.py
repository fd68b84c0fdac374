"""Frame sampling: pure functions from the number of frames of a video to the frame indices of clips.

Frames are numbered 0 to `total - 1` in presentation order. A clip is a list of `num_frames` ascending indices, spread
evenly over a window of the video, from its first frame to its last. A shorter video repeats all of its frames.
Windows are in frames; `clip_window` computes them from "frames x rate". Numbers out of range raise a ValueError.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch


def uniform_clip(
    total: int, num_frames: int, *, window: float | None = None, clip: int = 0, num_clips: int = 1
) -> list[int]:
    """Frame indices of evaluation clip `clip` of `num_clips`; a single clip lies in the center of the video.

    The first of several windows starts at the start of the video, the last ends at its end, with even spacing. Without
    `window`, a clip covers the complete video.
    """
    window = _fit(total, num_frames, window)
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip must be >= 0 and <= num_clips - 1 = {num_clips - 1}, got {clip}")
    position = clip / (num_clips - 1) if num_clips > 1 else 0.5
    return _spread((total - window) * position, window, num_frames)


def dense_clips(
    total: int, num_frames: int, *, window: float | None = None, step: float | None = None
) -> list[list[int]]:
    """Clips that cover the video: a window every `step` frames, and a last window at the end of the video.

    `window` is as in `uniform_clip`; without `step`, each window starts where the previous one ends.
    """
    window = _fit(total, num_frames, window)
    step = window if step is None else step
    if not step > 0:
        raise ValueError(f"step must be > 0 frames, got {step}")
    slack = total - window
    starts = [step * i for i in range(math.floor(slack / step) + 1)]
    if slack - starts[-1] > 0.5:  # up to half a frame rounds to the last frame
        starts.append(slack)
    return [_spread(start, window, num_frames) for start in starts]


def random_clips(
    total: int, num_frames: int, rng: np.random.Generator, *, window: float | None = None, num_clips: int = 1
) -> list[list[int]]:
    """Training clips: `num_clips` independent windows of `window` frames; the start is uniform."""
    window = _fit(total, num_frames, window)
    return [_spread(_random_start(total, window, rng), window, num_frames) for _ in range(num_clips)]


def clip_window(num_frames: int, sampling_rate: float, fps: float, *, target_fps: float = 30.0) -> float:
    """Window length, in frames of a video at `fps`, of a clip given as frames x rate at `target_fps`.

    8 x 32 at 30 frames per second lasts 8.53 s: 256 frames of a 30 fps video, 213.3 of a 25 fps one. A window has at
    least one frame, also in a video with few frames per second.
    """
    return max(1.0, round(num_frames * sampling_rate * fps / target_fps, 9))  # removes errors of integer windows


def span_clips(
    total: int, rng: np.random.Generator, num_frames: Sequence[int], spans: Sequence[float], *, same: bool = False
) -> list[list[int]]:
    """Clips of random windows, each of a number of frames and a span: a fraction of the video (SVT, section 3.2).

    `same` lets all clips share one window, of the first span (SVT, table 5).
    """
    _check_counts(total, *num_frames)
    windows = []
    for span in spans[:1] if same else spans:
        width = max(1, math.floor(span * total + 1e-9))  # 1e-9: 0.29 * 100 is 28.999999999999996
        windows.append((_random_start(total, width, rng), width))
    if same:
        windows *= len(spans)
    return [_spread(start, width, n) for (start, width), n in zip(windows, num_frames, strict=True)]


def svt_views_code(
    total: int, rng: random.Random, *, rand_fr: bool = False, window: float | None = None
) -> list[list[int]]:
    """Frame indices of the 2 global and 8 local views as in SVT's released code, which differs from the paper.

    The global views are fixed: one from the first frame to the fifth last, one from the sixth frame to the last. Each
    local view covers a random eighth. `random.Random(seed)` draws as the original after `random.seed(seed)`; `rand_fr`
    is its option DATA.RAND_FR. `window` is the length of a random part that contains all views, or the full video.
    """
    _check_counts(total)
    first, size = 0, total
    if window is not None:
        window = _fit(total, 1, window)
        start = rng.uniform(0, total - window)
        first = math.ceil(start)
        last = min(math.floor(start + window - 1) + 1, total - 1)  # the original keeps one frame after the window
        size = last - first + 1
    num_frames = (4, 8, 2, 2, 4, 4, 8, 8, 16, 16) if rand_fr else (8,) * 10
    width = size // 8
    starts = [rng.randint(0, size - width - 1) for _ in range(8)]
    ranges = [(0, size - 5), (5, size), *((start, start + width) for start in starts)]
    views = [svt_indices_code(size, *ends, n) for ends, n in zip(ranges, num_frames, strict=True)]
    return [[first + i for i in view] for view in views]


def svt_indices_code(total: int, start: float, end: float, num_frames: int) -> list[int]:
    """Indices from `start` to `end` as in SVT's code: truncated and clamped to the last frame."""
    # Positions near an integer depend on torch's float32 rounding, so this uses torch.linspace.
    positions = torch.linspace(start, end, num_frames, dtype=torch.float32)  # (num_frames,)
    return [int(i) for i in positions.clamp(0, total - 1)]


def cvrl_interval_clips(
    total: int, rng: np.random.Generator, *, num_frames: tuple[int, int] = (16, 16), window: float | None = 31
) -> tuple[list[int], list[int]]:
    """Two clips, the earlier first; longer intervals between them are less likely.

    With M possible starts, the interval between the two starts has the density 2 / M * (1 - interval / M). This is the
    temporal interval sampler of CVRL (Qian et al., CVPR 2021), which SVT's table 6 compares, with its defaults.
    """
    window = _fit(total, min(num_frames), window)
    num_starts = math.floor(total - window) + 1
    interval = math.floor(num_starts * (1 - math.sqrt(1 - rng.random())))  # inverse of the distribution function
    start = int(rng.integers(num_starts - interval))
    return _spread(start, window, num_frames[0]), _spread(start + interval, window, num_frames[1])


def tsn_bounds(total: int, num_frames: int) -> list[int]:
    """The `num_frames + 1` bounds of the equal segments of a video in TSN (Wang et al., ECCV 2016)."""
    _check_counts(total, num_frames)
    segment = (total - 1) / num_frames
    return [round(segment * i) for i in range(num_frames + 1)]  # halves round to even


def tsn_train_clip(total: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """One random frame of each of `num_frames` equal segments: the training clip of Something-Something v2.

    As in TimeSformer, Motionformer, X-ViT and TIME, the draw includes both bounds of a segment.
    """
    bounds = tsn_bounds(total, num_frames)
    return [int(i) for i in rng.integers(bounds[:-1], bounds[1:], endpoint=True)]


def tsn_eval_clip(total: int, num_frames: int, *, at: Literal["middle", "start"] = "middle") -> list[int]:
    """One fixed frame of each of `num_frames` equal segments: the evaluation clip of Something-Something v2.

    TimeSformer, Motionformer and TIME use only the middles. X-ViT uses two clips: the middles, then the starts.
    """
    bounds = tsn_bounds(total, num_frames)
    if at == "start":
        return bounds[:-1]
    if at == "middle":
        return [(low + high) // 2 for low, high in pairwise(bounds)]
    raise ValueError(f'at must be "middle" or "start", got {at!r}')


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Makes the generator of sample `index` in `epoch`: the same in any worker, process or resumed run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch, index))))


def replacement_index(seed: int, epoch: int, index: int, attempt: int, size: int) -> int:
    """The replacement, below `size`, for a failed `index`, from a hash of (seed, epoch, index).

    Attempts 0 to `size - 2` return every other index once, so no broken video is tried twice.
    """
    others = size - 1
    if not 0 <= attempt < others:
        raise ValueError(f"sample {index} has {others} others to replace it, got attempt={attempt}")
    hashed = np.random.SeedSequence(seed, spawn_key=(epoch, index, 1))  # the 1 makes it differ from sample_rng
    first, stride = (int(word) % others for word in hashed.generate_state(2, np.uint64))
    while math.gcd(stride, others) != 1:  # only a coprime stride reaches all indices
        stride += 1
    other = (first + attempt * stride) % others
    return other + (other >= index)


def _spread(start: float, window: float, num_frames: int) -> list[int]:
    """The frames nearest to `num_frames` positions spread evenly from `start` to `start + window - 1`."""
    if num_frames == 1:
        return [math.floor(start + (window - 1) / 2 + 0.5)]
    return [math.floor(start + (window - 1) * i / (num_frames - 1) + 0.5) for i in range(num_frames)]


def _random_start(total: int, window: float, rng: np.random.Generator) -> int:
    return int(rng.integers(math.floor(total - window) + 1))


def _fit(total: int, num_frames: int, window: float | None) -> float:
    """The window, limited to the video."""
    _check_counts(total, num_frames)
    if window is None:
        return total
    if not window >= 1:
        raise ValueError(f"window must be >= 1 frame, got {window}")
    return min(window, total)


def _check_counts(total: int, *num_frames: int) -> None:
    if total < 1:
        raise ValueError(f"total must be >= 1 frame, got {total}")
    if any(n < 1 for n in num_frames):
        raise ValueError(f"num_frames must be >= 1, got {', '.join(map(str, num_frames))}")
