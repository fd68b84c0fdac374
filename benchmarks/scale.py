"""Measure what an extraction of many videos costs outside decode and network: rows, shards, merge; then a query.

    python benchmarks/scale.py --rows 10000 1000000 --folder SCRATCH

The features are random, of width 768 in float16, one row a video, in batches of 8 and shards of 64 videos (the default
of `svt-zoo extract`). Times are CPU seconds of one thread. Rows per second are up to the last shard, without the merge.
The query is exact. benchmarks/lists.py measures reading of lists, benchmarks/search.py the index.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from svt_zoo.data.lists import VideoList
from svt_zoo.data.rows import RowsBuilder
from svt_zoo.evaluation.shards import ClipRow, Computed, Shard, ShardFolder
from svt_zoo.inference.extract import merge
from svt_zoo.inference.feature_table import FeatureTable, make_schema
from svt_zoo.inference.search import search

WIDTH, BATCH, SHARD, QUERIES = 768, 8, 64, 20


def video_list(rows: int) -> VideoList:
    builder, none = RowsBuilder(), [-1] * rows
    builder.extend([f"v{i:09d}.mp4" for i in range(rows)], none, [None] * rows, none, none, none)
    return VideoList(builder.build("/videos"), root="/videos")


def computed(ranges: list[range], pool: torch.Tensor) -> Iterator[Computed]:
    for videos in ranges:
        start = videos.start % (len(pool) - BATCH)
        rows = [ClipRow(i, 0.0, 1.0) for i in videos]
        yield Computed(videos.start, Shard(rows, pool[start : start + len(rows)]), True)


def measure(rows: int, folder: Path) -> dict[str, float]:
    videos = video_list(rows)
    settings = {"weights_sha256": "0", "root": "/videos", "pooling": "cls"}
    shards = ShardFolder(folder / "parts", videos, settings, SHARD)
    pool = torch.randn(50_000, WIDTH, generator=torch.Generator().manual_seed(0)).half()
    clock = time.process_time()
    shards.claim()
    ranges = shards.todo(0, 1, BATCH)
    done = sum(1 for _ in shards.collect(computed(ranges, pool), ranges))
    assert done == rows
    write = time.process_time() - clock
    clock = time.process_time()
    target = folder / "features.parquet"
    assert merge(shards, target, make_schema(WIDTH, "float16", settings))
    merged = time.process_time() - clock
    table = FeatureTable(target)
    queries = pool[-QUERIES:].float()
    search(table, queries[0])
    clock = time.process_time()
    for query in queries:
        search(table, query)
    return {
        "rows": rows,
        "rows_per_second": round(rows / write),
        "merge_s": round(merged, 2),
        "megabytes": round(target.stat().st_size / 1e6),
        "exact_query_ms": round(1000 * (time.process_time() - clock) / QUERIES, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="for shards and table: 4 kB a row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            print(json.dumps(measure(rows, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
