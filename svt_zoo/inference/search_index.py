"""An index of a table of features, for search over millions of rows: faiss, with exact similarities at the end.

The rows are grouped by k-means (cells), and stored with one byte per number. A query is compared with the rows of the
nearest cells; the best of these again with the features of the table. How many cells are read is chosen by measuring.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.pool import fingerprint
from ..files import atomic, read_facts, remove
from .feature_table import Array, FeatureTable

SMALL = 10_000  # up to this number of rows, exact search is as fast
_SAMPLE = 64  # rows per cell that its center is computed from
_PART = 1 << 17  # rows that are added again at most after a kill
_HELD_OUT, _NEAREST, _RECALL = 200, 10, 0.99  # rows to measure with, neighbors of each, and the fraction to find


class SearchIndex(NamedTuple):
    """An index next to its table: `facts` states `rows`, `cells`, `nprobe` (cells read per query) and `recall`.

    `recall` is the fraction of the 10 exact nearest rows that half of these cells give. It is measured with 200 rows of
    the table that the cells were not made from. Each is searched without itself.
    """

    path: Path
    facts: dict[str, Any]
    faiss: Any

    def candidates(self, queries: Tensor, top: int) -> Array:
        """Row numbers (Q, m) that may be the `top` nearest of normalized queries (Q, D); -1 where there are fewer."""
        return self.faiss.search(queries.numpy(), min(max(10 * top, 100), self.faiss.ntotal))[1]


def import_faiss() -> Any:
    """Returns the module.

    Raises:
        ImportError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("this needs faiss: pip install faiss-cpu; exact search does without") from error
    return faiss


def rerank(table: FeatureTable, query: Tensor, candidates: Array, top: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and row numbers of the `top` candidates (m,) nearest to a normalized query (D,)."""
    numbers = np.sort(candidates[candidates >= 0])
    scores, best = (table.vectors[numbers] @ query).topk(min(top, len(numbers)))
    return scores, torch.from_numpy(numbers)[best]


def open_index(table: FeatureTable) -> SearchIndex:
    """Returns the index next to the table. It is built if it is missing or the table has changed.

    After a kill, the next call continues; at most 131,072 rows are added again. While it is built, the index is in
    memory: D + 8 bytes per row. Later it is a memory map.

    Raises:
        ImportError: faiss is not installed.
        ValueError: the table has too few rows; exact search is as fast for them.
    """
    faiss = import_faiss()
    path = table.path.with_name(f"{table.path.name}.faiss")
    note = path.with_name(f"{path.name}.json")
    made_from = {"table": [table.path.name, *fingerprint(str(table.path))], "faiss": faiss.__version__}
    facts = read_facts(note)
    if path.exists() and made_from.items() <= facts.items() and "recall" in facts:
        return SearchIndex(path, facts, _mapped(path, fingerprint(path)))
    total = len(table.vectors.numbers)
    if total <= SMALL:
        raise ValueError(f"{table.path} has {total} features; an index is for more than {SMALL}, search without it")
    folder = path.with_name(f"{path.name}.parts")
    claim = folder / "table.json"
    if read_facts(claim) != made_from:
        remove(folder)
        with atomic(claim) as part:
            part.write_text(json.dumps(made_from))
    index = _add(table, folder, _train(table, folder, round(total**0.5)))
    facts = {**made_from, "rows": total, "cells": index.nlist, **_tune(table, index)}
    with atomic(path) as part:
        faiss.write_index(index, str(part))
    with atomic(note) as part:
        part.write_text(json.dumps(facts))
    remove(folder)
    return SearchIndex(path, facts, _mapped(path, fingerprint(path)))


@lru_cache(maxsize=2)
def _mapped(path: Path, _state: tuple[int, int]) -> Any:
    return _load(path, import_faiss().IO_FLAG_MMAP)


def _load(path: Path, flags: int = 0) -> Any:
    """The index in a file; ValueError if it is damaged."""
    try:
        return import_faiss().read_index(str(path), flags)
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged; delete it, then run the same command again") from error


def _held_out(numbers: Array) -> Array:
    return numbers[np.linspace(0, len(numbers) - 1, min(_HELD_OUT, len(numbers))).astype(np.int64)]


def sample(table: FeatureTable, cells: int) -> Tensor:
    """Normalized features (m, D) of 64 rows per cell, evenly spread over the table, to compute the cells from."""
    numbers = np.setdiff1d(table.vectors.numbers, _held_out(table.vectors.numbers))
    return table.vectors[numbers[:: max(1, len(numbers) // (_SAMPLE * cells))]]


def _train(table: FeatureTable, folder: Path, cells: int) -> Path:
    """Computes the cells, unless an earlier call has; returns the file of the index without rows."""
    faiss, path = import_faiss(), folder / "trained.faiss"
    if not path.exists():
        index = faiss.index_factory(table.width, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(sample(table, cells).numpy())
        with atomic(path) as part:
            faiss.write_index(index, str(part))
    return path


def _add(table: FeatureTable, folder: Path, trained: Path) -> Any:
    """Adds all rows, in parts that are kept in `folder`; returns the index of all."""
    faiss, numbers = import_faiss(), table.vectors.numbers
    whole = _load(trained)
    for start in range(0, len(numbers), _PART):
        path = folder / f"part_{start:010d}.faiss"
        if not path.exists():
            index = _load(trained)
            for rows in np.split(numbers[start : start + _PART], range(4096, _PART, 4096)):
                index.add_with_ids(table.vectors[rows].numpy(), rows)
            with atomic(path) as part:
                faiss.write_index(index, str(part))
        whole.merge_from(_load(path), 0)
    return whole


def _tune(table: FeatureTable, index: Any) -> dict[str, Any]:
    """Sets twice the lowest number of cells per query, a power of 2, that finds 99 % of the exact neighbors."""
    rows = _held_out(table.vectors.numbers)
    queries = table.vectors[rows]
    nearest = exact(table, queries, _NEAREST + 1)[1].tolist()  # of which one is the query's own row
    others = [set(found) - {row} for found, row in zip(nearest, rows.tolist(), strict=True)]
    trial, nprobe, recall = SearchIndex(Path(), {}, index), 1, 0.0
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        shared = 0
        for query, row, found, true in zip(queries, rows, trial.candidates(queries, _NEAREST), others, strict=True):
            shared += len(true & set(rerank(table, query, found[found != row], _NEAREST)[1].tolist()))
        recall = shared / sum(map(len, others))
        if recall >= _RECALL or nprobe == index.nlist:
            index.nprobe = min(2 * nprobe, index.nlist)  # queries are less similar to the rows than rows are
            return {"nprobe": index.nprobe, "recall": recall}
        nprobe *= 2


def exact(table: FeatureTable, queries: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and row numbers (Q, m) of the `top` nearest rows of normalized queries (Q, D), best first."""
    scores, numbers = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for batch in table.batches(8192):
        found = queries @ batch.features.T / batch.features.norm(dim=1).clamp(min=1e-12)
        scores = torch.cat((scores, found), dim=1)
        numbers = torch.cat((numbers, batch.numbers.expand(len(queries), -1)), dim=1)
        scores, best = scores.topk(min(top, scores.shape[1]), dim=1)
        numbers = numbers.gather(1, best)
    return scores, numbers
