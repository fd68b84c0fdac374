"""Extraction on a Ray cluster: some actors read, others compute, and Ray Data connects them.

Ray Data limits the data between the two (back-pressure): reading waits if computing is slower. Every node needs
svt_zoo and access to the videos under the same paths or URLs.
"""

import logging
import os
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .clips import ClipReader
from .compute import Compute, Computed
from .extract_shards import Parts

_Batch = dict[str, Any]
_MOST_BLOCKS = 2000  # Ray Data has a cost per block


def run_ray(
    reader: ClipReader, compute: Compute, parts: Parts, num_workers: int | None, device: str | torch.device | None
) -> Iterator[Computed]:
    """Computes the parts on the cluster at `RAY_ADDRESS`, else on this machine; in any order.

    Args:
        num_workers: actors that read; None uses all CPUs that the computing actors leave free.
        device: "cpu" uses no GPU.

    Raises:
        ImportError: ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disables usage reports to the makers of Ray
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine=ray needs Ray Data: pip install 'ray[data]' pyarrow") from error
    if not parts:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=None if os.environ.get("RAY_ADDRESS") else False, logging_level=logging.WARNING)
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    on_gpu = gpus > 0 and torch.device(device or "cuda").type == "cuda"
    models = gpus if on_gpu else 1
    readers = max(1, min(num_workers or cpus, cpus - (0 if on_gpu else models), len(parts)))
    ray.data.DataContext.get_current().enable_progress_bars = False  # the extraction has its own bar
    items = [{"part": pickle.dumps(part)} for part in parts.items()]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
    rows = rows.map_batches(
        _Read,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=readers),
        fn_constructor_args=(reader,),
    )
    rows = rows.map_batches(
        _Compute,
        batch_size=1,
        num_cpus=0 if on_gpu or cpus < 2 else 1,
        num_gpus=1 if on_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=models),
        fn_constructor_args=(compute, "cuda" if on_gpu else "cpu"),
    )
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["computed"])
    finally:
        if started:
            ray.shutdown()


class _Read:
    """Actor that reads its parts, one chunk at a time."""

    def __init__(self, reader: ClipReader) -> None:
        torch.set_num_threads(1)
        self.reader = reader

    def __call__(self, batch: _Batch) -> Iterator[_Batch]:
        number, indices = pickle.loads(batch["part"][0])
        for chunk in self.reader.chunks(number, indices):
            yield {"chunk": _column((chunk._replace(views=[]), [view.numpy() for view in chunk.views]))}


class _Compute:
    """Actor that computes its chunks."""

    def __init__(self, compute: Compute, device: str) -> None:
        self.compute = compute.to(device)

    def __call__(self, batch: _Batch) -> _Batch:
        chunk, views = pickle.loads(batch["chunk"][0])
        return {"computed": _column(self.compute(chunk._replace(views=list(map(torch.from_numpy, views)))))}


def _column(value: Any) -> np.ndarray[Any, Any]:
    """Column with one cell that holds `value` unchanged, so that the network gets the chunk exactly as read."""
    column = np.empty(1, object)
    column[0] = pickle.dumps(value, protocol=5)
    return column
