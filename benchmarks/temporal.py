"""Compare TIME's temporal terms in small runs: a baseline, each term, all terms, and all as in the authors' code.

    python benchmarks/temporal.py --gestures FOLDER --output benchmarks/results

Two data sets. "made": a square moves over a still picture; the classes are its frames forward, backward and shuffled,
so a single frame carries no information. "gestures": real clips, from a folder with a list.csv of the columns file,
label, set and split (left out without --gestures). A small TimeSformer is trained on each from random weights. Steps,
clips and learning rate are the same for all variants; only the terms differ. Then SVT is pre-trained on the synthetic
videos, with and without the terms that need no labels. Its features are compared by nearest neighbors. The table shows
mean and standard deviation over seeds; all numbers go into a JSON file.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svt_zoo.batch import Batch
from svt_zoo.config import ViewsConfig
from svt_zoo.data.augment import Augment
from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.flow import FlowLabels
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.loader import collate
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import EvalViews, train_views
from svt_zoo.evaluation.knn import knn_scores
from svt_zoo.methods import SVT, Classify, ClassifyConfig, Method, SVTConfig, SVTTemporal, Temporal, TemporalConfig
from svt_zoo.methods.temporal import draw_permutations, shuffle_steps
from svt_zoo.models import Backbone, create_model
from svt_zoo.schedules import warmup_cosine
from svt_zoo.training.optim import build_optimizer, clip_gradients, param_groups, set_hyperparameters

FRAMES, PATCH = 8, 16
MADE, REAL = 32, 48  # pixels of the clips of each data set
MEAN = STD = (0.5, 0.5, 0.5)
CODE = {"order_of": "straight", "permutation": "batch"}
ON = {"order": 1.0, "low_confidence": 1.0, "flow": 1.0, "order_smoothing": 0.0, "flow_smoothing": 0.0}
ALONE = {"order": 0.0, "low_confidence": 0.0, "flow": 0.0}
# name: (keywords of TemporalTerms, rule of the flow labels); None is the plain classifier
VARIANTS: dict[str, tuple[dict[str, Any], str] | None] = {
    "baseline": None,
    "order": ({**ALONE, "order": 1.0}, "absolute"),
    "low confidence": ({**ALONE, "low_confidence": 1.0}, "absolute"),
    "flow": ({**ALONE, "flow": 1.0}, "absolute"),
    "all three": ({}, "absolute"),
    "order, as the code": ({**ALONE, "order": 1.0, **CODE}, "relative"),
    "low confidence, as the code": ({**ALONE, "low_confidence": 1.0, **CODE}, "relative"),
    "flow, as the code": ({**ALONE, "flow": 1.0, **CODE}, "relative"),
    "all three, as the code": (CODE, "relative"),
}
PRETRAINING: dict[str, dict[str, float] | None] = {
    "SVT": None,
    "SVT + order + flow": {**ALONE, "order": 1.0, "flow": 1.0},
}


@dataclass
class Clips:
    """Training clips uint8 (N, V, T, H, W, 3), V random views per video, with flow labels; test clips, float."""

    train: Tensor
    flow: dict[str, Tensor]  # by rule: (N, V, T-1, patches)
    train_labels: Tensor
    test: Tensor  # (M, 3, T, H, W)
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.train_labels.max()) + 1


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


def texture(rng: np.random.Generator, size: int, grain: int) -> Tensor:
    """A smooth random picture (size, size, 3), values 0 to 255."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, grain, grain))).float()
    return F.interpolate(coarse, (size, size), mode="bicubic")[0].clamp(0, 255).permute(1, 2, 0)


