"""Accuracy with confidence intervals, and confusion matrices."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import torch
from torch import Tensor


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval, the confidence interval of a fraction: bounds in [0, 1].

    It is valid for small samples and for fractions near 0 and 1, where the textbook's p +- 1.96 s fails (Wilson 1927).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of several fractions, each from its own trials: bounds in [0, 1].

    Combines the Wilson intervals of the fractions (Zou and Donner, "Construction of confidence limits about effect
    measures", 2008). A class without errors still adds uncertainty.
    """
    shares = [s / n for s, n in zip(successes, trials, strict=True)]
    bounds = [wilson_interval(s, n, confidence) for s, n in zip(successes, trials, strict=True)]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, bounds, strict=True)))
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, bounds, strict=True)))
    mean = fmean(shares)
    return max(0.0, mean - below / len(shares)), min(1.0, mean + above / len(shares))


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
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must lie in 0 to {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}")
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
    metrics: dict[str, float] = {}
    for k in topk:
        if k == 1 or k < scores.shape[1]:
            right = int((ranks < k).sum())
            _add(metrics, f"top{k}", right / total, wilson_interval(right, total, confidence))
    trials = labels.bincount(minlength=scores.shape[1])
    successes = labels[ranks == 0].bincount(minlength=scores.shape[1])
    shown = trials > 0
    hits, counts = successes[shown].tolist(), trials[shown].tolist()
    share = fmean(hit / count for hit, count in zip(hits, counts, strict=True))
    _add(metrics, "mean_class", share, mean_interval(hits, counts, confidence))
    return metrics


def summarise(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
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
    for name, numbers in (("predictions", predictions), ("labels", labels)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < num_classes:
            found = f"{int(numbers.min())} to {int(numbers.max())}"
            raise ValueError(f"{name} must lie in 0 to {num_classes - 1}, got {found}")
    cells = (labels * num_classes + predictions).bincount(minlength=num_classes**2)
    return cells.view(num_classes, num_classes)  # (K, K): row = label


def plot_confusion(matrix: Tensor, path: str | Path, *, classes: Sequence[str] = ()) -> Path:
    """Draw a confusion matrix (K, K) as PNG: rows as fractions of their class, class names where space allows."""
    from matplotlib.figure import Figure  # slow to import (a second), and rarely needed

    num_classes = len(matrix)
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(3 + 0.3 * num_classes, 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if classes and num_classes <= 60:
        axes.set_xticks(range(num_classes), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(num_classes), classes, fontsize=7)
    if num_classes <= 20:
        for row in range(num_classes):
            for column in range(num_classes):
                colour = "white" if shares[row, column] > 0.5 else "black"
                count = int(matrix[row, column])
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    return path


def _add(metrics: dict[str, float], name: str, share: float, bounds: tuple[float, float]) -> None:
    metrics[name] = 100 * share
    metrics[f"{name}_low"], metrics[f"{name}_high"] = (100 * bound for bound in bounds)
