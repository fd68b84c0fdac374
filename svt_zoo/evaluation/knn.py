"""Weighted k-nearest-neighbor classifier: evaluates features without training.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 3.4. DINO and
SVT use the same evaluation.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..options import bounds
from .metrics import check_classes
from .views import check_views

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KNNConfig:
    """Weighted k-nearest-neighbor evaluation (Wu et al. 2018, section 3.4; as DINO and SVT).

    Attributes:
        ks: numbers of neighbors, one result each; those above the number of training videos are skipped.
        temperature: temperature of the votes exp(similarity / temperature).
        views: crops x clips of each training and evaluation video, whose features are averaged; "slow-fast 3x1" adds
            fast clips (SVT section 3.4).
        shots: number of training videos per class, drawn by the seed; null uses all.
        standardize: first scale each feature to mean 0 and standard deviation 1 of the bank; not in DINO's or SVT's
            evaluation. It helps where all features have a large vector in common.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    views: str = "1x1"
    shots: int | None = None
    standardize: bool = False

    def __post_init__(self) -> None:
        bounds(self, "ks", "shots", low=1)
        bounds(self, "temperature", above=0)
        check_views(self.views)
        if not self.ks:
            raise ValueError("ks must hold one or more numbers of neighbors, got none")


class Neighbors(NamedTuple):
    """k nearest rows of a bank, nearest first: cosine `similarity` (Q, k) float32, `rows` (Q, k) int64, on the CPU."""

    similarity: Tensor
    rows: Tensor


def nearest(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    device: torch.device | str | None = None,
    query_chunk: int = 512,
    bank_chunk: int = 32768,
) -> Neighbors:
    """Find the `k` rows of bank (N, D) with the largest cosine similarity to each of the queries (Q, D).

    Besides the features, one chunk of similarities and one of the bank are in memory: 0.3 GB on the device at the
    defaults and D = 768. Among equal similarities the lower row comes first, so
    the chunk sizes affect the result only through the rounding of dot products.

    Features are normalized here, and may stay in host memory. A `k` above N is reduced to N, with a warning.

    Raises:
        ValueError: the features differ in length or hold NaN, or a number is below 1.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(f"features are (Q, D) and (N, D), got {tuple(queries.shape)} and {tuple(bank.shape)}")
    if min(k, query_chunk, bank_chunk, len(bank)) < 1:
        raise ValueError(
            f"k, chunks and the bank must be at least 1, got k={k}, query_chunk={query_chunk}, "
            f"bank_chunk={bank_chunk}, {len(bank)} features"
        )
    if k > len(bank):
        _log.warning("k=%d is more than the %d training features; using all of them", k, len(bank))
        k = len(bank)
    device = torch.device(device or queries.device)
    similarity, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    best = [Neighbors(*parts) for parts in zip(similarity.split(query_chunk), rows.split(query_chunk), strict=True)]
    for start in range(0, len(bank), bank_chunk):  # the larger side outside: each chunk of it is normalized once
        part = _normalized(bank[start : start + bank_chunk], device)
        for i, chunk in enumerate(queries.split(query_chunk)):
            found = _top(_normalized(chunk, device) @ part.T, min(k, len(part)))
            similarity = torch.cat((best[i].similarity, found.similarity.cpu()), dim=1)
            rows = torch.cat((best[i].rows, found.rows.cpu() + start), dim=1)  # ascending among equal similarities
            similarity, places = _top(similarity, min(k, similarity.shape[1]))
            best[i] = Neighbors(similarity, rows.gather(1, places))
    return Neighbors(torch.cat([chunk.similarity for chunk in best]), torch.cat([chunk.rows for chunk in best]))


def vote(neighbors: Neighbors, bank_labels: Tensor, num_classes: int, *, temperature: float = 0.07) -> Tensor:
    """Votes for each class, (Q, K): each neighbor adds exp(similarity / temperature) to its own class.

    Raises:
        ValueError: a label is not a class number (-1 means "none").
    """
    check_classes(bank_labels, num_classes, "labels of the bank")
    similarity, rows = neighbors
    votes = torch.zeros(len(rows), num_classes)
    return votes.scatter_add_(1, bank_labels.cpu()[rows], (similarity / temperature).exp())


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    device: torch.device | str | None = None,
    query_chunk: int = 512,
    bank_chunk: int = 32768,
) -> dict[int, Tensor]:
    """Scores (Q, K) of the queries for each number of neighbors in `ks`, for `metrics.accuracy`.

    A class without votes scores minus infinity and is never counted as a guess. For example, 5 neighbors from 3
    classes give no fourth guess for top-5 accuracy. `bank` (N, D) and `bank_labels` (N,) are what is learned from.
    """
    if len(bank) != len(bank_labels):
        raise ValueError(f"{len(bank)} features of the bank have {len(bank_labels)} labels")
    widest = nearest(queries, bank, max(ks), device=device, query_chunk=query_chunk, bank_chunk=bank_chunk)
    scores = {}
    for k in ks:
        first = Neighbors(widest.similarity[:, :k], widest.rows[:, :k])
        votes = vote(first, bank_labels, num_classes, temperature=temperature)
        scores[k] = votes.masked_fill(votes == 0, float("-inf"))
    return scores


def standardized(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both, with each feature scaled to mean 0 and standard deviation 1 of the training features (..., D)."""
    rows = train.flatten(0, -2)
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-6)
    return (train - mean) / std, (test - mean) / std


