"""Check and measure on a GPU in at most nine minutes: correctness, the ten-view step, other libraries, extraction.

    make gpu                                             # or: python benchmarks/gpu.py --output benchmarks/results

Each part runs in a process of its own, with a time limit. A part that fails or is late is a row of the table, and the
others run. The table and a JSON file with all numbers are written at the end; `--log` keeps the output of every part.
On a machine without a GPU all parts run with tiny networks: that checks the command.

A machine without network needs Python 3.12 with torch, torchvision, numpy, matplotlib, pyarrow, transformers,
huggingface_hub, safetensors, pytest, pytest-xdist and hypothesis. Carry this checkout, and in it `build/wheels`, which
`make gpu-wheels` fills with the other packages (40 MB; PyAV is the large one). They are installed into a temporary
folder. Recorded numbers (`SVT_ZOO_SHARED`) are optional: tests that need them are skipped.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@dataclass(frozen=True)
class Part:
    """A program, its arguments, and the seconds after which it is ended."""

    name: str
    limit: int
    arguments: tuple[str, ...]


def step_part(name: str, limit: int, device: str, **case: Any) -> Part:
    """One case of `svt_step.py`."""
    case = {"device": device, "checkpointing": False, "compile": False, "warmup": 2, "steps": 5, **case}
    return Part(name, limit, (str(BENCHMARKS / "svt_step.py"), "--case", json.dumps(case)))


def backbone_part(network: str, limit: int, device: str, scratch: Path, *arguments: str) -> Part:
    """`backbone.py` for one network."""
    output = ("--device", device, "--networks", network, "--output", str(scratch / f"{network}.json"))
    return Part(network, limit, (str(BENCHMARKS / "backbone.py"), *output, *arguments))


def gpu_parts(scratch: Path) -> list[Part]:
    """The parts on a GPU, in the order in which they matter: the last ones are left out if time runs short."""
    marked = [str(ROOT / "tests" / name) for name in ("gpu", "data/test_augment.py", "test_batch.py")]
    tests = ("-m", "pytest", "-m", "gpu", "-n", "6", "--tb=short", "-p", "no:cacheprovider", *marked)
    short = (str(BENCHMARKS / "short_attention.py"), "--output", str(scratch / "short attention.json"))
    return [
        Part("machine", 60, (__file__, "--part", "machine", "--device", "cuda")),
        step_part("step, 16 videos", 60, "cuda", batch=16),
        Part("tests", 150, tests),
        step_part("step, 32 videos", 60, "cuda", batch=32),
        step_part("step, 32 videos, mlp computed again", 60, "cuda", batch=32, checkpointing="mlp"),
        step_part("step, 32 videos, compiled", 150, "cuda", batch=32, compile=True),
        backbone_part("timesformer", 90, "cuda", scratch, "--batch", "16", "--compile"),
        Part("extraction", 75, (__file__, "--part", "extraction", "--device", "cuda")),
        Part("short attention", 60, (*short, "--device", "cuda")),
        backbone_part("motionformer", 50, "cuda", scratch, "--batch", "8"),
        backbone_part("xvit", 50, "cuda", scratch, "--batch", "16"),
    ]


def tiny_parts(scratch: Path) -> list[Part]:
    """The same parts, tiny, on a CPU."""
    small = ("--size", "vitt", "--depth", "1", "--crop", "32", "--rounds", "1", "--kinds", "forward")
    tests = ("-m", "pytest", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu"))
    short = (str(BENCHMARKS / "short_attention.py"), "--output", str(scratch / "short attention.json"))
    return [
        Part("machine", 60, (__file__, "--part", "machine", "--device", "cpu")),
        step_part("step, 2 videos", 60, "cpu", batch=2, steps=1, warmup=0, tiny=True),
        Part("tests", 60, tests),
        backbone_part("timesformer", 60, "cpu", scratch, *small),
        Part("short attention", 60, (*short, "--device", "cpu", "--videos", "1", "--lengths", "8", "--no-compile")),
        Part("extraction", 60, (__file__, "--part", "extraction", "--device", "cpu")),
    ]


def run(part: Part, seconds: float, log: Path) -> dict[str, Any]:
    """Run a part: its state ("ok", "failed" or "late"), its seconds, and its result or the end of its log."""
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *part.arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            state = "failed" if process.wait(timeout=max(1.0, seconds)) else "ok"
        except subprocess.TimeoutExpired:
            state = "late"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
                process.wait()
    row: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - started, 1)}
    lines = log.read_text(errors="replace").splitlines()
    results = [line for line in lines if line.startswith("{") and line.endswith("}")]
    with_result = log.with_suffix(".json")
    if with_result.exists():
        row["result"] = json.loads(with_result.read_text())
    elif results and state != "failed":  # also of a process that was ended after its result
        row["result"] = json.loads(results[-1])
    else:
        row["end_of_log"] = lines[-30:] if state != "ok" else lines[-1:]
    return row


# The parts that have no program of their own. They run in child processes, which import torch.


def machine(device_name: str) -> dict[str, Any]:
    """What the machine is, and its limits: a large matrix product and a large copy."""
    import torch
    from svt_step import clock, matrix_product

    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    numbers = torch.zeros(2**30 if on_gpu else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(numbers)
    target.copy_(numbers)
    start = clock(device)
    for _ in range(10):
        target.copy_(numbers)
    bandwidth = 20 * len(numbers) / (clock(device) - start) / 1e9
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "matrix_product_tflop_per_second": round(matrix_product(device), 3),
        "copy_gigabytes_per_second": round(bandwidth),
    }


def extraction(device_name: str) -> dict[str, Any]:
    """Videos per second of `extract_features` and `embed`, beside reading alone and the network alone (bfloat16)."""
    import torch

    from svt_zoo import create_model, embed
    from svt_zoo.data.lists import Row, VideoList
    from svt_zoo.inference.extract import extract_features

    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    clip = {"num_frames": 8, "sampling_rate": 8, "crop_size": 224, "resize_size": 256}
    clip |= {"mean": (0.45,) * 3, "std": (0.225,) * 3}
    options = {"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_size": 32}
    network, reader = create_model("svt_vitb", **({} if on_gpu else options)), create_model("svt_vitt", **options)
    for model in (network, reader):
        model.eval().meta["clip"] = clip
    batch, videos, workers = (32, 2400, len(os.sched_getaffinity(0))) if on_gpu else (2, 4, 0)
    with tempfile.TemporaryDirectory() as folder:
        files = [encode(Path(folder) / f"{number}.mp4", number) for number in range(8 if on_gpu else 2)]
        rows = VideoList(tuple(Row(str(files[i % len(files)])) for i in range(videos)), root=folder)

        def rate(model: Any, name: str) -> float:
            done = extract_features(
                model,
                rows,
                Path(folder) / f"{name}.parquet",
                device=device,
                dtype="bfloat16",
                batch_size=batch,
                num_workers=workers,
            )
            assert done.failed == 0, done
            return videos / done.seconds

        rates = {"reading_alone": rate(reader, "reader"), "extract_features": rate(network, "network")}
        few = [row.path for row in rows.rows[: videos // 8 or 1]]
        start = time.monotonic()
        embed(few, model=network, device=device, dtype="bfloat16", batch_size=batch, progress=False)
        rates["embed"] = len(few) / (time.monotonic() - start)
    clips = torch.randn(batch, 3, 8, 224, 224, device=device, dtype=torch.bfloat16)
    network = network.to(device, torch.bfloat16)
    with torch.inference_mode():
        for rounds in (2, 20 if on_gpu else 1):  # the first ones warm up
            start = time.monotonic()
            for _ in range(rounds):
                network(clips).cls.float().cpu()
    rates["network_alone"] = rounds * batch / (time.monotonic() - start)
    slower = min(rates["reading_alone"], rates["network_alone"])
    return {**{name: round(value, 1) for name, value in rates.items()}, "workers": workers} | {
        "fraction_of_the_slower": round(rates["extract_features"] / slower, 2)
    }


def encode(path: Path, seed: int) -> Path:
    """A made video of 300 frames of 340 x 256 pixels: noise that moves (H.264)."""
    import av
    import numpy as np

    picture = np.random.default_rng(seed).integers(0, 255, (64, 85, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        stream.options = {"preset": "veryfast"}
        for number in range(300):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, number, axis=1)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {"machine": machine, "extraction": extraction}


# The text of the table.


def summary(name: str, result: dict[str, Any]) -> str:
    """The numbers of a part that fit into a line."""
    if "median_seconds" in result:
        videos = int(name.split()[1])
        rate = videos / result["median_seconds"]
        text = f"{rate:.1f} videos/s, {result['peak_gib']} GiB"
        return text + (f", first step {result['first_seconds']} s" if result.get("first_seconds") else "")
    if name in result:  # a network of backbone.py
        forms = {
            kind: {form: row["times_faster_than_plain"] for form, row in rows.items()}
            for kind, rows in result[name].items()
        }
        return json.dumps(forms)
    if name == "short attention":
        return "; ".join(f"{shape}: {fastest(forms)}" for shape, forms in result.items() if " x " in shape)
    return ", ".join(f"{key} {value}" for key, value in result.items())


def fastest(forms: dict[str, Any]) -> str:
    """The form of short attention with the shortest step, and how it compares with PyTorch's choice."""
    times = {name: row["step_ms"] for name, row in forms.items() if isinstance(row, dict) and "step_ms" in row}
    best = min(times, key=lambda name: times[name])
    return f"{best} {times[best]} ms (sdpa {times.get('sdpa')} ms)"


