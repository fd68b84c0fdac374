"""Pre-train SVT on a few hundred short clips in memory, with and without the contrastive term: minutes on one core.

    python benchmarks/svt_small.py CLIPS --output benchmarks/results/svt_small_cpu.json

CLIPS is a folder with a `list.csv` of the columns file, label, class, set, split, group. A network is pre-trained on
the training clips of all sets together, without labels. Each set is then read by nearest neighbors and by ridge
regression, on standardized features: "inside", by group-wise folds inside the training part (to choose settings);
"all", by group-wise folds over all clips; "official", by the split of the list. Floors: chance, thumbnail, optical
flow, random weights. --finetune trains all weights with labels on each fold, too. Every finished run is a line of the
file --rows; the same command continues.
"""

import argparse
import copy
import csv
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svt_zoo.batch import Batch
from svt_zoo.data.augment import Augment
from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig
from svt_zoo.data.crops import crop_and_resize
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.flow import FlowLabels
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import collate
from svt_zoo.data.transforms import EvalTransform, short_side_size
from svt_zoo.data.views import EvalViews, ViewsConfig, train_views
from svt_zoo.evaluation.knn import knn_scores, standardized
from svt_zoo.methods import SVT, Classify, ClassifyConfig, SVTConfig, SVTTemporal, TemporalConfig
from svt_zoo.models import Backbone, create_model
from svt_zoo.training.optim import OptimConfig, build_optimizer
from svt_zoo.video import open_video

sys.path.insert(0, str(Path(__file__).parent))
from temporal import MEAN, STD, InMemory, classes_of, flow_histogram, interval, ridge, train_step

FRAMES, SIZE, SHORT_SIDE = 8, 48, 72  # of a clip; SHORT_SIDE of the videos in memory, which keep up to 64 frames
HEAD = {"out_dim": 256, "hidden_dim": 256, "bottleneck_dim": 64, "use_bn_in_head": True, "freeze_last_layer": 0.05}
TEACHER = {"teacher_temp": 0.02, "warmup_teacher_temp": 0.02, "momentum": 0.96}
TESTED = EvalTransform(
    num_frames=FRAMES, sampling_rate=None, crop_size=SIZE, resize_size=SIZE * 9 // 8, mean=MEAN, std=STD
)
NETWORKS = {  # name: svt.contrast, temporal.flow
    "random": (None, 0.0),
    "svt": (0.0, 0.0),
    "svt + contrast": (1.0, 0.0),
    "svt + contrast + flow": (1.0, 1.0),
}


@dataclass
class Videos:
    """Frames uint8 (T, H, W, 3) of all videos of some sets, and what the list says of them."""

    frames: list[Tensor]
    sets: list[str]
    labels: Tensor  # (N,), from 0 in each set
    is_train: Tensor
    groups: list[str]

    def dataset(self, rows: Tensor, views: Any, *, train: bool) -> VideoDataset:
        """Views of some of the videos."""
        listed = VideoList(tuple(Row(str(i), label=int(self.labels[i])) for i in rows.tolist()))
        return VideoDataset(listed, views, train=train, open_row=lambda row: InMemory(self.frames[int(row.path)]))

    def folds(self, name: str, protocol: str) -> list[tuple[Tensor, Tensor]]:
        """Rows of a set to learn from and to test on, for each fold."""
        rows = torch.tensor([i for i, other in enumerate(self.sets) if other == name])
        train = self.is_train[rows]
        if protocol == "official":
            return [(rows[train], rows[~train])]
        rows = rows[train] if protocol == "inside" else rows
        names = np.random.default_rng(0).permutation(sorted({self.groups[i] for i in rows}))
        fold_of = {group: i % 5 for i, group in enumerate(names)}
        fold = torch.tensor([fold_of[self.groups[i]] for i in rows])
        return [(rows[fold != k], rows[fold == k]) for k in range(5)]


