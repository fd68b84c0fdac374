"""Measure training from an object store against local files: bytes, requests, throughput, injected failures.

    python benchmarks/object_storage.py FOLDER --output benchmarks/results

FOLDER holds videos with their indexes (`svt-zoo index FOLDER`). `benchmarks/range_server.py` stands for the store, in a
process of its own on this machine: each answer waits 20 ms. Each round reads SVT's ten views of every video from the
files, then from the server, and in the next round in the other order. `needed` bytes are the packets that the views
decode. Both have the same number of workers; more than one a core hide the wait. The server takes CPU time from the
workers, which a real store would not: `server_cpu` states how much.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import fsspec
import psutil
import torch

from svt_zoo.batch import Batch
from svt_zoo.config import ViewsConfig
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import VideoLoader
from svt_zoo.data.sampling import sample_rng
from svt_zoo.data.views import train_views
from svt_zoo.video.store import StoredIndex

SERVER = Path(__file__).with_name("range_server.py")


class Server:
    """The server's process."""

    def __init__(self, folder: Path, latency: float) -> None:
        command = [sys.executable, str(SERVER), str(folder), "--latency", str(latency)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._line().strip()

    def counts(self, fail: float = 0.0) -> dict[str, int]:
        """The counts since the last call; `fail` holds from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{fail}\n")
        self.process.stdin.flush()
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def server_of(folder: Path, latency: float) -> Iterator[Server]:
    server = Server(folder, latency)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def loader_of(paths: list[str], workers: int, batch_size: int) -> VideoLoader:
    dataset = VideoDataset(VideoList(tuple(Row(path) for path in paths)), train_views(ViewsConfig()), train=True)
    return VideoLoader(dataset, batch_size=batch_size, num_workers=workers, start_method="fork" if workers else None)


def epoch(loader: VideoLoader) -> tuple[float, int, int]:
    """Seconds of one epoch, its samples, and its failures. The workers exist."""
    start = time.perf_counter()
    samples = failures = 0
    for batch in loader:
        samples, failures = samples + len(batch), failures + len(batch.failures)
    return time.perf_counter() - start, samples, failures


def needed_bytes(paths: list[Path], epochs: range, used: int) -> int:
    """Bytes of the packets that the views of these epochs decode; `used` videos an epoch, in the loader's order."""
    total = 0
    for number in epochs:
        loader = loader_of([str(path) for path in paths], 0, 1)
        loader.set_epoch(number)
        order = [index for batch in loader.sampler for _, index in batch][:used]
        for index in order:
            stored = StoredIndex.from_bytes(Path(f"{paths[index]}.index").read_bytes())
            views = ViewsConfig().sample(len(stored.index.pts), 30.0, sample_rng(0, number, index))
            actions = stored.index.actions(i for view in views for i in view)
            sizes = stored.places["size"]
            if actions is not None:
                sizes = sizes[[i for i, action in enumerate(actions) if action is not None]]
            total += int(sizes.sum())
    return total


def equal(a: Batch, b: Batch) -> bool:
    return a.names[0].rsplit("/", 1)[-1] == b.names[0].rsplit("/", 1)[-1] and all(map(torch.equal, a.views, b.views))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    paths = [path for path in sorted(folder.rglob("*.*")) if Path(f"{path}.index").exists()][: args.videos]
    used = len(paths) // args.batch_size * args.batch_size
    index_size = sum(Path(f"{path}.index").stat().st_size for path in paths)
    with server_of(folder, args.latency) as server, tempfile.TemporaryDirectory() as home:
        os.environ["TORCH_HOME"] = home
        urls = [f"{server.url}/{path.relative_to(folder).as_posix()}" for path in paths]
        loaders = {
            "local": loader_of([str(path) for path in paths], args.workers, args.batch_size),
            "store": loader_of(urls, args.workers, args.batch_size),
        }
        same = all(equal(a, b) for a, b in zip(*map(iter, loaders.values()), strict=True))  # epoch 0, starts workers
        server.counts()
        rates: dict[str, list[float]] = {"local": [], "store": []}
        failures, cpu = 0, server.cpu()
        for number in range(1, args.rounds + 1):
            for name in ("local", "store") if number % 2 else ("store", "local"):
                loaders[name].set_epoch(number)
                seconds, samples, failed = epoch(loaders[name])
                rates[name].append(samples / seconds)
                failures += failed
        cpu, log = server.cpu() - cpu, server.counts(fail=args.fail)
        loaders["store"].set_epoch(args.rounds + 1)
        seconds, samples, failed = epoch(loaders["store"])
        broken = {"samples": samples, "failed_videos": failed, "samples_per_second": samples / seconds}
        broken |= server.counts()
        cpu_seconds: dict[str, float] = {}
        for name, where in (("local", list(map(str, paths))), ("store", urls)):  # in this process, with its threads
            start = time.process_time()
            epoch(loader_of(where, 0, args.batch_size))
            cpu_seconds[name] = (time.process_time() - start) / used
        written = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
    needed = needed_bytes(paths, range(1, args.rounds + 1), used)
    samples = used * args.rounds
    return {
        "videos": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "index_bytes": index_size,
        "equal_batches": same,
        "samples": samples,
        "failed_videos": failures,
        "needed_bytes": needed,
        "log": log,
        "fetched_over_needed": (log["bytes"] + log["index_bytes"]) / needed,
        "requests_per_sample": log["requests"] / samples,
        "local_samples_per_second": rates["local"],
        "store_samples_per_second": rates["store"],
        "store_over_local": statistics.median(b / a for a, b in zip(rates["local"], rates["store"], strict=True)),
        "cpu_seconds_per_sample": cpu_seconds,
        "server_cpu_per_sample": cpu / samples,
        "with_failures": broken,
        "bytes_on_disk": written,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=64, help="at most this many (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="of the loader (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each kind (%(default)s)")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer (%(default)s)")
    parser.add_argument("--fail", type=float, default=0.05, help="fraction of HTTP 503 in the last epoch (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for object_storage_NAME.json")
    parser.add_argument("--name", default="cpu")
    args = parser.parse_args()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"av": av.__version__, "torch": torch.__version__, "fsspec": fsspec.__version__},
        "load_average": os.getloadavg(),
        **measure(args.folder, args),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    target = args.output / f"object_storage_{args.name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
