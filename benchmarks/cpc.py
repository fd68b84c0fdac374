"""Evaluate CPC pre-training on a few hundred short clips.

    python benchmarks/cpc.py --list /actions/list.csv --scratch /tmp/cpc --output benchmarks/results

The list is a table with the columns file, label, set, split, group. One network per seed and recipe is pre-trained on
the training clips of all sets together, without labels. Each set is then evaluated separately, beside a network with
random weights: nearest neighbors, linear probe, fine-tuning. Finished work stays in the scratch folder, and the same
command resumes.
"""

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from svt_zoo.config import CPCRecipe, FinetuneRecipe, KNNRecipe, LinearRecipe, build
from svt_zoo.data.encode import Encoding
from svt_zoo.data.lists import read_list
from svt_zoo.data.prepare import prepare_videos
from svt_zoo.evaluation.run import evaluate
from svt_zoo.models import Backbone, Features, list_models, register_model
from svt_zoo.training.run import finetune, pretrain

SIZE = 64
OPTIONS = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_dim": 256, "img_size": SIZE, "num_frames": 8}
MODEL: dict[str, Any] = {"name": "cpc_resnet18", "options": OPTIONS}
VIEWS = {"size": SIZE, "short_side": 72, "hflip": 0.0}  # left and right matter in tennis
PRETRAINED: dict[str, dict[str, Any]] = {
    "original": {
        "views": {**VIEWS, "context_frames": 2, "pred_frames": 3, "jitter": "frame"},
        "cpc": {"attention": "full", "normalize": False, "temperature": 1.0},
        "optim": {"name": "adam"},
    },
    "isolated": {"views": VIEWS},
}
CLIP = {"sampling_rate": "segments", "resize_size": 72, "crop_size": SIZE}
CLIP |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Thumbnail(Backbone):
    """12 x 12 pixels of the median frame, the floor: colors of the scene, no motion."""

    embed_dim, num_frames, patch_size = 3 * 12 * 12, 8, 5

    def forward(self, clip: Tensor) -> Features:
        """The class feature is the full picture."""
        picture = F.adaptive_avg_pool2d(clip.median(dim=2).values, 12).flatten(1)  # (B, D)
        return Features(picture, picture[:, None, None])


def prepare(source: str, sets: list[str], scratch: Path) -> dict[str, Path]:
    """Make small copies of the clips; return the list of each set and split: "tennis_train" -> list."""
    lists = {}
    for name in sets:
        for split in ("train", "test"):
            key, folder = f"{name}_{split}", scratch / "videos" / f"{name}_{split}"
            done = folder / "done.txt"
            if not done.exists():
                videos = read_list(source, where=f"split={split},set={name}")
                made = prepare_videos(videos, folder, Encoding(mode="intra", short_side=72), name=key, workers=0)
                done.write_text(str(made.list))
            lists[key] = Path(done.read_text())
    return lists


def pretrained(name: str, seed: int, lists: dict[str, Path], sets: list[str], epochs: int, scratch: Path) -> str:
    """Pre-train on all sets unless it is done; return the folder of the run, or "random"."""
    if name == "random":
        return name
    together = scratch / "train.txt"
    together.write_text("".join(f"{row.path}\n" for one in sets for row in read_list(str(lists[f"{one}_train"])).rows))
    output = scratch / f"{name}_seed{seed}"
    options = PRETRAINED[name]
    if not (output / "final.safetensors").exists():
        recipe = build(
            CPCRecipe,
            {
                "model": MODEL,
                "data": {"train": str(together), "batch_size": 16, "num_workers": 0},
                "run": {"output": str(output), "seed": seed, "checkpoint_every_epochs": 1000, "log_every_steps": 50},
                **options,
                "optim": {"epochs": epochs, "warmup_epochs": 1, **options.get("optim", {})},
            },
        )
        started = time.process_time()
        pretrain(recipe)
        (output / "cpu_seconds.txt").write_text(f"{time.process_time() - started:.1f}")
    return str(output)


