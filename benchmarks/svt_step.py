"""Measure the cost of a training step of SVT's ViT-B/16 with the paper's ten views: FLOPs, time and memory.

    python benchmarks/svt_step.py --output benchmarks/results            # FLOPs, bytes and time
    python benchmarks/svt_step.py --count --output benchmarks/results    # FLOPs and bytes alone, in two minutes
    python benchmarks/svt_step.py --time --output benchmarks/results     # time alone, beside the counts of that file

FLOPs are counted on tensors without data. Then each case runs in its own process, so that its peak memory is separate.
On a GPU the cases are every batch size with and without checkpointing and compile; on a CPU one video with and without
checkpointing. A step is forward, backward, clipping, AdamW and the teacher update, in bfloat16, without data and
augmentation. The last step is profiled; its time is used only if it is the only step. On a CPU, time is CPU time
divided by the number of threads, so that other processes do not count.

Bytes are what each operator reads and writes without compilation, on tensors without data: a fused attention kernel
counts its inputs and outputs once. They bound the time of a step together with the FLOPs. Peak memory is that of all
tensors that are alive at once, in the second step; a GPU needs a little more.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import weakref
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from svt_zoo.batch import Batch
from svt_zoo.config import Recipe
from svt_zoo.device import device_name
from svt_zoo.methods import SVT, SVTConfig
from svt_zoo.models import Backbone, create_model, layers
from svt_zoo.models.base import GradCheckpointing
from svt_zoo.training.optim import OptimConfig, build_optimizer, clip_gradients
from svt_zoo.training.parallel import compile_networks

VIEWS = Recipe().views  # the defaults are the paper's
TINY_VIEWS = replace(VIEWS, global_size=32, local_size=16)
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
GOAL = 60  # videos per second on one H200: Kinetics-400 x 20 epochs in a day


def clock(device: torch.device) -> float:
    """Seconds: wall time on a GPU, otherwise CPU time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def build(checkpointing: GradCheckpointing, tiny: bool = False) -> SVT:
    """SVT as in the paper with random weights, or a tiny one."""
    backbone = create_model("svt_vitb", grad_checkpointing=checkpointing, **(TINY if tiny else {}))
    assert isinstance(backbone, Backbone)
    return SVT(backbone, SVTConfig(out_dim=256 if tiny else 65536), epochs=20)


def random_batch(size: int, device: torch.device, tiny: bool = False) -> Batch:
    """Views of noise: two global and eight local views per video."""
    views = TINY_VIEWS if tiny else VIEWS
    shapes = [(frames, views.global_size) for frames in views.global_frames]
    shapes += [(frames, views.local_size) for frames in views.local_frames]
    views = [torch.randn(size, 3, frames, side, side, device=device) for frames, side in shapes]
    return Batch(views=views, labels=torch.full((size,), -1), video_index=torch.arange(size))


def count_flops(checkpointing: GradCheckpointing) -> dict[str, float]:
    """TFLOP per video: forward of student and teacher, backward, and total; a multiply-add counts as two."""
    with torch.device("meta"):
        method = build(checkpointing)
    counter = FlopCounterMode(display=False, depth=2)
    # Attention by its plain formula: fused kernels compute parts of it again in backward.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):
        method = method.to_empty(device="cpu")
        batch = random_batch(1, torch.device("cpu"))
        with counter:
            loss = method(batch, 1.0)["svt"]
            forward = counter.get_total_flops()
            teacher = sum(counter.get_flop_counts()["SVT.teacher"].values())
            loss.backward()
    total = counter.get_total_flops()
    parts = {"student": forward - teacher, "teacher": teacher, "backward": total - forward, "step": total}
    return {name: round(value / 1e12, 3) for name, value in parts.items()}


