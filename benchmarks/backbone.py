"""How long one clip takes through ViT-B/16: ours, a plain restatement, and transformers' TimesformerModel.

    python benchmarks/backbone.py --output benchmarks/results

All run in one process, in turns (A B C, then C B A, ...), on the same clip and the same weights; the result is the
ratio of medians. transformers is left out where it is not installed (`pip install transformers`).
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from svt_zoo.evaluation.prepare import fastest_dtype
from svt_zoo.hub.convert import to_hf_timesformer
from svt_zoo.models import create_model


def restated(state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """The class feature as the paper's formulas say it, in float32, with nothing fused and attention written out."""
    dim, heads, depth = 768, 12, 12
    batch, _, frames, _, _ = clip.shape

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (dim,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def attend(x: Tensor, name: str) -> Tensor:
        q, k, v = linear(x, f"{name}.qkv").reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (dim // heads) ** -0.5).softmax(dim=-1)
        return linear((weights @ v).transpose(1, 2).reshape(x.shape), f"{name}.proj")

    images = clip.transpose(1, 2).flatten(0, 1)
    tokens = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    patches = tokens.flatten(2).transpose(1, 2).unflatten(0, (batch, frames)) + state["pos_embed"][:, None, 1:]
    patches = patches + state["time_embed"][:, :, None]
    cls = (state["cls_token"] + state["pos_embed"][:, :1]).expand(batch, -1, -1)
    for i in range(depth):
        block = f"blocks.{i}"
        tubes = patches.transpose(1, 2).flatten(0, 1)
        tubes = linear(attend(norm(tubes, f"{block}.temporal_norm1"), f"{block}.temporal_attn"), f"{block}.temporal_fc")
        patches = patches + tubes.unflatten(0, (batch, -1)).transpose(1, 2)
        rows = torch.cat((cls.unsqueeze(1).expand(-1, frames, -1, -1), patches), dim=2).flatten(0, 1)
        rows = attend(norm(rows, f"{block}.norm1"), f"{block}.attn").unflatten(0, (batch, frames))
        x = torch.cat((cls + rows[:, :, 0].mean(1, keepdim=True), (patches + rows[:, :, 1:]).flatten(1, 2)), dim=1)
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        cls, patches = x[:, :1], x[:, 1:].unflatten(1, (frames, -1))
    return norm(cls[:, 0], "norm")


def contenders(device: torch.device, frames: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is timed: name -> clip -> class feature (B, 768), all with the same weights."""
    torch.manual_seed(0)
    model = create_model("svt_vitb", num_frames=frames).eval().to(device)
    for block in model.blocks:
        torch.nn.init.trunc_normal_(block.temporal_fc.weight, std=0.02)  # zero at first, which would hide mistakes
    state = model.state_dict()
    half = create_model("svt_vitb", num_frames=frames).eval().to(device)
    half.load_state_dict(state)
    half.to(torch.bfloat16)
    entries: dict[str, Callable[[Tensor], Tensor]] = {
        "svt_zoo bfloat16": lambda clip: half(clip.bfloat16()).cls.float(),
        "svt_zoo float32": lambda clip: model(clip).cls,
        "restatement float32": lambda clip: restated(state, clip),
    }
    try:
        from transformers import TimesformerConfig, TimesformerModel
    except ImportError:
        return entries
    theirs = TimesformerModel(TimesformerConfig(num_frames=frames)).eval().to(device)
    names = {key.removeprefix("timesformer."): value for key, value in to_hf_timesformer(state).items()}
    theirs.load_state_dict(names, strict=True)
    entries["transformers float32"] = lambda clip: theirs(clip.transpose(1, 2)).last_hidden_state[:, 0]
    return entries


def timed(entries: dict[str, Callable[[Tensor], Tensor]], clip: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, the order turned round after every round; two calls to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(-2, rounds):
        for name in list(entries) if number % 2 else reversed(list(entries)):
            start = time.perf_counter()
            entries[name](clip).sum().item()  # item() waits for a GPU
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=1, help="clips of 8x224x224 at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    clip = torch.randn(args.batch, 3, 8, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        entries = contenders(device, 8)
        reference = entries["restatement float32"](clip)
        cosine = {name: F.cosine_similarity(run(clip), reference).min().item() for name, run in entries.items()}
        seconds = timed(entries, clip, args.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = medians["svt_zoo bfloat16"]
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "bfloat16_instructions": sorted(k for k, on in capabilities.items() if on and ("bf16" in k or "amx" in k)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "auto_dtype": str(fastest_dtype(device)),
        "batch": args.batch,
        "rounds": args.rounds,
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_slower_than_bfloat16": {name: round(value / best, 2) for name, value in medians.items()},
        "cosine_to_restatement": {name: round(value, 6) for name, value in cosine.items()},
    }
    print(f"{'':24} {'seconds':>8} {'ratio':>6} {'cosine':>9}")
    for name, value in medians.items():
        print(f"{name:24} {value:8.3f} {value / best:6.2f} {cosine[name]:9.6f}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        file = args.output / f"backbone_{device.type}.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
