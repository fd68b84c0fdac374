"""Compare TIME's temporal terms in small runs from random weights, with learning curves and floors.

    python benchmarks/temporal.py made gestures --gestures FOLDER --output benchmarks/results/temporal_cpu.json

Three data sets. "made": a square moves over a still picture from left to right; the classes are its frames forward,
backward and shuffled. "wrapped": the same, but it starts anywhere and reenters at the edge, so that a single frame
carries no information. "gestures": real clips of ten pointing gestures, from a folder with a list.csv
of the columns file, label, set, split and group. All variants of a set have the same network, steps, clips and learning
rate; only the terms (or the initial tables, or the input) differ.

--protocol official: the split of the list. inside: group-wise folds inside its training part, to choose settings.
all: group-wise folds over all clips. Every finished run is a line of the file --rows; the same command continues.
If the baseline is not better than chance, nothing can be compared: the program states this and ends with status 1.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections import ChainMap, Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from svt_zoo.batch import Batch
from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig
from svt_zoo.data.crops import crop_and_resize
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.flow import FlowLabels, farneback_flow
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.transforms import EvalTransform, short_side_size
from svt_zoo.data.views import EvalViews
from svt_zoo.methods import Classify, ClassifyConfig, Method, Temporal, TemporalConfig
from svt_zoo.methods.temporal import draw_permutations, shuffle_steps
from svt_zoo.models import Backbone, create_model
from svt_zoo.schedules import warmup_cosine
from svt_zoo.training.optim import OptimConfig, build_optimizer, clip_gradients, set_hyperparameters
from svt_zoo.video import open_video

FRAMES = 8
MEAN = STD = (0.5, 0.5, 0.5)
STRAIGHT = {"order": 1.0, "order_of": "straight"}
LOW, FLOW = {"low_confidence": 1.0}, {"flow": 1.0}
CODE = {**STRAIGHT, **LOW, **FLOW, "permutation": "batch", "flow_rule": "relative"}
OTHER = ("input", "table_std", "head_std")  # options of the frames, the network, the flow head
VARIANTS: dict[str, dict[str, Any]] = {  # options of TemporalConfig, and OTHER
    "baseline": {},
    "baseline, still frame": {"input": "still"},
    "baseline, shuffled frames": {"input": "shuffled"},
    "baseline, tables as the papers": {"table_std": None},
    "baseline, tables of 0.1": {"table_std": 0.1},
    "low confidence": LOW,
    "straight order": STRAIGHT,
    "shuffled order": {"order": 1.0, "order_of": "shuffled"},
    "flow": FLOW,
    "flow, head of std 0.02": {**FLOW, "head_std": 0.02},
    "straight order + low confidence": {**STRAIGHT, **LOW},
    "low confidence + flow": {**LOW, **FLOW},
    "straight order + low confidence + flow": {**STRAIGHT, **LOW, **FLOW},
    "shuffled order + low confidence + flow": {**LOW, **FLOW, "order": 1.0, "order_of": "shuffled"},
    "all, as the code": CODE,
}


@dataclass(frozen=True)
class Settings:
    """What all variants of a set share."""

    set: str
    size: int
    patch: int
    steps: int
    width: int = 64
    depth: int = 2
    lr: float = 1e-3
    batch: int = 16
    views: int = 4
    jitter: float = 0.0
    table_std: float | None = 0.5
    dropout: float = 0.0
    model: str = "timesformer_vitt"


SETS = {
    "made": Settings("made", 32, 16, 400),
    "wrapped": Settings("wrapped", 32, 16, 800),
    "gestures": Settings("gestures", 48, 8, 2000, views=16, jitter=0.4),
}


@dataclass
class Clips:
    """V random views uint8 (N, V, T, H, W, 3) of each video with flow labels by rule, and a view to test (N, ...)."""

    views: Tensor
    flow: dict[str, Tensor]  # (N, V, T-1, patches)
    tested: Tensor  # (N, 3, T, H, W), float
    labels: Tensor
    is_train: Tensor
    groups: list[str]
    histograms: Tensor  # (N, D): of optical flow

    def folds(self, protocol: str, folds: int) -> list[tuple[Tensor, Tensor]]:
        """Indices to train on and to test on, for each fold."""
        everything = torch.arange(len(self.labels))
        if protocol == "official":
            return [(everything[self.is_train], everything[~self.is_train])]
        used = everything[self.is_train] if protocol == "inside" else everything
        names = sorted({self.groups[i] for i in used})
        fold_of = dict(zip(np.random.default_rng(0).permutation(names), np.arange(len(names)) % folds, strict=True))
        fold = torch.tensor([int(fold_of[self.groups[i]]) for i in used])
        return [(used[fold != k], used[fold == k]) for k in range(folds)]


class InMemory:
    """A decoded video with the interface of a reader."""

    fps = 30.0

    def __init__(self, frames: Tensor) -> None:
        self.frames, self.num_frames = frames, len(frames)
        self.pts = [i / self.fps for i in range(len(frames))]

    def frames_at(self, indices: list[int]) -> Tensor:
        """Frames by index."""
        return self.frames[indices]

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *exception: object) -> None: ...


def made_videos(size: int, *, wrapped: bool) -> tuple[list[Tensor], list[Row]]:
    """Each source three times: forward (0), backward (1), shuffled (2); 60 sources to train on, 50 to test on.

    A square moves to the right. `wrapped`: it starts anywhere and reenters at the left edge, so that one frame alone
    tells nothing; else it starts near the left edge and ends near the right one.
    """
    videos, rows = [], []
    width = size + 4
    for source in range(110):
        rng = np.random.default_rng([int(source >= 60), source % 60 if source < 60 else source - 60])
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 6))).float()
        picture = F.interpolate(coarse, (width, width), mode="bicubic")[0].clamp(0, 255).permute(1, 2, 0)
        side = int(rng.integers(10, 14))
        start, end = rng.uniform(0, 6), rng.uniform(width - side - 6, width - side)
        y = int(rng.integers(0, width - side))
        frames = (picture * 0.5).repeat(24, 1, 1, 1)
        if wrapped:
            start = rng.uniform(0, width)
            end = start + rng.uniform(0.6, 1.0) * width
        for t, x in enumerate(np.linspace(start, end, 24).round().astype(int)):
            frames[t, y : y + side, np.arange(x, x + side) % width] = 230
        frames = frames.byte()
        videos += [frames, frames.flip(0), frames[torch.from_numpy(rng.permutation(24))]]
        split = "train" if source < 60 else "test"
        rows += [Row(split, label=label, group=f"source{source}") for label in range(3)]
    return videos, rows


def gesture_videos(folder: Path) -> tuple[list[Tensor], list[Row]]:
    """Decoded videos of the gestures, short side 64; the path of each row is replaced by its split."""
    videos, rows = [], []
    for split in ("train", "test"):
        for row in read_list(folder / "list.csv", root=str(folder), where=f"split={split},set=gesture").rows:
            with open_video(row.path) as video:
                frames = video.frames_at(range(video.num_frames))
            height, width = frames.shape[1:3]
            videos.append(crop_and_resize(frames, (0, 0, height, width), short_side_size(height, width, 64)))
            rows.append(Row(split, label=row.label, group=row.group))
    return videos, rows


def flow_histogram(frames: Tensor) -> Tensor:
    """Motion of a video in 4 quarters x 3 x 4 cells x 8 directions, each the summed length per frame: (384,)."""
    gray = frames.float().mean(dim=-1)
    flow = farneback_flow(gray[:-1], gray[1:])  # (T-1, H, W, 2)
    eighth = (torch.atan2(flow[..., 1], flow[..., 0]) / (math.pi / 4)).round().long() % 8
    by_direction = F.one_hot(eighth, 8) * flow.norm(dim=-1, keepdim=True)  # (T-1, H, W, 8)
    return F.adaptive_avg_pool3d(by_direction.permute(3, 0, 1, 2), (4, 3, 4)).flatten()


def load_clips(settings: Settings, folder: Path | None) -> Clips:
    """Draw the random views of a set, with both kinds of flow labels."""
    if settings.set == "gestures" and folder is None:
        raise SystemExit("gestures need --gestures FOLDER")
    if settings.set == "gestures" and folder:
        videos, rows = gesture_videos(folder)
    else:
        videos, rows = made_videos(settings.size, wrapped=settings.set == "wrapped")
    size = settings.size
    transform = EvalTransform(
        num_frames=FRAMES, sampling_rate=None, crop_size=size, resize_size=size * 9 // 8, mean=MEAN, std=STD
    )
    listed = VideoList(tuple(replace(row, path=str(i)) for i, row in enumerate(rows)))
    views = FinetuneViews(transform, FinetuneViewsConfig(short_side=(size, size * 5 // 4), hflip=0.0))
    rules = {rule: FlowLabels(settings.patch, rule=rule) for rule in ("absolute", "relative")}
    drawn, tested = (
        VideoDataset(listed, made, train=train, open_row=lambda row: InMemory(videos[int(row.path)]))
        for made, train in ((views, True), (EvalViews(transform), False))
    )
    seen = torch.stack([torch.stack([drawn[v, i]["video"] for v in range(settings.views)]) for i in range(len(videos))])
    return Clips(
        seen,
        {name: torch.stack([torch.stack([rule(view) for view in of]) for of in seen]) for name, rule in rules.items()},
        torch.stack([tested[i]["video"] for i in range(len(videos))]),
        torch.tensor([row.label for row in rows]),
        torch.tensor([row.path == "train" for row in rows]),
        [str(row.group) for row in rows],
        torch.stack([flow_histogram(frames) for frames in videos]),
    )


def new_method(settings: Settings, variant: dict[str, Any], num_classes: int) -> Classify:
    """The method of a variant, on a small network from random weights."""
    options = {"img_size": settings.size, "patch_size": settings.patch, "num_frames": FRAMES}
    options |= {"embed_dim": settings.width, "depth": settings.depth, "num_heads": settings.width // 32}
    options |= {"table_std": variant.get("table_std", settings.table_std), "drop_path_rate": settings.dropout}
    backbone = create_model(settings.model, **options)
    assert isinstance(backbone, Backbone)
    terms = {name: value for name, value in variant.items() if name not in OTHER}
    smoothing = ClassifyConfig(label_smoothing=0.1)
    if not terms:
        return Classify(backbone, num_classes, smoothing)
    method = Temporal(
        backbone, num_classes, TemporalConfig(**terms, order_smoothing=0.1, flow_smoothing=0.1), smoothing
    )
    if "head_std" in variant:
        for module in method.terms.heads.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.trunc_normal_(module.weight, std=variant["head_std"])
    return method


def shown(clips: Tensor, kind: str | None) -> Tensor:
    """The clips (B, 3, T, H, W) as a floor sees them: one still frame, or shuffled frames."""
    if kind == "still":
        return clips[:, :, FRAMES // 2 : FRAMES // 2 + 1].expand_as(clips)
    if kind == "shuffled":
        return shuffle_steps(clips, draw_permutations(len(clips), FRAMES, torch.device("cpu"), per="video"))
    return clips


def classes_of(method: Classify, clips: Tensor, device: str) -> Tensor:
    """The most likely class of each clip."""
    method.eval()
    with torch.inference_mode():
        guess = torch.cat([method.classifier(part.to(device)).argmax(dim=1).cpu() for part in clips.split(64)])
    method.train()
    return guess


def percent(right: Tensor) -> float:
    return 100 * right.float().mean().item()


def train_step(
    method: Method,
    optimizer: Optimizer,
    batch: Batch,
    step: int,
    steps: int,
    *,
    lr: float,
    warmup: int,
    lr_end: float = 1e-6,
    weight_decay: float = 0.05,
    clip: float = 1.0,
) -> None:
    """One step of `steps` with a cosine schedule of the learning rate and gradients of length `clip` at most."""
    rate = warmup_cosine(lr, lr_end, step=step, total_steps=steps, warmup_steps=warmup)
    set_hyperparameters(optimizer, lr=rate, weight_decay=weight_decay)
    torch.stack(list(method(batch, step / steps).values())).sum().backward()
    method.before_step(step / steps)
    clip_gradients(method.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    method.after_step(step / steps)


def run(
    clips: Clips, settings: Settings, name: str, seed: int, fold: tuple[Tensor, Tensor], every: int, device: str
) -> dict[str, Any]:
    """Train one classifier: its curve of top-1 on the test clips, and top-1 at the end, also on shuffled frames."""
    torch.manual_seed(seed)
    rng, variant, (train, test) = np.random.default_rng(seed), VARIANTS[name], fold
    method = new_method(settings, variant, int(clips.labels.max()) + 1).to(device)
    flow = clips.flow[variant.get("flow_rule", "absolute")]
    tested, labels = shown(clips.tested[test], variant.get("input")), clips.labels[test]
    optimizer = build_optimizer(method, OptimConfig())
    curve, started = [], time.perf_counter()
    method.train()
    for step in range(settings.steps):
        index = train[torch.from_numpy(rng.choice(len(train), settings.batch, replace=False))]
        view = torch.from_numpy(rng.integers(settings.views, size=settings.batch))
        clip = clips.views[index, view].permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        if settings.jitter:  # contrast and brightness of each clip
            gain, bias = torch.from_numpy(rng.uniform(-settings.jitter, settings.jitter, (2, settings.batch))).float()
            clip = clip * (1 + gain.view(-1, 1, 1, 1, 1)) + bias.view(-1, 1, 1, 1, 1)
        clip = shown(clip, variant.get("input")).to(device)
        targets = {"flow": flow[index, view].to(device)}
        batch = Batch(views=[clip], labels=clips.labels[index].to(device), video_index=index, targets=targets)
        train_step(method, optimizer, batch, step, settings.steps, lr=settings.lr, warmup=settings.steps // 20)
        if (step + 1) % every == 0:
            curve.append((step + 1, round(percent(classes_of(method, tested, device) == labels), 1)))
    reached = [step for step, value in curve if value >= 90]
    right = classes_of(method, tested, device) == labels
    return {
        "top1": round(percent(right), 2),
        "top1_shuffled": round(percent(classes_of(method, shown(tested, "shuffled"), device) == labels), 2),
        "steps_to_90": reached[0] if reached else None,
        "tested": len(test),
        "right": dict(zip(map(str, test.tolist()), right.int().tolist(), strict=True)),
        "seconds": round(time.perf_counter() - started, 1),
        "curve": curve,
    }


def ridge(train: Tensor, labels: Tensor, test: Tensor, strength: float = 100.0) -> Tensor:
    """Classes that a ridge regression on standardized features gives the test rows."""
    mean, std = train.mean(dim=0), train.std(dim=0).clamp(min=1e-6)
    x, y = ((part - mean) / std for part in (train, test))
    targets = F.one_hot(labels).float()
    gram = x @ x.T + strength * torch.eye(len(x))
    return (y @ x.T @ torch.linalg.solve(gram, targets - targets.mean(dim=0)) + targets.mean(dim=0)).argmax(dim=1)


def floors(clips: Clips, settings: Settings, folds: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """What needs no training: top-1 of chance, of a thumbnail, of a random network, and of histograms of flow."""
    thumbnail = F.adaptive_avg_pool2d(clips.tested.median(dim=2).values, 12).flatten(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        network = new_method(settings, {}, 2).eval().backbone
        random = torch.cat([network(part).cls for part in clips.tested.split(64)])
    product = F.one_hot(clips.flow["absolute"][:, 0].long(), 9).float().flatten(1)  # the labels that `flow` predicts
    features = {"thumbnail": thumbnail, "random network": random, "flow labels": product, "flow": clips.histograms}
    found = {"chance": round(100 / (int(clips.labels.max()) + 1), 1)}
    for name, rows in features.items():
        right = [ridge(rows[train], clips.labels[train], rows[test]) == clips.labels[test] for train, test in folds]
        found[f"{name} + ridge"] = round(percent(torch.cat(right)), 1)
    return found


def interval(top1: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a percentage of `number` clips."""
    p, z2 = top1 / 100, 1.96**2
    middle, half = p + z2 / (2 * number), 1.96 * math.sqrt(p * (1 - p) / number + z2 / (4 * number**2))
    return tuple(100 * (middle + sign * half) / (1 + z2 / number) for sign in (-1, 1))  # type: ignore[return-value]