class ByteCounter(TorchDispatchMode):
    """Sums the bytes that operators read and write, by operator (views cost nothing), and those alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.sizes: dict[int, int] = {}
        self.alive = self.peak = 0

    def watch(self, tensor: Tensor) -> None:
        """Count the memory of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.alive += self.sizes[key]
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        """Called when the memory is freed."""
        self.alive -= self.sizes.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count its tensors."""
        out = function(*args, **(kwargs or {}))
        name = str(function.overloadpacket).removeprefix("aten.")
        free = function.is_view or function.namespace != "aten"
        if not (free or name in ("detach", "_unsafe_view", "empty_like", "empty")):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return out


def count_bytes(batch: int, checkpointing: GradCheckpointing = False) -> dict[str, Any]:
    """GB that a step of `batch` videos reads and writes, by phase and by operator, and its peak memory."""
    with torch.device("meta"):
        method = build(checkpointing)
    with FakeTensorMode(allow_non_fake_inputs=True):
        method = method.to_empty(device="cpu")
        views = random_batch(batch, torch.device("cpu"))
        optimizer = build_optimizer(method, OptimConfig())
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        counter = ByteCounter()
        for tensor in (*method.parameters(), *method.buffers(), *views.views):
            counter.watch(tensor)
        explicit, layers.attend = layers.attend, F.scaled_dot_product_attention  # as on a GPU
        try:
            for _ in range(2):  # the optimizer has its state from the second step on
                counter.bytes.clear()
                with counter:
                    with torch.autocast("cpu", torch.bfloat16):
                        loss = method(views, 1.0)["svt"]
                    forward = counter.bytes.total()
                    loss.backward()
                    backward = counter.bytes.total() - forward
                    clip_gradients(trained, 3.0, mode="per_parameter")
                    optimizer.step()
                    optimizer.zero_grad()
                    method.after_step(1.0)
                del loss
        finally:
            layers.attend = explicit
    total = counter.bytes.total()
    result = {"forward": forward, "backward": backward, "update": total - forward - backward, "step": total}
    result |= {"peak_memory": counter.peak}
    operators = {name: round(value / 1e9, 1) for name, value in counter.bytes.most_common(12)}
    return {**{name: round(value / 1e9, 1) for name, value in result.items()}, "operators": operators}


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds, memory and the costliest operators of one case, in this process."""
    device = torch.device(case["device"])
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    tiny = case.get("tiny", False)
    method = build(case["checkpointing"], tiny).to(device)
    if case["compile"]:
        compile_networks(method)
    optimizer = build_optimizer(method, OptimConfig(lr=1e-4, weight_decay=0.0))
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    batch = random_batch(case["batch"], device, tiny)

    def step() -> float:
        start = clock(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = method(batch, 1.0)["svt"]
        loss.backward()
        method.before_step(1.0)
        clip_gradients(trained, 3.0, mode="per_parameter")
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(1.0)
        return clock(device) - start

    try:
        first = step() if case["warmup"] else None  # with compilation
        seconds = [step() for _ in range(max(0, case["warmup"] - 1) + case["steps"] - 1)]
        seconds = seconds[max(0, case["warmup"] - 1) :]
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            last = step()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "first_seconds": first and round(first, 1),
        "median_seconds": round(statistics.median(seconds or [last]), 4),
        "peak_gib": round(peak / 2**30, 2),
        "operators": costliest(profiler),
    }


def costliest(profiler: profile, count: int = 16) -> dict[str, float]:
    """Percent of the step's time in each of the costliest operators, without the operators they call."""
    events = profiler.key_averages()
    times = {event.key: event.self_device_time_total for event in events if event.self_device_time_total}
    times = times or {event.key: event.self_cpu_time_total for event in events}
    costly = sorted(times, key=lambda name: -times[name])[:count]
    return {name: round(100 * times[name] / sum(times.values()), 1) for name in costly}


def matrix_product(device: torch.device) -> float:
    """TFLOP/s of a large matrix product in bfloat16: the upper limit for a step."""
    size, rounds = (8192, 50) if device.type == "cuda" else (2048, 3)
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    a @ a
    start = clock(device)
    for _ in range(rounds):
        a @ a
    return 2 * size**3 * rounds / (clock(device) - start) / 1e12


def run_cases(args: argparse.Namespace, device: torch.device, flops: float) -> list[dict[str, Any]]:
    """Run all cases one after the other, each in its own process, and add their rates."""
    results = []
    compiled = (False, True) if device.type == "cuda" else (False,)
    for batch, checkpointing, compile_it in product(args.batches, (False, "mlp", True), compiled):
        case = {"device": str(device), "batch": batch, "checkpointing": checkpointing, "compile": compile_it}
        case |= {"warmup": args.warmup, "steps": args.steps}
        child = [sys.executable, __file__, "--case", json.dumps(case)]
        done = subprocess.run(child, stdout=subprocess.PIPE, text=True)
        if done.returncode:  # out of memory on a CPU
            result: dict[str, Any] = {**case, "failed": done.returncode}
        else:
            result = {**case, **json.loads(done.stdout.splitlines()[-1])}
        if "median_seconds" in result:
            rate = batch / result["median_seconds"]
            result |= {"videos_per_second": round(rate, 4), "tflop_per_second": round(rate * flops, 3)}
        print({name: value for name, value in result.items() if name not in ("device", "operators")}, flush=True)
        results.append(result)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", help="videos per step; by default 1, on a GPU 8 to 64")
    parser.add_argument("--steps", type=int, default=5, help="steps per case; the last one is profiled")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--output", type=Path, help="folder for the result as JSON")
    parser.add_argument("--count", action="store_true", help="count FLOPs and bytes, measure no time")
    parser.add_argument("--time", action="store_true", help="read the counts from svt_step_count.json in --output")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(args.case)))
        return 0
    device = torch.device(args.device)
    args.batches = args.batches or ([8, 16, 32, 64] if device.type == "cuda" else [1])
    kinds: dict[str, GradCheckpointing] = {"plain": False, "mlp": "mlp", "checkpointing": True}
    if args.time:
        result: dict[str, Any] = json.loads((args.output / "svt_step_count.json").read_text())
    else:
        result = {
            "tflop_per_video": {name: count_flops(kind) for name, kind in kinds.items()},
            "gb_per_step_of_32_videos": {name: count_bytes(32, kind) for name, kind in kinds.items()},
        }
    result |= {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__}
    print(json.dumps(result, indent=2), flush=True)
    if not args.count:
        result |= {
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "matrix_product_tflop_per_second": round(matrix_product(device), 3),
            "goal_videos_per_second": GOAL,
            "cases": run_cases(args, device, result["tflop_per_video"]["plain"]["step"]),
        }
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        file = args.output / f"svt_step_{'count' if args.count else device.type}.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
