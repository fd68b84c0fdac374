"""Finds near-duplicates in a table of features, and keeps one of each.

Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication" (2023): k-means, then
comparison within the clusters. Two things differ: each row is in its two nearest clusters, so that fewer pairs are
missed at their borders. And a row is removed only if a similar row is kept.
"""

import os
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.list_formats import write_table
from ..data.lists import VideoList
from .feature_table import Array, FeatureTable
from .search_index import SMALL, import_faiss, sample

_BLOCK = 1024  # rows that are compared at once
_CLUSTERS = 2  # of each row


class Duplicates(NamedTuple):
    """Row numbers to remove, (m,) ascending, and for each the kept row that it is most similar to, with the cosine."""

    removed: Array
    kept: Array
    similarity: Array


def find_duplicates(table: FeatureTable, threshold: float) -> Duplicates:
    """Finds rows with a cosine similarity >= `threshold` to a row of another video that is kept.

    Up to 10,000 rows, all are compared: of two similar rows the first is kept. A larger table is divided by k-means
    (faiss) into sqrt(n) clusters, and only rows with a common cluster among their two nearest are compared. Every
    removed row still has a similar row that is kept; a few duplicates may remain.

    Raises:
        ValueError: the threshold is out of range, or no row has a feature.
        ImportError: the table is large and faiss is not installed.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be a cosine similarity > 0 and <= 1, got {threshold}")
    numbers = table.vectors.numbers
    if not len(numbers):
        raise ValueError(f"no row of {table.path} has a feature; its column `error` states why")
    videos = torch.from_numpy(table.video_codes()[numbers])
    twin, similarity = np.full(len(numbers), -1), np.zeros(len(numbers), np.float32)
    fixed = np.zeros(len(numbers), bool)  # rows because of which others are removed
    for members in _clusters(table):
        rows = members[twin[members] < 0]
        rows = np.concatenate((rows[fixed[rows]], rows[~fixed[rows]]))
        found, cosine = _thin(table.vectors[numbers[rows]], videos[rows], threshold, int(fixed[rows].sum()))
        gone = found >= 0
        twin[rows[gone]], similarity[rows[gone]] = rows[found[gone]], cosine[gone]
        fixed[rows[found[gone]]] = True
    gone = twin >= 0
    return Duplicates(numbers[gone], numbers[twin[gone]], similarity[gone])


def _clusters(table: FeatureTable) -> list[Array]:
    """Places of the features of each cluster, ascending."""
    numbers = table.vectors.numbers
    if len(numbers) <= SMALL:
        return [np.arange(len(numbers))]
    count = round(len(numbers) ** 0.5)
    kmeans = import_faiss().Kmeans(table.width, count, niter=10, spherical=True, min_points_per_centroid=1)
    kmeans.train(sample(table, count).numpy())
    parts = np.split(numbers, range(4096, len(numbers), 4096))
    nearest = np.concatenate([kmeans.index.search(table.vectors[part].numpy(), _CLUSTERS)[1] for part in parts])
    order = nearest.ravel().argsort(kind="stable")
    return np.split(order // _CLUSTERS, np.searchsorted(nearest.ravel()[order], range(1, count)))


def _thin(features: Tensor, videos: Tensor, threshold: float, fixed: int) -> tuple[Array, Array]:
    """For each row (n, D), the kept row of another video with the largest similarity, or -1; and that similarity.

    In order, a row is removed if a row before it that is kept is similar. The first `fixed` rows are kept.
    """
    twin, cosine = np.full(len(features), -1), np.zeros(len(features), np.float32)
    kept = torch.empty(0, dtype=torch.int64)
    for start in range(0, len(features), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(features)))
        pool = torch.cat((kept, block))  # (m,)
        similarity = features[block] @ features[pool].T  # (b, m)
        hits = (similarity >= threshold - 1e-6) & (pool < block[:, None]) & (videos[block][:, None] != videos[pool])
        hits[block < fixed] = False
        alive = torch.ones(len(pool), dtype=torch.bool)
        for i in hits.any(dim=1).nonzero()[:, 0].tolist():
            near = hits[i] & alive
            if near.any():
                best = similarity[i].masked_fill(~near, -2).argmax()
                twin[start + i], cosine[start + i] = pool[best], similarity[i, best]
                alive[len(kept) + i] = False
        kept = pool[alive]
    return twin, cosine


def check_list(table: FeatureTable, videos: VideoList | None) -> None:
    """Raises ValueError if the table was not made from this list, one row per video, or if it needs its list."""
    in_parts = table.metadata.get("every", "None") != "None"
    if videos is None:
        if table.metadata.get("has_times") == "True" and not in_parts:
            raise ValueError(f"{table.path} was made from a list with start_sec or end_sec; name this list by --list")
    elif in_parts or table.metadata.get("list_sha256") != videos.sha256:
        reason = "has several rows per video" if in_parts else "was made from another list, or other columns of it"
        raise ValueError(f"{table.path} {reason}; leave out --list to write paths without labels")


def write_kept(
    table: FeatureTable, found: Duplicates, output: str | os.PathLike[str], videos: VideoList | None = None
) -> int:
    """Writes a list without the duplicates and without the rows that have no feature; returns its number of rows.

    A table with several rows per video (`every`) gives parts of videos. With `videos`, the list that the table was made
    from (else ValueError), labels, groups and times are written too. A list with times is needed (else ValueError).
    """
    check_list(table, videos)
    kept = np.setdiff1d(table.vectors.numbers, found.removed)
    if videos is not None:
        replace(videos, rows=videos.columns.take(kept)).save(output)
        return len(kept)
    columns = 3 if table.metadata.get("every", "None") != "None" else 1
    rows = ((table.locate(row.video), row.start_sec, row.end_sec)[:columns] for row in table.rows(kept))
    write_table(output, ("file", "start_sec", "end_sec")[:columns], rows)
    return len(kept)