def paired(one: list[Mapping[str, int]], other: list[Mapping[str, int]]) -> dict[str, float]:
    """McNemar's exact test between two rows of a table, each a dictionary "clip: right or not" per seed.

    A clip counts once: it is better (or worse) if more (or fewer) seeds of `one` than of `other` classify it rightly.
    `p` is two-sided.
    """
    totals = [Counter[str](), Counter[str]()]
    for total, seeds in zip(totals, (one, other), strict=True):
        for right in seeds:
            total.update(right)
    better = sum(totals[0][clip] > totals[1][clip] for clip in totals[0])
    worse = sum(totals[0][clip] < totals[1][clip] for clip in totals[0])
    tail = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1)) / 2 ** (better + worse)
    return {"better": better, "worse": worse, "p": float(f"{min(1.0, 2 * tail):.2g}")}


def by_seed(rows: list[dict[str, Any]], name: str) -> list[Mapping[str, int]]:
    """ "clip: right or not" of a variant, over all folds, for each seed."""
    mine = [row for row in rows if row["variant"] == name]
    return [
        ChainMap(*(row["right"] for row in mine if row["seed"] == seed)) for seed in sorted({r["seed"] for r in mine})
    ]


def summed_up(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each variant: top-1 of each seed over all folds, their mean and interval, steps to 90 %, and `paired`."""
    table = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        seeds = {}
        for seed in sorted({row["seed"] for row in mine}):
            parts = [row for row in mine if row["seed"] == seed]
            tested = sum(row["tested"] for row in parts)
            seeds[seed] = [sum(row[k] * row["tested"] for row in parts) / tested for k in ("top1", "top1_shuffled")]
        mean = statistics.mean(value for value, _ in seeds.values())
        low, high = interval(mean, tested)
        table[name] = {
            "top1": round(mean, 1),
            "seeds": [round(value, 1) for value, _ in seeds.values()],
            "interval": [round(low, 1), round(high, 1)],
            "shuffled": round(statistics.mean(value for _, value in seeds.values()), 1),
            "steps_to_90": [row["steps_to_90"] for row in mine],
        }
        others = [row for row in rows if row["variant"] == "baseline"] if name != "baseline" else []
        if others and all("right" in row for row in (*mine, *others)):  # rows of older versions have none
            table[name] |= paired(by_seed(rows, name), by_seed(rows, "baseline"))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=list(SETS), help="data sets")
    parser.add_argument("--gestures", type=Path, help="folder of the gestures, with list.csv")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--protocol", default="official", choices=("official", "inside", "all"))
    parser.add_argument("--folds", type=int, default=4, help="of the protocols inside and all")
    parser.add_argument("--every", type=int, default=20, help="steps between points of the curves")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=Path, default=Path("runs/temporal.jsonl"), help="finished runs, one a line")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the settings, as JSON")
    parser.add_argument("--output", type=Path, help="JSON file for the tables; other sets and protocols are kept")
    args = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (change.partition("=") for change in args.set)}
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    for settings in (replace(SETS[name], **changes) for name in args.sets):
        clips = load_clips(settings, args.gestures)
        folds = clips.folds(args.protocol, args.folds)
        found, rows = floors(clips, settings, folds), []
        print(settings, found, flush=True)
        for name in args.variants:
            for seed, (fold, indices) in ((s, f) for s in args.seeds for f in enumerate(folds)):
                key = {**asdict(settings), "protocol": args.protocol, "fold": fold, "folds": len(folds)}
                key |= {"variant": name, "seed": seed}
                rows.append(
                    finished(args.rows, key) or run(clips, settings, name, seed, indices, args.every, args.device)
                )
                rows[-1] = {**key, **rows[-1]}
                if not finished(args.rows, key):
                    with open(args.rows, "a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
            table = summed_up(rows)
            print(name, table[name], flush=True)
            if name == "baseline" and table[name]["interval"][0] <= found["chance"] and args.protocol != "inside":
                print(f"{settings.set}: the baseline is not better than chance, so nothing can be compared")
                return 1
        if args.output:
            save(args.output, settings, args, found, rows)
    return 0


def finished(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The stored run with this key."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((row for row in map(json.loads, lines) if key.items() <= row.items()), None)


def save(path: Path, settings: Settings, args: argparse.Namespace, found: dict[str, float], rows: list[Any]) -> None:
    """Write the tables of a set and protocol into the file, and keep the others."""
    result = json.loads(path.read_text()) if path.exists() else {}
    result[f"{settings.set}, {args.protocol}"] = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.gestures), "FOLDER"),
        "device": f"{args.device}, {platform.machine()}",
        "torch": torch.__version__,
        "settings": asdict(settings),
        "floors": found,
        "variants": summed_up(rows),
        "curves": {f"{row['variant']}, seed {row['seed']}, fold {row['fold']}": row["curve"] for row in rows},
    }
    path.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.exit(main())
