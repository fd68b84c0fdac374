"""Measure time and memory of one clip through the backbones: ours, plain implementations, and transformers'.

    python benchmarks/backbone.py --size vitb --depth 1 --output benchmarks/results/backbones_cpu.json

For each network, all contenders run the same weights and clip in turns (A B C, then C B A, ...). The result is the
ratio of medians; on a CPU, of CPU seconds. The plain form stores the full attention maps, for Motionformer the map of
all tokens to all tokens. Memory is the peak of one step beyond weights and clip, measured in a separate process. A
training step is forward, backward and SGD. transformers' TimesformerModel runs if it is installed
(`pip install transformers`).
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svt_zoo.device import fastest_dtype
from svt_zoo.hub.convert import to_hf_timesformer
from svt_zoo.models import create_model

FRAMES, CROP = 8, 224
Outputs = Sequence[Tensor]  # inputs of the loss of a training step; the class feature (B, D) first
PLAIN, OURS, OURS_BF16 = "plain float32", "svt_zoo float32", "svt_zoo bfloat16"
PLAIN_BF16, COMPILED = "plain bfloat16", "svt_zoo bfloat16 compiled"
HF, HF_BF16 = "transformers float32", "transformers bfloat16"
# Three approximations of Motionformer.
VARIANTS: dict[str, dict[str, Any]] = {
    "orthoformer": {"approximation": "orthoformer"},
    "nystrom": {"approximation": "nystrom"},
    "performer": {"approximation": "performer"},
}


class Plain:
    """The networks as in the papers' formulas, without fused kernels, with the state dict of ours."""

    def __init__(self, state: dict[str, Tensor], heads: int) -> None:
        self.state, self.heads = state, heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A linear layer, with its bias if it has one."""
        out = x @ self.state[f"{name}.weight"].T
        return out + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else out

    def norm(self, x: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        """LayerNorm."""
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        """The MLP: two linear layers with GELU."""
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def depth(self, prefix: str) -> int:
        """Number of numbered modules below `prefix`."""
        return len({key.split(".")[prefix.count(".")] for key in self.state if key.startswith(prefix)})

    def split(self, x: Tensor) -> Tensor:
        """(R, S, D) -> (R, h, S, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention's probabilities (R, h, S, S)."""
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)

    def attend(self, x: Tensor, name: str, change: Callable[[Tensor], Tensor] = lambda kv: kv) -> Tensor:
        """Attention inside x (R, S, D); `change` alters keys and values (R, S, D) first."""
        q, k, v = self.linear(x, f"{name}.qkv").chunk(3, dim=-1)
        q, k, v = self.split(q), self.split(change(k)), self.split(change(v))
        return self.linear((self.weights(q, k) @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    def patches(self, clip: Tensor, prefix: str = "") -> Tensor:
        """Patch tokens with their positions in the frame, (B, T, N, D)."""
        kernel, bias = (self.state[f"{prefix}patch_embed.proj.{part}"] for part in ("weight", "bias"))
        tokens = F.conv2d(clip.transpose(1, 2).flatten(0, 1), kernel, bias, stride=kernel.shape[-1])
        tokens = tokens.flatten(2).transpose(1, 2) + self.state[f"{prefix}pos_embed"][:, 1:]
        return tokens.unflatten(0, (clip.shape[0], -1))

    def cls(self, batch: int, prefix: str = "") -> Tensor:
        """Class tokens with their position, (B, 1, D)."""
        token = self.state[f"{prefix}cls_token"] + self.state[f"{prefix}pos_embed"][:, :1]
        return token.expand(batch, -1, -1)

    def timesformer(self, clip: Tensor) -> Outputs:
        """TimeSformer with divided attention."""
        batch, _, frames, _, _ = clip.shape
        cls, patches = self.cls(batch), self.patches(clip) + self.state["time_embed"][:, :, None]
        for i in range(self.depth("blocks.")):
            block = f"blocks.{i}"
            tubes = patches.transpose(1, 2).flatten(0, 1)
            tubes = self.attend(self.norm(tubes, f"{block}.temporal_norm1"), f"{block}.temporal_attn")
            tubes = self.linear(tubes, f"{block}.temporal_fc")
            patches = patches + tubes.unflatten(0, (batch, -1)).transpose(1, 2)
            rows = torch.cat((cls.unsqueeze(1).expand(-1, frames, -1, -1), patches), dim=2).flatten(0, 1)
            rows = self.attend(self.norm(rows, f"{block}.norm1"), f"{block}.attn").unflatten(0, (batch, frames))
            x = torch.cat((cls + rows[:, :, 0].mean(1, keepdim=True), (patches + rows[:, :, 1:]).flatten(1, 2)), dim=1)
            x = x + self.mlp(self.norm(x, f"{block}.norm2"), f"{block}.mlp")
            cls, patches = x[:, :1], x[:, 1:].unflatten(1, (frames, -1))
        return self.norm(cls[:, 0], "norm"), self.norm(patches, "norm")

    def motionformer(self, clip: Tensor) -> Outputs:
        """Motionformer with trajectory attention, as in its code."""
        patches = self.patches(clip) + self.state["temp_embed"].unsqueeze(2)
        x = torch.cat((self.cls(clip.shape[0]), patches.flatten(1, 2)), dim=1)
        for i in range(self.depth("blocks.")):
            x = x + self.trajectories(self.norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn", clip.shape[2])
            x = x + self.mlp(self.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp")
        x = torch.tanh(self.linear(self.norm(x, "norm"), "pre_logits.fc"))
        return x[:, 0], x[:, 1:]

    def trajectories(self, x: Tensor, name: str, frames: int) -> Tensor:
        """Trajectory attention with its maps: S x S weights in space, then each token along its own trajectory."""
        q, k, v = (self.split(y) for y in self.linear(x, f"{name}.qkv").chunk(3, dim=-1))
        cls = (self.weights(q[:, :, :1], k) @ v).transpose(1, 2).flatten(2)  # (B, 1, D)
        q, k, v = q[:, :, 1:], k[:, :, 1:].unflatten(2, (frames, -1)), v[:, :, 1:].unflatten(2, (frames, -1))
        space = (torch.einsum("bhsd,bhfpd->bhsfp", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        path = torch.einsum("bhsfp,bhfpd->bsfhd", space, v).flatten(3)  # (B, S, T, D)
        frame = torch.arange(frames, device=x.device).repeat_interleave(k.shape[3])
        own = path[:, torch.arange(path.shape[1], device=x.device), frame]  # (B, S, D)
        q2 = self.linear(own, f"{name}.proj_q").unflatten(2, (self.heads, -1))  # (B, S, h, d)
        k2 = self.linear(path, f"{name}.proj_kv").chunk(2, dim=-1)[0].unflatten(3, (self.heads, -1))
        time = (torch.einsum("bshd,bsfhd->bshf", q2, k2) * q2.shape[-1] ** -0.5).softmax(dim=-1)
        out = torch.einsum("bshf,bsfhd->bshd", time, path.unflatten(3, (self.heads, -1))).flatten(2)
        return self.linear(torch.cat((cls, out), dim=1), f"{name}.proj")

    def xvit(self, clip: Tensor) -> Outputs:
        """X-ViT: one quarter of keys and values comes from the frame before, one from the frame after."""
        batch, _, frames, _, _ = clip.shape
        base = "base_model."
        cls = self.cls(batch * frames, base).unflatten(0, (batch, frames))
        x = torch.cat((cls, self.patches(clip, base)), dim=2) + self.state[f"{base}temp_embed"]  # (B, T, 1+N, D)

        def shift(kv: Tensor) -> Tensor:
            kv, quarter = kv.unflatten(0, (batch, frames)), kv.shape[-1] // 4
            out = torch.zeros_like(kv)
            out[:, :-1, :, :quarter] = kv[:, 1:, :, :quarter]
            out[:, 1:, :, quarter : 2 * quarter] = kv[:, :-1, :, quarter : 2 * quarter]
            out[..., 2 * quarter :] = kv[..., 2 * quarter :]
            return out.flatten(0, 1)

        x = x.flatten(0, 1)
        for i in range(self.depth(f"{base}blocks.")):
            block = f"{base}blocks.{i}"
            x = x + self.attend(self.norm(x, f"{block}.norm1"), f"{block}.attn", shift)
            x = x + self.mlp(self.norm(x, f"{block}.norm2"), f"{block}.mlp")
        x = self.norm(x, f"{base}norm").unflatten(0, (batch, frames))
        clip_tokens = torch.cat((self.state["consensus.cls_token"].expand(batch, -1, -1), x[:, :, 0]), dim=1)
        for i in range(self.depth("consensus.temporal_encoder.")):
            block = f"consensus.temporal_encoder.{i}"
            clip_tokens = clip_tokens + self.attend(self.norm(clip_tokens, f"{block}.norm1", 1e-5), f"{block}.attn")
            clip_tokens = clip_tokens + self.mlp(self.norm(clip_tokens, f"{block}.norm2", 1e-5), f"{block}.mlp")
        head = self.norm(clip_tokens[:, 0], "consensus.mlp_head.0", 1e-5)
        return F.gelu(self.linear(head, "consensus.mlp_head.1")), x[:, :, 1:]


@dataclass(frozen=True)
class Case:
    """One network at one size; all its contenders have the same weights."""

    network: str
    size: str
    depth: int
    batch: int
    device: str
    threads: int
    crop: int = CROP
    compiled: bool = False

    def model(self, **options: Any) -> nn.Module:
        """Our network with random weights, the same each time."""
        torch.manual_seed(0)
        name, blocks = f"{self.network}_{self.size}", {"depth": self.depth} if self.depth else {}
        model = create_model(name, img_size=self.crop, num_frames=FRAMES, drop_path_rate=0.0, **blocks, **options)
        for parameter in model.parameters():
            if not parameter.any():  # initialized with zeros, which would hide errors
                nn.init.trunc_normal_(parameter, std=0.02)
        return model.to(self.device)

    def clip(self) -> Tensor:
        """A clip of noise (B, 3, T, H, W), the same each time."""
        clip = torch.randn(self.batch, 3, FRAMES, self.crop, self.crop, generator=torch.Generator().manual_seed(0))
        return clip.to(self.device)

    def contenders(self) -> list[str]:
        """Names of the compared implementations."""
        on_gpu = self.device.startswith("cuda")
        names = [OURS, OURS_BF16] + ([COMPILED] if self.compiled else []) + [PLAIN] + ([PLAIN_BF16] if on_gpu else [])
        if self.network == "timesformer" and installed("transformers"):
            names += [HF, HF_BF16] if on_gpu else [HF]
        if self.network == "motionformer" and not on_gpu:
            names += [f"{OURS}, {variant}" for variant in VARIANTS]
        return names

    def forward(self, name: str, train: bool) -> tuple[Callable[[Tensor], Outputs], list[Tensor]]:
        """The forward function of contender `name`, and its parameters."""
        _, _, variant = name.partition(", ")
        model = self.model(**VARIANTS.get(variant, {}))
        if name in (HF, HF_BF16):
            model = transformers_model(model, self.crop).to(self.device)
        if "bfloat16" in name and not train:
            model = model.bfloat16()
        parameters = list(model.parameters())
        run: Callable[[Tensor], Outputs]
        if name in (PLAIN, PLAIN_BF16):
            state = {key: value.detach().requires_grad_(train) for key, value in model.state_dict().items()}
            heads, parameters = (
                next(m.num_heads for m in model.modules() if hasattr(m, "num_heads")),
                list(state.values()),
            )
            run = getattr(Plain(state, heads), self.network)
        elif name in (HF, HF_BF16):
            run = partial(hf_forward, model)
        else:
            run = torch.compile(model) if name == COMPILED else model

        def forward(clip: Tensor) -> Outputs:
            with torch.autocast(clip.device.type, torch.bfloat16, enabled=train and "bfloat16" in name):
                return tuple(run(clip.to(parameters[0].dtype)))

        return forward, parameters

    def step(self, name: str, train: bool) -> Callable[[], Tensor]:
        """One forward or one training step of contender `name`; returns the class feature (B, D)."""
        forward, parameters = self.forward(name, train)
        clip = self.clip()
        if not train:
            return torch.inference_mode()(lambda: forward(clip)[0].float())
        optimizer = torch.optim.SGD(parameters, lr=1e-4)

        def training() -> Tensor:
            outputs = forward(clip)
            sum(output.float().square().mean() for output in outputs).backward()
            optimizer.step()
            optimizer.zero_grad()
            return outputs[0].detach().float()

        return training


def transformers_model(model: nn.Module, crop: int) -> nn.Module:
    from transformers import TimesformerConfig, TimesformerModel

    dim, heads = model.embed_dim, model.blocks[0].attn.num_heads
    config = TimesformerConfig(
        image_size=crop,
        num_frames=FRAMES,
        hidden_size=dim,
        num_attention_heads=heads,
        num_hidden_layers=len(model.blocks),
        intermediate_size=4 * dim,
        hidden_dropout_prob=0.0,
    )
    theirs = TimesformerModel(config)
    names = to_hf_timesformer({key: value.cpu() for key, value in model.state_dict().items()})
    theirs.load_state_dict({key.removeprefix("timesformer."): value for key, value in names.items()}, strict=True)
    return theirs


def hf_forward(model: nn.Module, clip: Tensor) -> Outputs:
    tokens = model(clip.transpose(1, 2)).last_hidden_state
    return tokens[:, 0], tokens[:, 1:]


def seconds_now(device: str) -> float:
    """CPU seconds of this process, so that other processes do not count; on a GPU wall time after all work is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def gpu_memory_of(step: Callable[[], Tensor]) -> float:
    """Peak memory of one step in MB on the GPU, beyond the memory before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def timed(case: Case, train: bool, rounds: int) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """Seconds of each step, in an order that is reversed every round; cosine similarity to the plain form; GPU memory.

    The order of the returned dictionaries is that of `Case.contenders`.
    """
    steps = {name: case.step(name, train) for name in case.contenders()}
    features = {name: step() for name, step in steps.items()}  # warms up
    cosine = {name: F.cosine_similarity(f, features[PLAIN]).min().item() for name, f in features.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps) if number % 2 else reversed(list(steps)):
            start = seconds_now(case.device)
            steps[name]()
            seconds[name].append(seconds_now(case.device) - start)
    on_gpu = case.device.startswith("cuda")
    return seconds, cosine, {name: gpu_memory_of(step) for name, step in steps.items()} if on_gpu else {}


def memory_of(case: Case, name: str, train: bool) -> float:
    """Peak memory of one step in MB, beyond the memory before it."""
    torch.set_num_threads(case.threads)
    gc.collect()
    step = case.step(name, train)
    step()  # loads what is loaded on first use
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / 2**10


def resident(field: str) -> int:
    """A field of /proc/self/status, in KB."""
    return int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def compared(case: Case, train: bool, rounds: int) -> dict[str, dict[str, float]]:
    """Each contender's median, ratio to the plain form, memory and cosine."""
    seconds, cosine, memory = timed(case, train, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    if sys.platform == "linux" and not memory:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # the process below then returns freed memory at once
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            memory = {name: process.submit(memory_of, case, name, train).result() for name in medians}
    return {
        name: {
            "median_seconds": round(value, 4),
            "times_faster_than_plain": round(medians[PLAIN] / value, 2),
            "peak_memory_mb": round(memory.get(name, 0)),  # 0: not measured on this system
            "cosine_to_plain": round(cosine[name], 6),
        }
        for name, value in medians.items()
    }


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", file.read_text()) if file.exists() else []
    return names[0] if names else platform.machine()


def installed(package: str) -> str:
    """The version of a package, or "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="vitb", help="vitt, vits, vitb or vitl")
    parser.add_argument("--depth", type=int, default=0, help="number of blocks; 0 is that of the size")
    parser.add_argument("--networks", nargs="+", default=["timesformer", "motionformer", "xvit"])
    parser.add_argument("--batch", type=int, default=1, help="clips of 8 frames per step")
    parser.add_argument("--crop", type=int, default=CROP)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also measure the compiled network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["forward", "training_step"])
    parser.add_argument("--output", type=Path, help="file for the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    capabilities = torch.cpu.get_capabilities() if args.device == "cpu" else {}
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "device": device_name(args.device),
        "bfloat16_instructions": sorted(k for k, on in capabilities.items() if on and ("bf16" in k or "amx" in k)),
        "auto_dtype": str(fastest_dtype(torch.device(args.device))),
        "threads": args.threads,
        "versions": {"torch": torch.__version__, "transformers": installed("transformers")},
        "size": args.size,
        "depth": args.depth or "full",
        "batch": args.batch,
        "rounds": args.rounds,
    }
    for network in args.networks:
        case = Case(network, args.size, args.depth, args.batch, args.device, args.threads, args.crop, args.compile)
        for kind in args.kinds:
            rows = compared(case, kind == "training_step", args.rounds)
            result.setdefault(network, {})[kind] = rows
            print(f"\n{network}_{args.size}, {kind:22} {'seconds':>8} {'faster':>7} {'MB':>6} {'cosine':>9}")
            for name, row in rows.items():
                print(f"{name:34} {row['median_seconds']:8.3f} {row['times_faster_than_plain']:7.2f}", end=" ")
                print(f"{row['peak_memory_mb']:6} {row['cosine_to_plain']:9.6f}", flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