def made_videos(num_sources: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Each source three times, forward (0), backward (1), shuffled (2): frames uint8 (24, H, W, 3), and labels."""
    videos, labels = [], []
    width = MADE + 4
    for source in range(num_sources):
        rng = np.random.default_rng([seed, source])
        background, side = texture(rng, width, 6) * 0.5, int(rng.integers(10, 14))
        start, end = rng.uniform(0, 6), rng.uniform(width - side - 6, width - side)
        y = int(rng.integers(0, width - side))
        frames = background.repeat(24, 1, 1, 1)
        for t, x in enumerate(np.linspace(start, end, 24).round().astype(int)):
            frames[t, y : y + side, x : x + side] = 230
        frames = frames.byte()
        videos += [frames, frames.flip(0), frames[torch.from_numpy(rng.permutation(24))]]
        labels += [0, 1, 2]
    return videos, torch.tensor(labels)


def gesture_videos(folder: Path, split: str) -> tuple[list[Tensor], Tensor]:
    """Decoded videos of one split of the gestures, short side 64, and their labels."""
    from svt_zoo.data.crops import crop_and_resize
    from svt_zoo.data.transforms import short_side_size
    from svt_zoo.video import open_video

    rows = read_list(folder / "list.csv", root=str(folder), where=f"split={split},set=gesture").rows
    videos = []
    for row in rows:
        with open_video(row.path) as video:
            frames = video.frames_at(range(video.num_frames))
        height, width = frames.shape[1:3]
        videos.append(crop_and_resize(frames, (0, 0, height, width), short_side_size(height, width, 64)))
    return videos, torch.tensor([row.label for row in rows])


def dataset_of(videos: list[Tensor], labels: Tensor, views: Any, *, train: bool) -> VideoDataset:
    rows = tuple(Row(str(i), label=int(label)) for i, label in enumerate(labels))
    return VideoDataset(VideoList(rows), views, train=train, open_row=lambda row: InMemory(videos[int(row.path)]))


def transform(size: int) -> EvalTransform:
    """Eight frames spread over a video, center crop of 8/9 of the short side."""
    return EvalTransform(
        num_frames=FRAMES, sampling_rate=None, crop_size=size, resize_size=size * 9 // 8, mean=MEAN, std=STD
    )


def clips_of(train: tuple[list[Tensor], Tensor], test: tuple[list[Tensor], Tensor], num_views: int, size: int) -> Clips:
    """Random views of the training videos with both kinds of flow labels, and one view per test video."""
    views = FinetuneViews(transform(size), FinetuneViewsConfig(short_side=(size, size * 5 // 4), hflip=0.0))
    dataset, rules = (
        dataset_of(*train, views, train=True),
        {r: FlowLabels(PATCH, rule=r) for r in ("absolute", "relative")},
    )
    drawn = torch.stack(
        [torch.stack([dataset[epoch, i]["video"] for epoch in range(num_views)]) for i in range(len(dataset))]
    )
    flow = {
        name: torch.stack([torch.stack([labels(view) for view in of]) for of in drawn])
        for name, labels in rules.items()
    }
    tested = dataset_of(*test, EvalViews(transform(size)), train=False)
    return Clips(drawn, flow, train[1], torch.stack([tested[i]["video"] for i in range(len(tested))]), test[1])


def new_backbone(name: str, size: int) -> Backbone:
    """A small network whose position tables start at the scale of its patches.

    Without pre-training, it learns ten times as fast as with the usual scale of 0.02 and, for time, 0.
    """
    network = create_model(
        name, img_size=size, patch_size=PATCH, num_frames=FRAMES, embed_dim=64, depth=2, num_heads=2, drop_path_rate=0.0
    )
    assert isinstance(network, Backbone)
    for key, parameter in network.named_parameters():
        if key.endswith(("pos_embed", "time_embed", "temp_embed")):
            torch.nn.init.normal_(parameter, std=0.5)
        elif key.endswith("temporal_fc.weight"):
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return network


def fit(method: Method, batch_at: Callable[[int], Batch], steps: int, *, lr: float) -> None:
    """Train with AdamW, a short warm-up and a cosine schedule."""
    method.train()
    optimizer = build_optimizer(param_groups(method))
    for step in range(steps):
        rate = warmup_cosine(lr, 1e-6, step=step, total_steps=steps, warmup_steps=steps // 20)
        set_hyperparameters(optimizer, lr=rate, weight_decay=0.05)
        torch.stack(list(method(batch_at(step), step / steps).values())).sum().backward()
        method.before_step(step / steps)
        clip_gradients(method.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / steps)


def classify(clips: Clips, variant: str, seed: int, steps: int, model: str) -> dict[str, float]:
    """Train one classifier; return top-1 on the test clips, and on the same clips with shuffled frames."""
    torch.manual_seed(seed)
    rng, settings = np.random.default_rng(seed), VARIANTS[variant]
    backbone = new_backbone(model, clips.test.shape[-1])
    if settings is None:
        method: Classify = Classify(backbone, clips.num_classes, ClassifyConfig(label_smoothing=0.1))
    else:
        temporal = TemporalConfig(**{**ON, "order_smoothing": 0.1, "flow_smoothing": 0.1, **settings[0]})
        method = Temporal(backbone, clips.num_classes, temporal, ClassifyConfig(label_smoothing=0.1))
    flow = clips.flow["absolute" if settings is None else settings[1]]

    def batch_at(step: int) -> Batch:
        index = torch.from_numpy(rng.choice(len(clips.train), 16, replace=False))
        view = torch.from_numpy(rng.integers(clips.train.shape[1], size=16))
        clip = clips.train[index, view].permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        return Batch(
            views=[clip], labels=clips.train_labels[index], video_index=index, targets={"flow": flow[index, view]}
        )

    started = time.perf_counter()
    fit(method, batch_at, steps, lr=1e-3)
    seconds = time.perf_counter() - started
    method.eval()
    with torch.inference_mode():
        shuffled = shuffle_steps(
            clips.test, draw_permutations(len(clips.test), FRAMES, torch.device("cpu"), per="video")
        )
        predicted = [method.classifier(part).argmax(dim=1) for part in (clips.test, shuffled)]
    top1 = [100 * (labels == clips.test_labels).float().mean().item() for labels in predicted]
    return {"top1": top1[0], "top1_shuffled": top1[1], "seconds": seconds}


def pretrain(terms: dict[str, float] | None, seed: int, steps: int, model: str, num_sources: int) -> dict[str, float]:
    """Pre-train SVT on synthetic videos; return top-1 of 10 nearest neighbors on held-out videos, before and after."""
    torch.manual_seed(seed)
    videos, labels = made_videos(num_sources, 0)
    views = train_views(
        ViewsConfig(global_frames=(8, 8), local_frames=(4, 8), global_size=MADE, local_size=16, hflip=0.0)
    )
    if terms and terms["flow"]:
        views.flow = FlowLabels(PATCH)
    dataset, augment = dataset_of(videos, labels, views, train=True), Augment(mean=MEAN, std=STD)
    rng = np.random.default_rng(seed)

    def batch_at(step: int) -> Batch:
        batch = collate([dataset[step, int(i)] for i in rng.choice(len(dataset), 16, replace=False)])
        batch.views[:] = [augment(view, params) for view, params in zip(batch.views, batch.params, strict=True)]
        return batch

    svt = SVT(
        new_backbone(model, MADE),
        SVTConfig(out_dim=256, hidden_dim=256, bottleneck_dim=64, freeze_last_layer=0.05),
        epochs=1,
    )
    method: Method = svt
    if terms is not None:
        method = SVTTemporal(svt, TemporalConfig(**{**ON, **terms}))
    clips = [
        torch.stack([tested[i]["video"] for i in range(len(tested))])
        for tested in (
            dataset_of(*of, EvalViews(transform(MADE)), train=False) for of in ((videos, labels), made_videos(50, 1))
        )
    ]
    result = {"knn_before": knn(svt.backbone, clips, labels)}
    started = time.perf_counter()
    fit(method, batch_at, steps, lr=5e-4)
    return {**result, "knn": knn(svt.backbone, clips, labels), "seconds": time.perf_counter() - started}


def knn(backbone: Backbone, clips: list[Tensor], labels: Tensor) -> float:
    """Top-1 in percent of `clips[1]` by their 10 nearest neighbors among `clips[0]`."""
    backbone.eval()
    with torch.inference_mode():
        bank, queries = (torch.cat([backbone(part).cls for part in of.split(32)]) for of in clips)
    scores = knn_scores(bank, labels, queries, num_classes=3, ks=[10])[10]
    expected = labels[:3].repeat(len(queries) // 3)
    return 100 * (scores.argmax(dim=1) == expected).float().mean().item()


def thumbnail_floor(train: tuple[list[Tensor], Tensor], test: tuple[list[Tensor], Tensor]) -> float:
    """Top-1 in percent by the nearest median frame of 12x16 pixels: the accuracy of appearance alone."""
    bank, queries = (
        torch.stack(
            [
                F.interpolate(v.float().median(0).values.permute(2, 0, 1)[None], (12, 16), mode="area").flatten()
                for v in of
            ]
        )
        for of, _ in (train, test)
    )
    return round(100 * (train[1][torch.cdist(queries, bank).argmin(dim=1)] == test[1]).float().mean().item(), 1)


def summed_up(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of each number over runs."""
    return {
        name: {
            "mean": round(statistics.mean(run[name] for run in runs), 2),
            "std": round(statistics.stdev(run[name] for run in runs), 2) if len(runs) > 1 else 0.0,
        }
        for name in runs[0]
    }


def table(results: dict[str, dict[str, Any]], columns: tuple[str, ...]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, numbers in results.items():
        cells = [f"{numbers[c]['mean']:.1f} ± {numbers[c]['std']:.1f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gestures", type=Path, help="folder of the gestures, with list.csv")
    parser.add_argument("--model", default="timesformer_vitt", help="a registered model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs=3, default=[250, 200, 60], help="of made, gestures and pre-training")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--parts", nargs="+", default=["made", "gestures", "pretraining"], help="experiments to run")
    parser.add_argument("--sources", type=int, default=60, help="sources of the synthetic training videos")
    parser.add_argument("--output", type=Path, help="folder for the result as JSON; results of other parts are kept")
    args = parser.parse_args()
    sets: dict[str, tuple[Clips, int]] = {}
    floors = {}
    if "made" in args.parts:
        sets["made"] = clips_of(made_videos(args.sources, 0), made_videos(50, 1), 2, MADE), args.steps[0]
    if "gestures" in args.parts and args.gestures:
        real = gesture_videos(args.gestures, "train"), gesture_videos(args.gestures, "test")
        sets["gestures"], floors["gestures"] = (clips_of(*real, 4, REAL), args.steps[1]), thumbnail_floor(*real)
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed in args.seeds:
        for name, (clips, steps) in sets.items():
            for variant in args.variants:
                numbers = classify(clips, variant, seed, steps, args.model)
                runs.setdefault(name, {}).setdefault(variant, []).append(numbers)
                print(name, variant, seed, numbers, flush=True)
        for variant in PRETRAINING if "pretraining" in args.parts else ():
            numbers = pretrain(PRETRAINING[variant], seed, args.steps[2], args.model, args.sources)
            runs.setdefault("pretraining", {}).setdefault(variant, []).append(numbers)
            print("pretraining", variant, seed, numbers, flush=True)
        if args.output:  # after each seed, so that a stopped run keeps its results
            save(args.output / "temporal_cpu.json", runs, floors, args)
    for name, of in runs.items():
        columns = tuple(next(iter(of.values()))[0])
        print(f"\n{name}\n{table({variant: summed_up(each) for variant, each in of.items()}, columns)}")
    return 0


def save(
    path: Path,
    runs: dict[str, dict[str, list[dict[str, float]]]],
    floors: dict[str, float],
    args: argparse.Namespace,
) -> None:
    """Write the results of these parts into the file, and keep those of other parts."""
    result = json.loads(path.read_text()) if path.exists() else {}
    for name, of in runs.items():
        result[name] = {
            "command": " ".join(["python", *sys.argv]).replace(str(args.gestures), "FOLDER"),
            "device": platform.machine(),
            "torch": torch.__version__,
            "steps": dict(zip(("made", "gestures", "pretraining"), args.steps, strict=True))[name],
            "chance": 10.0 if name == "gestures" else 33.3,
            **({"thumbnail": floors[name]} if name in floors else {}),
            "variants": {variant: {**summed_up(each), "runs": each} for variant, each in of.items()},
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
