"""Accuracy with confidence intervals, and confusion matrices."""

import io
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
import torch
from torch import Tensor


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval, the confidence interval of a fraction: bounds in [0, 1].

    It is valid for small samples and for fractions near 0 and 1, where the textbook's p +- 1.96 s fails (Wilson 1927).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction = successes / trials
    center = fraction + z * z / (2 * trials)
    half = z * math.sqrt(fraction * (1 - fraction) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def mean_interval(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of several fractions, each from its own trials: bounds in [0, 1].

    Combines the Wilson intervals of the fractions (Zou and Donner, "Construction of confidence limits about effect
    measures", 2008). A class without errors still adds uncertainty.
    """
    fractions = [s / n for s, n in zip(successes, trials, strict=True)]
    bounds = [wilson_interval(s, n, confidence) for s, n in zip(successes, trials, strict=True)]
    below = math.hypot(*(fraction - low for fraction, (low, _) in zip(fractions, bounds, strict=True)))
    above = math.hypot(*(high - fraction for fraction, (_, high) in zip(fractions, bounds, strict=True)))
    mean, count = fmean(fractions), len(fractions)
    return max(0.0, mean - below / count), min(1.0, mean + above / count)


def group_interval(
    values: Tensor, groups: Sequence[str], *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the mean of `values` (N,), which are alike within a group (the same scene or person).

    The percentile bootstrap: complete groups are drawn with replacement. For the difference of two methods, pass the
    difference of each video.

    Raises:
        ValueError: there are fewer than two groups.
    """
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval needs videos of two or more groups, got {len(names)}")
    sums, counts = np.bincount(codes, values.double().numpy()), np.bincount(codes)
    rng, means = np.random.default_rng(seed), []
    for part in np.array_split(np.arange(resamples), 1 + resamples * len(names) // 1_000_000):
        drawn = rng.integers(len(names), size=(len(part), len(names)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def check_classes(numbers: Tensor, num_classes: int, name: str) -> None:
    """Check that all `numbers` are class numbers; a video without a label has -1.

    Raises:
        ValueError: a number is below 0 or too high; `name` states what they are.
    """
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < num_classes:
        low, high = int(numbers.min()), int(numbers.max())
        raise ValueError(f"{name} must lie in 0 to {num_classes - 1}, got {low} to {high}")


def class_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class among the scores (N, K), 0 for the best: int64 (N,).

    Among equal scores the lower class number comes first. A class with score minus infinity is not a guess: its
    rank is K.

    Raises:
        ValueError: the shapes do not fit, a label is not a class number, or a score is NaN.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores are (N, K) and labels (N,), got {tuple(scores.shape)} and {tuple(labels.shape)}")
    num_classes = scores.shape[1]
    check_classes(labels, num_classes, "labels")
    if bool(scores.isnan().any()):
        raise ValueError(f"{int(scores.isnan().any(dim=1).sum())} of {len(scores)} rows of scores hold NaN")
    true = scores.gather(1, labels[:, None])  # (N, 1)
    earlier = torch.arange(num_classes, device=scores.device) < labels[:, None]  # (N, K)
    ranks = (scores > true).sum(dim=1) + ((scores == true) & earlier).sum(dim=1)
    return torch.where(true[:, 0].isneginf(), num_classes, ranks)


def accuracy(
    scores: Tensor, labels: Tensor, *, topk: Sequence[int] = (1, 5), confidence: float = 0.95
) -> dict[str, float]:
    """Top-k and mean-class accuracy of scores (N, K), in percent, each with its interval.

    Keys are `top1`, `top1_low`, `top1_high`, `top5`, ..., `mean_class`, `mean_class_low`, `mean_class_high`. A k
    is left out if there are no more than k classes. Classes without a video are not part of the mean.

    Raises:
        ValueError: there are no videos, or as in `class_ranks`.
    """
    ranks = class_ranks(scores, labels)
    total = len(labels)
    if total == 0:
        raise ValueError("accuracy needs at least one prediction, got none")
    parts: dict[str, tuple[float, float, float]] = {}  # each a fraction and its interval
    for k in topk:
        if k == 1 or k < scores.shape[1]:
            hits = int((ranks < k).sum())
            parts[f"top{k}"] = hits / total, *wilson_interval(hits, total, confidence)
    trials = labels.bincount(minlength=scores.shape[1])
    successes = labels[ranks == 0].bincount(minlength=scores.shape[1])
    correct, counts = successes[trials > 0].tolist(), trials[trials > 0].tolist()
    mean = fmean(hits / count for hits, count in zip(correct, counts, strict=True))
    parts["mean_class"] = mean, *mean_interval(correct, counts, confidence)
    metrics: dict[str, float] = {}
    for name, (fraction, low, high) in parts.items():
        metrics |= {name: 100 * fraction, f"{name}_low": 100 * low, f"{name}_high": 100 * high}
    return metrics


def summarize(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over several runs (seeds, splits), and its sample standard deviation as `<metric>_std`.

    Raises:
        ValueError: there are no runs, or they have different metrics.
    """
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError(f"needs runs with the same metrics, got {[sorted(run) for run in runs]}")
    summary = {name: fmean(run[name] for run in runs) for name in runs[0]}
    if len(runs) > 1:
        points = [name for name in runs[0] if not name.endswith(("_low", "_high"))]
        summary |= {f"{name}_std": stdev(run[name] for run in runs) for name in points}
    return summary


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count the videos of each true class (row) by predicted class (column): int64 (K, K).

    Raises:
        ValueError: a prediction or a label is not a class number.
    """
    check_classes(predictions, num_classes, "predictions")
    check_classes(labels, num_classes, "labels")
    cells = (labels * num_classes + predictions).bincount(minlength=num_classes**2)
    return cells.view(num_classes, num_classes)  # (K, K): row = label


def plot_confusion(matrix: Tensor, *, classes: Sequence[str] = ()) -> bytes:
    """Draw a confusion matrix (K, K) as PNG: rows as fractions of their class, class names where space allows."""
    from matplotlib.figure import Figure  # slow to import (a second), and rarely needed

    num_classes = len(matrix)
    fractions = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).cpu().numpy()
    side = min(3 + 0.3 * num_classes, 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if classes and num_classes <= 60:
        axes.set_xticks(range(num_classes), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(num_classes), classes, fontsize=7)
    if num_classes <= 20:
        for row, column in np.ndindex(*fractions.shape):
            color = "white" if fractions[row, column] > 0.5 else "black"
            text = str(int(matrix[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
