"""Extract the features of a list with every engine, killed and resumed; measure decoding alone; search the features.

    python benchmarks/extraction.py LIST --output benchmarks/results
    python benchmarks/extraction.py LIST --network base --output benchmarks/results    # an hour or more

LIST is a CSV with the columns file, class, split (train, test) and set. The networks have random weights, because the
benchmark measures the cost of reading, computing and writing, and whether rows get lost. With the small network each
engine makes the table without a stop; then again, killed (-9, all its processes) when a third of the shards exist, and
started once more. With ViT-B (in bfloat16) only the second. All tables are compared row by row. Then each video of the
split `test` searches its nearest neighbor in the split `train`. The result is how often both have the same class, and
how often a random video would have it.
"""

import argparse
import contextlib
import csv
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from svt_zoo.data.lists import read_list
from svt_zoo.evaluation.features import Compute, run_local
from svt_zoo.evaluation.shards import ClipReader
from svt_zoo.evaluation.views import parse_views
from svt_zoo.inference.feature_table import FeatureTable
from svt_zoo.inference.search import search
from svt_zoo.models import ZooModel, create_model

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {
    "one process": [],
    "torchrun, 2 processes": ["--nproc-per-node=2", "--standalone"],
    "ray": ["--engine", "ray"],
}
DTYPES = {"small": "float32", "base": "bfloat16"}
CLIP = {"sampling_rate": 8, "mean": (0.45,) * 3, "std": (0.225,) * 3, "num_frames": 8}


def network(name: str) -> ZooModel:
    torch.manual_seed(0)
    if name == "base":
        model = create_model("svt_vitb").eval()
        model.meta["clip"] = {**CLIP, "crop_size": 224, "resize_size": 256}
        return model
    model = create_model("svt_vitt", img_size=64, num_frames=8, embed_dim=64, depth=4, num_heads=4).eval()
    model.meta["clip"] = {**CLIP, "crop_size": 64, "resize_size": 73}
    return model


def command(engine: str, videos: str, weights: Path, dtype: str, output: Path) -> list[str]:
    more = ENGINES[engine]
    launcher = ["-m", "torch.distributed.run", *more] if engine.startswith("torchrun") else []
    arguments = [videos, "-o", str(output), "--model", str(weights), "--device", "cpu", "--shard-size", "32"]
    arguments += ["--dtype", dtype]
    arguments += more if engine == "ray" else ["--workers", "1"]
    return [sys.executable, *launcher, str(ROOT / "tools" / "extract_features.py"), *arguments]


