"""Measure lists of many videos before (a git revision) and after: reading, memory, hash, worker start, first batch.

    python benchmarks/lists.py --before REVISION --output benchmarks/results
    python benchmarks/lists.py --rows 10000000

The list is generated: lines of `class 012/0123456789abcde_000010_000020.mp4 12`, or with --table a CSV with a header.
Every case runs in its own process. Times are CPU seconds, because other programs may use the machine. The memory is the
growth of the resident set at its peak. "worker" is the CPU time that a worker started by spawn needs for the list, and
that of its parent, each minus the time for a list of one row. "first batch" is the order of the first epoch and 8
samples, without video.
"""

import argparse
import gc
import io
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def generate(path: Path, rows: int, *, table: bool) -> None:
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        if table:
            file.write("file,label,class,split\n")
        for i in range(rows):
            label = draw.randrange(700)
            name = f"class {label:03d}/{draw.getrandbits(60):015x}_{i % 600:06d}_{i % 600 + 10:06d}.mp4"
            file.write(
                f"{name},{label},class {label:03d},{'train' if i % 10 else 'val'}\n" if table else f"{name} {label}\n"
            )


def peak() -> float:
    """Megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def started(videos: Any, answers: Connection) -> None:
    answers.send((time.process_time(), len(videos)))


def start(videos: Any) -> tuple[float, float]:
    """CPU seconds of a worker that has just received the list, and of its parent."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = time.process_time()
    process = context.Process(target=started, args=(videos, theirs))
    process.start()
    parent = time.process_time() - before
    worker, _ = ours.recv()
    process.join()
    return worker, parent


def measure(path: str) -> dict[str, float]:
    """One case, in this process."""
    from svt_zoo.data.lists import VideoList, read_list
    from svt_zoo.data.loader import EpochSampler

    gc.collect()
    memory, clock = peak(), time.process_time()
    videos = read_list(path)
    result = {"read_s": time.process_time() - clock, "memory_mb": peak() - memory}
    clock = time.process_time()
    videos.sha256  # noqa: B018
    result["hash_s"] = time.process_time() - clock
    few, many = start(VideoList((videos.rows[0],))), start(videos)
    result["worker_s"], result["worker_parent_s"] = many[0] - few[0], many[1] - few[1]
    clock = time.process_time()
    batch = next(iter(EpochSampler(len(videos), 8, train=True)))
    assert len([videos.rows[index].path for _, index in batch]) == 8
    result["first_batch_s"] = time.process_time() - clock
    return {name: round(value, 3) for name, value in result.items()}


def checkout(revision: str, folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", revision, "svt_zoo"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--table", action="store_true", help="a CSV with a header instead of lines of path and label")
    parser.add_argument("--before", help="git revision to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="before and after take turns; the fastest is kept")
    parser.add_argument("--output", type=Path, help="folder for lists_cpu.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        sources = {"after": ROOT}
        if args.before:
            sources = {"before": checkout(args.before, Path(scratch) / "before"), **sources}
        for rows in args.rows:
            path = Path(scratch) / f"{rows}.csv"
            generate(path, rows, table=args.table)
            results: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
            for _ in range(args.rounds):
                for name, source in sources.items():
                    command = [sys.executable, __file__, "--measure", str(path)]
                    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
                    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                    results[name].append(json.loads(run.stdout))
            for name, rounds in results.items():
                best = {key: min(one[key] for one in rounds) for key in rounds[0]}
                found.append({"rows": rows, "table": args.table, "code": name, **best})
                print(json.dumps(found[-1]), flush=True)
    if args.output:
        host = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        host |= {"before": args.before or "", "command": " ".join(["python benchmarks/lists.py", *sys.argv[1:]])}
        name = "lists_table_cpu.json" if args.table else "lists_cpu.json"
        (args.output / name).write_text(json.dumps({**host, "results": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