def evaluated(
    init: str, seed: int, one: str, lists: dict[str, Path], output: Path, *, thumbnail: bool = False
) -> dict[str, float]:
    """Top-1 in percent on the test clips of a set, by protocol; for thumbnails only nearest neighbors."""
    common: dict[str, Any] = {
        "init": init,
        "model": {"name": "thumbnail"} if thumbnail else MODEL,
        "clip": CLIP,
        "data": {
            "train": str(lists[f"{one}_train"]),
            "val": str(lists[f"{one}_test"]),
            "batch_size": 16,
            "num_workers": 0,
        },
        "report": {"folder": str(output / "results")},
    }

    def run(kind: str) -> dict[str, Any]:
        return {"output": str(output / kind), "seed": seed}

    knn = build(KNNRecipe, {**common, "knn": {"ks": [5]}, "run": run("knn")})
    if thumbnail:
        return {"knn": evaluate(knn)[0].metrics["top1"]}
    probe = {"lrs": [0.03, 0.3], "epochs": 100, "clips": 2, "hflip": 0.0, "slow_fast": False, "views": "1x1"}
    linear = build(LinearRecipe, {**common, "linear": {**probe, "standardize": True}, "run": run("linear")})
    optim = {"name": "adamw", "lr": 1e-3, "epochs": 5, "schedule": "cosine", "warmup_epochs": 1}
    tuned = build(
        FinetuneRecipe,
        {
            **common,
            "views": {"slow_fast": False, "hflip": 0.0},
            "optim": optim,
            "multiview": {"views": "1x1"},
            "run": {**run("finetune"), "checkpoint_every_epochs": 1000, "log_every_steps": 1000},
        },
    )
    results = {
        "knn": evaluate(knn)[0],
        "linear": evaluate(linear)[0],
        "finetune": (finetune(tuned) or [])[0],
    }
    return {protocol: result.metrics["top1"] for protocol, result in results.items()}


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each network, set and protocol."""
    table: dict[str, Any] = {}
    for case in cases:
        for protocol, value in case["top1"].items():
            cell = table.setdefault(case["set"], {}).setdefault(protocol, {}).setdefault(case["network"], [])
            cell.append(value)
    for protocols in table.values():
        for networks in protocols.values():
            for name, values in networks.items():
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                networks[name] = {"mean": round(statistics.mean(values), 1), "std": round(spread, 1), "n": len(values)}
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", help="table of clips with labels")
    parser.add_argument("--sets", nargs="+", default=["ucf101", "tennis"], help="sets of the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="results of others stay in the file")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of pre-training")
    parser.add_argument("--width", type=int, default=64, help="features of the network; ResNet-18 has 256 here")
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark_cpc"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of cpc_cpu.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    OPTIONS.update(embed_dim=args.width, mlp_dim=4 * args.width)
    if "thumbnail" not in list_models():
        register_model("thumbnail", Thumbnail)
    logging.basicConfig(level=logging.WARNING)
    lists = prepare(args.list, args.sets, args.scratch)
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / f"cpc_{kind}.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.list), "LIST"),
        "machine": f"{platform.machine()}, one thread" if kind == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "epochs": args.epochs,
        "width": args.width,
        "clips": {name: len(read_list(str(path))) for name, path in lists.items()},
    }
    same = all(earlier.get(key) == report[key] for key in ("epochs", "width", "clips"))
    kept = earlier["cases"] if same else []
    report["cases"] = [case for case in kept if case["seed"] not in args.seeds and case["network"] != "thumbnail"]
    for one in args.sets:
        top1 = evaluated("random", 0, one, lists, args.scratch / "thumbnail" / one, thumbnail=True)
        report["cases"].append({"network": "thumbnail", "seed": 0, "set": one, "top1": top1})
    for seed in args.seeds:
        for name in ("random", *PRETRAINED):
            init = pretrained(name, seed, lists, args.sets, args.epochs, args.scratch)
            for one in args.sets:
                folder = args.scratch / f"{name}_seed{seed}" / one
                top1 = evaluated(init, seed, one, lists, folder)
                report["cases"].append({"network": name, "seed": seed, "set": one, "top1": top1})
                report["top1"] = summary(report["cases"])
                file.write_text(json.dumps(report, indent=1) + "\n")
                print(name, seed, one, top1, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
