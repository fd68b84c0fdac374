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
import torch.nn.functional as F
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
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> Neighbors:
    """Find the `k` rows of bank (N, D) with the largest cosine similarity to each of the queries (Q, D).

    Besides the features, only one chunk of similarities is in memory at a time: 0.2 GB on the device at the defaults
    for k = 20 and D = 768, in proportion to both chunk sizes. Among equal similarities the lower row comes first, so
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
    chunks = [_nearest_of_chunk(chunk, bank, k, device, bank_chunk) for chunk in queries.split(query_chunk)]
    return Neighbors(torch.cat([chunk.similarity for chunk in chunks]), torch.cat([chunk.rows for chunk in chunks]))


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
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
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


def _nearest_of_chunk(queries: Tensor, bank: Tensor, k: int, device: torch.device, bank_chunk: int) -> Neighbors:
    queries = _normalized(queries, device)
    similarity = torch.empty(len(queries), 0, device=device)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    start = 0
    for part in bank.split(bank_chunk):
        values, places = _top(queries @ _normalized(part, device).T, min(k, len(part)))
        similarity = torch.cat((similarity, values), dim=1)
        index = torch.cat((index, places + start), dim=1)
        # Earlier results have lower rows and come first in the sort, which is stable: among equals they stay first.
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        similarity, index = similarity[:, :k], index.gather(1, order)[:, :k]
        start += len(part)
    return Neighbors(similarity.cpu(), index.cpu())


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest values of each row and their positions; among equal values the first."""
    values, places = similarity.topk(k, dim=1)
    undecided = (similarity >= values[:, -1:]).sum(dim=1) > k  # topk picks any of equal values
    if bool(undecided.any()):
        exact = similarity[undecided].sort(dim=1, descending=True, stable=True)
        places[undecided] = exact.indices[:, :k]
    places = places.sort(dim=1).values
    values, order = similarity.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def _normalized(features: Tensor, device: torch.device) -> Tensor:
    rows = F.normalize(features.to(device=device, dtype=torch.float32), dim=1)
    if bool(rows.isnan().any()):
        raise ValueError(f"{int(rows.isnan().any(dim=1).sum())} of {len(rows)} features hold NaN or infinity")
    return rows