def goals(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The goals on one H200, and what was reached."""
    reached: dict[str, str] = {}
    results = {name: row["result"] for name, row in rows.items() if "result" in row}
    steps = {name: result for name, result in results.items() if "median_seconds" in result}
    if steps:
        rates = {name: int(name.split()[1]) / result["median_seconds"] for name, result in steps.items()}
        best = max(rates, key=lambda name: rates[name])
        reached["60 videos per second"] = f"{rates[best]:.1f} ({best})"
        peaks = {name: result["peak_gib"] * 2**30 / 1e9 for name, result in steps.items() if "32 videos" in name}
        reached["32 videos in 70 GB"] = ", ".join(f"{peak:.0f} GB ({name})" for name, peak in peaks.items())
    peers = {"timesformer": "transformers bfloat16", "motionformer": "plain bfloat16", "xvit": "plain bfloat16"}
    for network, peer in peers.items():
        for kind, forms in results.get(network, {}).get(network, {}).items():
            if peer in forms:
                ours = max(row["times_faster_than_plain"] for name, row in forms.items() if "svt_zoo" in name)
                goal = 2.5 if network == "timesformer" else 2.0
                ratio = ours / forms[peer]["times_faster_than_plain"]
                reached[f"{network}, {kind}: {goal} x {peer}"] = f"{ratio:.2f} x"
    if "extraction" in results:
        reached["extraction: 0.9 of the slower limit"] = str(results["extraction"]["fraction_of_the_slower"])
    return reached


@contextmanager
def with_wheels(folder: Path) -> Iterator[None]:
    """Make the wheels of a folder importable in the processes started inside; nothing happens without the folder."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    with tempfile.TemporaryDirectory() as target:
        paths = [str(ROOT)]
        if wheels:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
            subprocess.run([*install, "--target", target, *wheels], check=True)
            paths.insert(0, target)
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
        yield


def has_gpu() -> bool:
    """Whether torch sees a GPU, asked in another process so that this one does not load torch."""
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question]).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for the result as JSON, gpu_cuda.json or gpu_cpu.json")
    parser.add_argument("--log", type=Path, help="folder for the output of every part")
    parser.add_argument("--seconds", type=float, default=530, help="limit of all parts together")
    parser.add_argument("--only", nargs="+", help="names of the parts to run")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "wheels", help="packages to install first")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.device)))
        return 0
    end = time.monotonic() + args.seconds
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary, with_wheels(args.wheels):
        log = args.log or Path(temporary)
        log.mkdir(parents=True, exist_ok=True)
        on_gpu = has_gpu() if args.device == "auto" else args.device == "cuda"
        for part in gpu_parts(log) if on_gpu else tiny_parts(log):
            if args.only and part.name not in args.only:
                continue
            left = end - time.monotonic()
            if left < 10:
                rows[part.name] = {"state": "not run", "seconds": 0.0}
            else:
                rows[part.name] = run(part, min(part.limit, left), log / f"{part.name}.log")
            row = rows[part.name]
            text = summary(part.name, row["result"]) if "result" in row else " | ".join(row.get("end_of_log", [])[-3:])
            print(f"{part.name:36} {row['state']:8} {row['seconds']:6.1f} s  {text}", flush=True)
    reached = goals(rows) if on_gpu else {}
    for goal, value in reached.items():
        print(f"goal: {goal:50} {value}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        file = args.output / f"gpu_{'cuda' if on_gpu else 'cpu'}.json"
        file.write_text(json.dumps({"goals": reached, "parts": rows}, indent=2) + "\n")
        print(file)
    return int(any(row["state"] != "ok" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