def start(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(arguments, env=env, stdout=file, stderr=file, start_new_session=True)


def finish(process: "subprocess.Popen[bytes]", log: Path) -> float:
    """Videos per second of all processes together, from the summary lines."""
    if process.wait():
        raise RuntimeError(log.read_text()[-2000:])
    lines = re.findall(r"^(\d+) videos in ([\d.]+) s", log.read_text(), re.MULTILINE)
    return sum(int(videos) for videos, _ in lines) / max(float(seconds) for _, seconds in lines)


def family(pid: int) -> list[int]:
    """A process and all processes below it, from Linux's /proc."""
    children = [child for path in Path("/proc", str(pid)).glob("task/*/children") for child in path.read_text().split()]
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def kill_in_the_middle(process: "subprocess.Popen[bytes]", output: Path, shards: int) -> int:
    """Kill all processes of the run when `shards` shards exist; return the number of shards."""
    folder = output.with_name(f"{output.name}.parts")
    while process.poll() is None:
        count = len(list(folder.glob("shard_*")))
        if count >= shards:
            break
        time.sleep(0.05)
    else:
        raise RuntimeError(f"the run ended before {shards} shards existed")
    for pid in family(process.pid):  # torchrun's processes have their own groups
        with contextlib.suppress(ProcessLookupError):  # torchrun may end its workers first
            os.kill(pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # until Ray's own processes have ended
    return len(list(folder.glob("shard_*")))


def same_rows(table: pyarrow.Table, other: pyarrow.Table) -> dict[str, Any]:
    columns = [name for name in table.schema.names if name != "embedding"]
    ours, theirs = (np.stack(part["embedding"].drop_null().to_numpy()) for part in (table, other))
    return {
        "rows": other.num_rows,
        "videos, times and errors equal": table.select(columns).equals(other.select(columns)),
        "largest difference of a feature": float(np.abs(ours - theirs).max()),
    }


class Nothing(Compute):
    """Reads without computing."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def stream(self, batches: Any) -> Any:
        """Return the input."""
        return batches


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def rate_per_core(reader: ClipReader, compute: Compute, count: int) -> float:
    """Videos per second of CPU time, read by one worker."""
    started = cpu_seconds()
    ranges = [range(first, min(first + 8, count)) for first in range(0, count, 8)]
    for _ in run_local(reader, compute, ranges, 1):
        pass
    return count / (cpu_seconds() - started)


def search_accuracy(table: FeatureTable, info: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Top-1 in percent of the nearest neighbor and of a random training video, over all sets and per set."""
    names, label = table.videos(), {name: row["class"] for name, row in info.items()}
    train = {name for name, row in info.items() if row["split"] == "train"}
    features = torch.cat([batch.features for batch in table.batches()])
    hits: dict[str, list[tuple[float, float]]] = {}
    for group in ("all", *sorted({row["set"] for row in info.values()})):
        inside = [name for name in names if group in ("all", info[name]["set"])]
        candidates = [name for name in inside if name in train]
        without = [i for i, name in enumerate(names) if name not in set(candidates)]
        count = Counter(label[name] for name in candidates)
        for name in inside:
            if name not in train:
                [best] = search(table, features[names.index(name)], top=1, without=without)
                chance = count[label[name]] / len(candidates)
                hits.setdefault(group, []).append((label[best.row.video] == label[name], chance))
    return {
        group: {
            "queries": len(pairs),
            "same class": round(100 * sum(hit for hit, _ in pairs) / len(pairs), 1),
            "by chance": round(100 * sum(chance for _, chance in pairs) / len(pairs), 1),
        }
        for group, pairs in hits.items()
    }


def engine_result(
    engine: str,
    arguments: tuple[str, Path, str],
    scratch: Path,
    tables: list[pyarrow.Table],
    shards: int,
    complete_too: bool,
) -> dict[str, Any]:
    """Make the table without a stop (optional), then killed and resumed; compare with the first of `tables`."""
    log, result = scratch / f"{engine}.log", {"load before": round(os.getloadavg()[0], 1)}
    if complete_too:
        complete = scratch / f"{engine}.complete.parquet"
        rate = finish(start(command(engine, *arguments, complete), log), log)
        tables.append(pyarrow.parquet.read_table(complete))
        result["videos a second, start included"] = round(rate, 2)
        result["in one go"] = same_rows(tables[0], tables[-1])
    killed = scratch / f"{engine}.killed.parquet"
    resumed = command(engine, *arguments, killed)
    kept = kill_in_the_middle(start(resumed, log), killed, shards // 3)
    log.unlink()
    rate = finish(start(resumed, log), log)
    tables.append(pyarrow.parquet.read_table(killed))
    result["killed and resumed"] = {
        "shards kept": kept,
        "videos a second after that": round(rate, 2),
        **same_rows(tables[0], tables[-1]),
    }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", metavar="LIST")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--network", choices=DTYPES, default="small")
    parser.add_argument("--output", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load, dtype, base = os.getloadavg()[0], DTYPES[args.network], args.network == "base"
    videos, model = read_list(args.list), network(args.network)
    transform = model.transforms()
    reader = ClipReader(videos, parse_views("1x1", transform), transform, batch_size=8)
    compute = Compute(network(args.network), "mean", torch.device("cpu"), getattr(torch, dtype))
    rates = {
        "reading": rate_per_core(reader, Nothing(), len(videos)),
        "reading and computing": rate_per_core(reader, compute, 16 if base else len(videos)),
    }
    print(rates, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        weights = model.save_pretrained(scratch / "model") / "model.safetensors"
        tables: list[pyarrow.Table] = []
        engines: dict[str, Any] = {}
        for engine in args.engines:
            arguments = (args.list, weights, dtype)
            engines[engine] = engine_result(engine, arguments, scratch, tables, -(-len(videos) // 32), not base)
            print(engine, json.dumps(engines[engine], indent=2), flush=True)
        with open(args.list, encoding="utf-8", newline="") as file:
            info = {row["file"]: row for row in csv.DictReader(file)}
        accuracy = search_accuracy(FeatureTable(scratch / f"{args.engines[0]}.killed.parquet"), info)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "device": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "versions": {name: version(name) for name in ("torch", "av", "pyarrow", "ray")},
        "network": {**{key: model.meta["clip"][key] for key in ("num_frames", "crop_size")}, "dtype": dtype},
        "videos": len(videos),
        "videos a second of CPU time": {name: round(rate, 2) for name, rate in rates.items()},
        "engines": engines,
        "search, nearest neighbor of random features, percent": accuracy,
    }
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / f"extraction_{args.network}_cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
