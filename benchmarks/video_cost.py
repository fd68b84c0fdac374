"""Compare what two versions of the reader cost for SVT's ten views: decoded frames, bytes read and CPU time.

    python benchmarks/video_cost.py --before FOLDER VIDEO ... [--pairs 20] [--output FILE.json]

FOLDER holds the `svt_zoo` package of another version (`git archive VERSION svt_zoo | tar -x -C FOLDER`). Each version
runs in its own process. Pairs alternate (A B, B A, ...). The interval of the time ratio is a bootstrap of 95 %.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def worker() -> None:
    """Reads lines of (path, frame numbers); answers each with frames decoded, bytes read and CPU seconds."""
    from svt_zoo.video import decode, index, open_video

    decoded = 0
    original = decode.decode_packets

    def counted(*args: Any) -> Iterator[Any]:
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    decode.decode_packets = index.decode_packets = counted
    for line in sys.stdin:
        path, numbers = json.loads(line)
        decoded, start, time = 0, bytes_read(), cpu_seconds()
        with open_video(path) as video:
            video.frames_at(numbers)
        print(json.dumps([decoded, bytes_read() - start, cpu_seconds() - time]), flush=True)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def start(folder: str) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--worker"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": folder}, stdin=pipe, stdout=pipe, text=True)


def measure(process: "subprocess.Popen[str]", requests: list[tuple[str, list[int]]]) -> list[float]:
    """Sums over all requests."""
    assert process.stdin
    assert process.stdout
    total = [0.0, 0.0, 0.0]
    for request in requests:
        print(json.dumps(request), file=process.stdin, flush=True)
        total = [a + b for a, b in zip(total, json.loads(process.stdout.readline()), strict=True)]
    return total


def ten_views(paths: list[str]) -> list[tuple[str, list[int]]]:
    from svt_zoo.data.sampling import sample_rng
    from svt_zoo.data.views import ViewsConfig
    from svt_zoo.video import VideoReadError, open_video

    requests = []
    for number, path in enumerate(paths):
        try:
            with open_video(path) as video:
                views = ViewsConfig().sample(video.num_frames, video.fps, sample_rng(0, number, 0))
                numbers = sorted({int(i) for view in views for i in view})
                video.frames_at(numbers)
        except VideoReadError as error:
            print(f"left out: {error}")
            continue
        requests.append((path, numbers))
    return requests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", metavar="VIDEO")
    parser.add_argument("--before", help="folder with the other version")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker()
        return 0
    requests = ten_views(args.videos)
    versions = [start(args.before), start(str(Path(__file__).resolve().parents[1]))]
    for version in versions:
        measure(version, requests)  # warm up
    pairs = []
    for i in range(args.pairs):
        results = {id(v): measure(v, requests) for v in (versions if i % 2 else versions[::-1])}
        pairs.append([results[id(v)] for v in versions])
    for version in versions:
        version.communicate()
    ratios = [after[2] / before[2] for before, after in pairs]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    before, after = pairs[0]
    seconds = [round(statistics.median(pair[i][2] for pair in pairs), 3) for i in range(2)]
    result = {
        "videos": len(requests),
        "decoded_frames": {"before": before[0], "after": after[0], "ratio": round(after[0] / before[0], 4)},
        "bytes_read": {"before": before[1], "after": after[1], "ratio": round(after[1] / before[1], 4)},
        "cpu_seconds": {"before": seconds[0], "after": seconds[1]},
        "time_ratio": round(statistics.median(ratios), 4),
        "time_ratio_95": [round(medians[50], 4), round(medians[-51], 4)],
        "pairs": len(pairs),
    }
    print(json.dumps(result, indent=1))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