def few_shot(labels: Tensor, n: int, seed: int = 0) -> Tensor:
    """Rows of a random bank with `n` videos per class: int64 (n * classes,), ascending; `seed` fixes the choice.

    With the same seed, a larger `n` includes the rows of a smaller one.

    Raises:
        ValueError: a class has fewer than `n` videos.
    """
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0].cpu()
        if not 1 <= n <= len(members):
            raise ValueError(
                f"shots must be 1 to {len(members)}, the number of training videos of class {label}, got {n}"
            )
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen.append(members[torch.from_numpy(order[:n])])
    return torch.cat(chosen).sort().values


def _top(similarity: Tensor, k: int) -> Neighbors:
    """The `k` largest values of each row and their positions; among equal values the first."""
    values, places = _some_top(similarity, min(k + 1, similarity.shape[1]))
    equal = values[:, 1:] == values[:, :-1]  # topk returns equal values in any order
    undecided, tied = equal[:, k - 1 :].any(dim=1), equal.any(dim=1)
    values, places = values[:, :k], places[:, :k]
    if bool(undecided.any()):
        places[undecided] = similarity[undecided].sort(dim=1, descending=True, stable=True).indices[:, :k]
    if bool(tied.any()):
        first = places[tied].sort(dim=1).values
        values[tied], order = similarity[tied].gather(1, first).sort(dim=1, descending=True, stable=True)
        places[tied] = first.gather(1, order)
    return Neighbors(values, places)


def _some_top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `similarity.topk(k)`, faster for wide rows: the k largest are in the k groups of 16 of largest maximum."""
    width = similarity.shape[1] // 16
    if width < 4 * k:
        return similarity.topk(k, dim=1)
    body = similarity[:, : 16 * width].unflatten(1, (16, width))  # (Q, 16, width)
    groups = body.amax(dim=1).topk(k, dim=1, sorted=False).indices[:, :, None]  # (Q, k, 1)
    places = torch.arange(similarity.shape[1], device=similarity.device)
    tail = places[16 * width :].expand(len(similarity), -1)
    candidates = torch.cat(((groups + width * places[:16]).flatten(1), tail), dim=1)
    values, best = similarity.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, best)


def _normalized(features: Tensor, device: torch.device) -> Tensor:
    rows = features.to(device=device, dtype=torch.float32)
    norms = rows.norm(dim=1, keepdim=True)  # not finite if a value is not
    if bool((~norms.isfinite()).any()):
        raise ValueError(f"{int((~norms.isfinite()).sum())} of {len(rows)} features hold NaN or infinity")
    return rows / norms.clamp(min=1e-12)