def load(folder: Path, sets: list[str]) -> Videos:
    """Decode all videos of the sets, the training part of each set first."""
    with open(folder / "list.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    order = {(name, split): 2 * i + j for i, name in enumerate(sets) for j, split in enumerate(("train", "test"))}
    rows = [row for row in table if row["set"] in sets]
    rows.sort(key=lambda row: order[row["set"], row["split"]])
    frames = []
    for row in rows:
        with open_video(folder / row["file"]) as video:
            number = video.num_frames
            chosen = sorted(set(np.linspace(0, number - 1, min(number, 64)).round().astype(int).tolist()))
            pictures = video.frames_at(chosen)
        height, width = pictures.shape[1:3]
        frames.append(crop_and_resize(pictures, (0, 0, height, width), short_side_size(height, width, SHORT_SIDE)))
    first = {name: min(int(row["label"]) for row in rows if row["set"] == name) for name in sets}
    return Videos(
        frames,
        [row["set"] for row in rows],
        torch.tensor([int(row["label"]) - first[row["set"]] for row in rows]),
        torch.tensor([row["split"] == "train" for row in rows]),
        [row["group"] for row in rows],
    )


def accuracies(features: Tensor, videos: Videos) -> dict[str, float]:
    """Top-1 in percent by "set, protocol, reader"."""
    found = {}
    for name in dict.fromkeys(videos.sets):
        for protocol in ("inside", "all", "official"):
            right: dict[str, list[Tensor]] = {"kNN": [], "ridge": []}
            for train, test in videos.folds(name, protocol):
                bank, queries = standardized(features[train], features[test])
                labels = videos.labels[train]
                scores = knn_scores(bank, labels, queries, num_classes=int(videos.labels.max()) + 1, ks=(5,))[5]
                right["kNN"].append(scores.argmax(dim=1) == videos.labels[test])
                right["ridge"].append(ridge(features[train], labels, features[test]) == videos.labels[test])
            for reader, parts in right.items():
                found[f"{name}, {protocol}, {reader}"] = round(100 * torch.cat(parts).float().mean().item(), 1)
    return found


def finetuned(
    network: Backbone, videos: Videos, clips: Tensor, seed: int, args: argparse.Namespace
) -> dict[str, float]:
    """Top-1 in percent by "set, protocol, fine-tuned" of copies of a network that are trained on each fold."""
    views = FinetuneViews(TESTED, FinetuneViewsConfig(short_side=(SIZE, SIZE * 4 // 3), hflip=0.0))
    top1 = {}
    for name in dict.fromkeys(videos.sets):
        for protocol in args.protocols:
            right = []
            for train, test in videos.folds(name, protocol):
                torch.manual_seed(seed)
                rng, dataset = np.random.default_rng(seed), videos.dataset(train, views, train=True)
                labels = videos.labels[train]
                tuned = copy.deepcopy(network).requires_grad_(True)  # a teacher has no gradients
                method = Classify(tuned, int(videos.labels.max()) + 1, ClassifyConfig()).to(args.device).train()
                optimizer = build_optimizer(method, OptimConfig())
                for step in range(args.finetune):
                    index = rng.choice(len(dataset), min(16, len(dataset)), replace=False)
                    clip = torch.stack([dataset[step, int(i)]["video"] for i in index]).permute(0, 4, 1, 2, 3)
                    batch = Batch(views=[clip.float() / 127.5 - 1], labels=labels[index], video_index=index, targets={})
                    batch = batch.to(args.device)
                    train_step(method, optimizer, batch, step, args.finetune, lr=5e-4, warmup=args.finetune // 10)
                right.append(classes_of(method, clips[test], args.device) == videos.labels[test])
            top1[f"{name}, {protocol}, fine-tuned"] = round(100 * torch.cat(right).float().mean().item(), 1)
    return top1


def pretrain(
    videos: Videos, contrast: float | None, flow: float, seed: int, args: argparse.Namespace
) -> tuple[Backbone, list[Any]]:
    """A network after SVT, or a random one (contrast None); and the rank of its features during the training."""
    torch.manual_seed(seed)
    rng, ranks = np.random.default_rng(seed), []
    network = create_model(
        "svt_vitt",
        img_size=SIZE,
        patch_size=args.patch,
        num_frames=FRAMES,
        drop_path_rate=0.0,
        embed_dim=args.width,
        depth=args.depth,
        num_heads=args.width // 32,
        table_std=0.5,
    )
    assert isinstance(network, Backbone)
    if contrast is None:
        return network, ranks
    views = ViewsConfig(
        global_frames=(FRAMES, FRAMES // 2) if flow else (FRAMES // 2, FRAMES),  # the first view has flow labels
        local_frames=(),
        global_size=SIZE,
        hflip=0.0,
        blur_and_solarize=True,
    )
    drawn = train_views(views, flow=FlowLabels(args.patch) if flow else None)
    dataset = videos.dataset(torch.arange(len(videos.labels))[videos.is_train], drawn, train=True)
    augment = Augment(mean=MEAN, std=STD)
    config = SVTConfig(**HEAD, **TEACHER, correspondences=("global_to_global",), contrast=contrast)
    svt = SVT(network, config, epochs=1)
    method = (SVTTemporal(svt, TemporalConfig(flow=flow)) if flow else svt).to(args.device).train()
    optimizer = build_optimizer(method, OptimConfig())
    for step in range(args.steps):
        batch = collate([dataset[step, int(i)] for i in rng.choice(len(dataset), args.batch, replace=False)])
        batch.views[:] = [augment(v, p) for v, p in zip(batch.views, batch.params, strict=True)]
        options = {"lr": args.lr, "warmup": args.steps // 10, "weight_decay": 0.04, "clip": 3.0}
        train_step(method, optimizer, batch.to(args.device), step, args.steps, **options)
        ranks.append(round(float(svt.metrics()["feature_rank"]), 1))
    return svt.backbone, ranks[:: max(1, args.steps // 8)]


def tested_clips(videos: Videos) -> Tensor:
    """One clip (N, 3, T, H, W) of every video."""
    dataset = videos.dataset(torch.arange(len(videos.labels)), EvalViews(TESTED), train=False)
    return torch.stack([dataset[i]["video"] for i in range(len(videos.labels))])


def table(rows: list[dict[str, Any]], videos: Videos, protocol: str) -> str:
    """Markdown: a row per network, a column per set and reader; mean, interval, and the number of each seed."""
    readers = ("kNN", "ridge", "fine-tuned")
    columns = [f"{name}, {protocol}, {reader}" for name in dict.fromkeys(videos.sets) for reader in readers]
    columns = [column for column in columns if any(column in row["top1"] for row in rows)]
    text = [f"\n**{protocol}**\n\n| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = []
        for column in columns:
            values = [row["top1"][column] for row in rows if row["network"] == network and column in row["top1"]]
            if not values:  # a floor cannot be fine-tuned
                cells.append("")
                continue
            number = sum(len(test) for _, test in videos.folds(column.split(",")[0], protocol))
            low, high = interval(fmean(values), number)
            cells.append(f"{fmean(values):.1f} ({low:.0f} to {high:.0f}; {', '.join(map(str, values))})")
        text.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with list.csv")
    parser.add_argument("--sets", nargs="+", default=["ucf101", "tennis", "gesture"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    for name, value in {"steps": 640, "batch": 32, "patch": 16, "width": 96, "depth": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--finetune", type=int, default=0, help="steps of fine-tuning on each fold, 0 for none")
    parser.add_argument("--protocols", nargs="+", default=["all"], help="protocols of the fine-tuning")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=Path, default=Path("runs/svt_small.jsonl"), help="finished runs, one a line")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    args = parser.parse_args()
    videos = load(args.clips, args.sets)
    clips = tested_clips(videos)
    thumbnail = F.adaptive_avg_pool2d(clips.median(dim=2).values, 12).flatten(1)
    flow = torch.stack([flow_histogram(frames) for frames in videos.frames])
    rows = [{"network": name, "top1": accuracies(f, videos)} for name, f in (("thumbnail", thumbnail), ("flow", flow))]
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    settings = {k: getattr(args, k) for k in ("sets", "steps", "batch", "patch", "width", "depth", "lr", "finetune")}
    for network, seed in ((name, seed) for seed in args.seeds for name in args.networks):
        key = {"network": network, "seed": seed, **settings}
        lines = args.rows.read_text().splitlines() if args.rows.exists() else []
        row = next((row for row in map(json.loads, lines) if key.items() <= row.items()), None)
        if row is None:
            started = time.process_time()
            backbone, ranks = pretrain(videos, *NETWORKS[network], seed, args)
            with torch.inference_mode():
                features = torch.cat([backbone.eval()(part.to(args.device)).cls.cpu() for part in clips.split(64)])
            top1 = accuracies(features, videos)
            if args.finetune:
                top1 |= finetuned(backbone, videos, clips, seed, args)
            row = {**key, "top1": top1, "rank": ranks, "seconds": time.process_time() - started}
            with open(args.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
        print({name: row[name] for name in ("network", "seed", "rank")}, flush=True)
    for protocol in ("all", "official"):
        print(table(rows, videos, protocol))
    if args.output:
        about = {
            "command": " ".join(["python", *sys.argv]).replace(str(args.clips), "CLIPS"),
            "torch": torch.__version__,
        }
        about["device"] = f"{args.device}, {platform.machine()}"
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
