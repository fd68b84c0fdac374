"""Search, index and duplicates of a large table of features: seconds, memory, and how many neighbors are found.

    python benchmarks/search.py LIST --rows 1000000 --folder SCRATCH --output benchmarks/results

The rows are mixtures of real features and noise. The features are of one clip per second of the videos of LIST, by a
network of width 768 with random weights; they are standardized, because such features have a large vector in common. A
row is w * a + (1 - w) * b + noise for two random clips a and b, with w from 0.5 to 1. Every 100th row is a near-copy of
an earlier row (planted duplicates).
The queries are made in the same way and are not in the table. Needs faiss-cpu, and on the disk two bytes
per number for the table and two more while the index is built.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svt_zoo.evaluation.knn import standardized
from svt_zoo.evaluation.shards import ClipRow, Shard
from svt_zoo.inference.dedup import find_duplicates
from svt_zoo.inference.extract import extract_features
from svt_zoo.inference.feature_table import FeatureTable, make_schema, write_table
from svt_zoo.inference.search import search
from svt_zoo.inference.search_index import open_index
from svt_zoo.models import create_model

CLIP = {
    "num_frames": 4,
    "sampling_rate": 4,
    "crop_size": 64,
    "resize_size": 73,
    "mean": (0.45,) * 3,
    "std": (0.225,) * 3,
}
BLOCK, QUERIES, EVERY = 16384, 50, 100
NOISE, COPY = 0.3, 0.05  # length relative to the feature


def base_features(videos: str, folder: Path) -> np.ndarray:
    path = folder / "base.parquet"
    if not path.exists():
        torch.manual_seed(0)
        model = create_model("svt_vitt", img_size=64, num_frames=4, embed_dim=768, depth=1, num_heads=12).eval()
        model.meta["clip"] = CLIP
        extract_features(model, videos, path, every=1.0, num_workers=1, device="cpu")
    features = torch.cat([batch.features for batch in FeatureTable(path).batches()])
    scaled, _ = standardized(features, features)
    return torch.nn.functional.normalize(scaled).numpy()


def mixtures(base: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    first, second = (base[rng.integers(0, len(base), count)] for _ in range(2))
    weight = rng.uniform(0.5, 1, (count, 1)).astype(np.float32)
    noise = rng.standard_normal(first.shape, dtype=np.float32) * (NOISE / first.shape[1] ** 0.5)
    return weight * first + (1 - weight) * second + noise


def shards(base: np.ndarray, rows: int) -> Iterator[Shard]:
    """Row i (i % 100 == 99) is a near-copy of row i - 50."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, rows))
        features = mixtures(base, len(numbers), rng)
        copies = np.flatnonzero((numbers % EVERY == EVERY - 1) & (numbers - start >= 50))
        noise = rng.standard_normal((len(copies), base.shape[1]), dtype=np.float32) * (COPY / base.shape[1] ** 0.5)
        features[copies] = features[copies - 50] + noise
        yield Shard([ClipRow(i, 0.0, 1.0) for i in numbers.tolist()], torch.from_numpy(features).half())


def copies(rows: int) -> list[int]:
    return [i for i in range(EVERY - 1, rows, EVERY) if i % BLOCK >= 50]


def write(path: Path, base: np.ndarray, rows: int) -> dict[str, float]:
    start = time.process_time()
    schema = make_schema(base.shape[1], "float16", {"weights_sha256": "0", "root": "", "pooling": "cls"})
    write_table(path, schema, shards(base, rows), [f"{i:08d}.mp4" for i in range(rows)])
    return {"cpu_seconds": time.process_time() - start, "megabytes": path.stat().st_size / 1e6}


def step(name: str, path: Path, base: np.ndarray) -> dict[str, Any]:
    table = FeatureTable(path)
    queries = torch.from_numpy(mixtures(base, QUERIES, np.random.default_rng(2)))
    if name == "index":
        facts = open_index(table).facts
        return {key: facts[key] for key in ("rows", "cells", "nprobe", "recall")}
    if name == "query":
        open_index(table)
        seconds, found = [], []
        for query in queries:
            start = time.perf_counter()
            found.append(search(table, query, use_faiss=True))
            seconds.append(time.perf_counter() - start)
        warm, cpu_warm = [], time.process_time()
        for query in queries:
            start = time.perf_counter()
            search(table, query, use_faiss=True)
            warm.append(time.perf_counter() - start)
        cpu = time.process_time()
        cpu_warm = (cpu - cpu_warm) / QUERIES
        exact = [search(table, query) for query in queries]
        cpu = (time.process_time() - cpu) / QUERIES
        shared = sum(len({one.row for one in a} & {one.row for one in b}) for a, b in zip(found, exact, strict=True))
        return {
            "first_query_seconds": seconds[0],
            "warm_query_ms_median": 1000 * statistics.median(warm),
            "warm_query_cpu_ms": 1000 * cpu_warm,
            "warm_query_ms_worst": 1000 * max(warm),
            "exact_query_cpu_seconds": cpu,
            "recall_at_10_held_out": shared / (10 * QUERIES),
        }
    result = find_duplicates(table, 0.99)
    planted = set(copies(len(table)))
    return {
        "planted": len(planted),
        "planted_found": len(planted & set(result.removed.tolist())),
        "removed": len(result.removed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", choices=["index", "query", "duplicates"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    import faiss  # after --help, which needs no extra package

    faiss.omp_set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    base, path = base_features(args.list, args.folder), args.folder / f"{args.rows}.parquet"
    result_file = args.folder / f"{args.rows}.{args.step}.json"
    if args.step and result_file.exists():
        print(result_file.read_text())
        return
    if args.step:
        start = time.process_time()
        result = step(args.step, path, base)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result_file.write_text(
            json.dumps({**result, "cpu_seconds": time.process_time() - start, "peak_rss_mb": memory})
        )
        print(result_file.read_text())
        return
    record: dict[str, Any] = {"rows": args.rows, "width": base.shape[1], "clips": len(base), "cpu": platform.machine()}
    if not path.exists():
        record["write"] = write(path, base, args.rows)
    for name in ("index", "query", "duplicates"):
        command = [sys.executable, __file__, args.list, "--rows", str(args.rows), "--folder", str(args.folder)]
        done = subprocess.run([*command, "--step", name], stdout=subprocess.PIPE, text=True, check=True)
        record[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, record[name], flush=True)
    record["index"]["megabytes"] = path.with_name(f"{path.name}.faiss").stat().st_size / 1e6
    text = json.dumps(record, indent=2) + "\n"
    print(text)
    if args.output:
        (args.output / f"search_{args.rows}_cpu.json").write_text(text)


if __name__ == "__main__":
    main()
