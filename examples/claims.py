"""Check the claims of SVT's paper on generated videos: small networks from random weights, minutes on one core.

    python examples/claims.py --claim correspondences --output runs/claims.json

Each video shows a textured disc that moves over a picture. Its class is one of 4 textures times one of 5 motions.
Speed, size, occlusion and the change of the background between frames are factors that `--set` changes. `--textures`
takes four real videos from a folder: a disc then shows a random part of a frame. SVT is trained
without labels on 400 videos; 200 others get the class of their nearest neighbors. All arms of a claim have the same
network, videos and steps, and the contrastive term (ours); only the named option differs. An arm is compared with the
paper's choice by McNemar's exact test, clip by clip. If the paper's choice is not better than random weights, nothing
can be compared, and the table states this.

Every finished run is a line of the file --rows; the same command continues.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svt_zoo.data.augment import Augment
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.loader import collate
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import EvalViews, ViewsConfig, train_views
from svt_zoo.evaluation.knn import knn_scores, standardized
from svt_zoo.methods import SVT, SVTConfig
from svt_zoo.models import Backbone, create_model
from svt_zoo.training.optim import OptimConfig, build_optimizer
from svt_zoo.video import VideoReadError, open_video

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from temporal import InMemory, interval, paired, train_step

SIZE, LENGTH, FRAMES = 24, 32, 8  # pixels and frames of a video, frames of a clip
MEAN = STD = (0.5, 0.5, 0.5)
TEXTURES, MOTIONS = 4, 5  # plain, rows, columns, checks; right, down, the two diagonals, in a circle


@dataclass(frozen=True)
class Factors:
    """What varies between videos.

    Attributes:
        speed: a video crosses the frame between 1 - speed and 1 + speed times.
        scale: the radius is a fifth of the frame, times between 1 - scale and 1 + scale.
        occlusion: probability that a bar of a third of the frame covers the disc's way.
        flicker: part of the background that changes with each frame; the rest stays, and tells videos apart.
        tint: part of the disc's color that is its own in each video.
        textures: name of the folder of real videos that the textures are from; empty: drawn.
    """

    speed: float = 0.3
    scale: float = 0.2
    occlusion: float = 0.2
    flicker: float = 1.0
    tint: float = 0.0
    textures: str = ""


@dataclass(frozen=True)
class Settings:
    """What the arms of a claim share, and what some of them change."""

    steps: int = 600
    batch: int = 32
    lr: float = 5e-4
    width: int = 64
    depth: int = 2
    table_std: float | None = None
    contrast: float = 1.0
    correspondences: tuple[str, ...] = ("local_to_global", "global_to_global")
    spatial: bool = True
    temporal: bool = True
    sampling: str = "paper"
    consistent: bool = True


# Claim: the question, and the changes of each arm that is compared with the paper's choice.
CLAIMS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "correspondences": (
        "Table 4: both correspondences are better than one",
        {
            "cross-view only": {"correspondences": ("local_to_global",)},
            "motion only": {"correspondences": ("global_to_global",)},
        },
    ),
    "variation": (
        "Table 5: variation in space and time is better than in one",
        {"space only": {"temporal": False}, "time only": {"spatial": False}},
    ),
    "sampling": ("Table 6: random spans are better than CVRL's interval", {"cvrl": {"sampling": "cvrl"}}),
    "consistency": ("Table 7: one augmentation per view is better than one per frame", {"each": {"consistent": False}}),
    "slow_fast": ("Table 8: slow and fast clips are better than slow ones", {"slow clip only": {}}),
    "batch": (
        "Section 4: the batch can be small, at the same number of videos",
        {"batch 8": {"batch": 8}, "batch 16": {"batch": 16}},
    ),
}


def texture(kind: int, right: Tensor, down: Tensor) -> Tensor:
    """Brightness in [0, 1] of a texture at positions in frame widths."""
    rows, columns = ((value * 8).floor() % 2 for value in (down, right))
    return (torch.full_like(rows, 0.9), rows, columns, (rows + columns) % 2)[kind]


def real_textures(folder: Path) -> Tensor:
    """The middle frames of four videos spread over the folder, 32 pixels, in [0, 1]: (4, 3, 32, 32)."""
    rows = read_list(str(folder)).rows
    if len(rows) < TEXTURES:
        raise SystemExit(f"--textures {folder}: needs {TEXTURES} videos, has {len(rows)}")
    pictures = []
    for number in range(TEXTURES):
        with open_video(rows[number * len(rows) // TEXTURES].path) as video:
            picture = video.frames_at([video.num_frames // 2]).permute(0, 3, 1, 2).float() / 255
        pictures.append(F.interpolate(picture, (32, 32), mode="bilinear", antialias=True))
    return torch.cat(pictures)


def part_of(picture: Tensor, right: Tensor, down: Tensor, rng: np.random.Generator) -> Tensor:
    """Colors (T, H, W, 3) of a picture (3, h, w), SIZE pixels a frame width, around a random place of it."""
    corner = torch.from_numpy(rng.uniform(-0.6, 0.6, 2)).float()
    grid = torch.stack([right, down], dim=-1) * (2 * SIZE / picture.shape[-1]) + corner
    pictures = picture.expand(len(grid), *picture.shape)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False).permute(0, 2, 3, 1)


def places(motion: int, speed: float, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Centers of the disc (LENGTH, 2), right and down in [0, 1); it reenters at the opposite edge."""
    times = np.arange(LENGTH)[:, None] / LENGTH * speed * rng.choice([-1, 1])
    if motion < 4:
        path = times * np.array([(1, 0), (0, 1), (1, 1), (1, -1)][motion])
    else:
        angle = 2 * np.pi * times
        path = 0.3 * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return (rng.random(2) + path) % 1.0


def smooth(rng: np.random.Generator, number: int, spread: float) -> Tensor:
    """Smooth random colors around 0: (number, SIZE, SIZE, 3)."""
    cells = torch.from_numpy(rng.uniform(-spread, spread, (number, 3, 4, 4))).float()
    return F.interpolate(cells, (SIZE, SIZE), mode="bicubic").permute(0, 2, 3, 1)


def make_video(
    kind: int, motion: int, factors: Factors, rng: np.random.Generator, pictures: Tensor | None = None
) -> Tensor:
    """Frames uint8 (LENGTH, SIZE, SIZE, 3) of a disc with texture `kind`, drawn or one of `pictures`."""
    centers = torch.from_numpy(places(motion, 1 + factors.speed * rng.uniform(-1, 1), rng)).float()
    grid = (torch.arange(SIZE) + 0.5) / SIZE
    right = (grid - centers[:, :1] + 0.5) % 1.0 - 0.5  # (T, W): from the disc, across the edge if shorter
    down = (grid - centers[:, 1:] + 0.5) % 1.0 - 0.5
    right, down = (value.expand(LENGTH, SIZE, SIZE) for value in (right[:, None, :], down[:, :, None]))
    radius = 0.2 * (1 + factors.scale * rng.uniform(-1, 1))
    inside = torch.sigmoid((radius - (right**2 + down**2).sqrt()) / 0.02)[..., None]  # (T, H, W, 1)
    moving, still = smooth(rng, LENGTH, 0.15), smooth(rng, 1, 0.15)
    background = 0.3 + factors.flicker * moving + (1 - factors.flicker) * still
    color = 0.6 + 0.4 * factors.tint * torch.from_numpy(rng.uniform(-1, 1, 3)).float()
    if pictures is None:
        disc = color * (0.25 + 0.9 * texture(kind, right + 0.5, down + 0.5))[..., None]
    else:
        disc = color / 0.6 * part_of(pictures[kind], right, down, rng)
    frames = background * (1 - inside) + disc * inside
    if rng.random() < factors.occlusion:
        start = int(rng.integers(0, SIZE - SIZE // 3))
        frames[:, :, start : start + SIZE // 3] = 0.3 + smooth(rng, 1, 0.15)[:, :, : SIZE // 3]
    return (frames.clamp(0, 1) * 255).round().byte()


class Videos:
    """Videos in memory, as many of each of the 20 classes."""

    def __init__(self, per_class: int, seed: int, factors: Factors, pictures: Tensor | None = None) -> None:
        self.labels = torch.arange(TEXTURES * MOTIONS).repeat(per_class)
        self.frames = [
            make_video(label // MOTIONS, label % MOTIONS, factors, np.random.default_rng([seed, i]), pictures)
            for i, label in enumerate(self.labels.tolist())
        ]

    def dataset(self, views: Any, *, train: bool) -> VideoDataset:
        """Views of the videos."""
        listed = VideoList(tuple(Row(str(i), label=label) for i, label in enumerate(self.labels.tolist())))
        return VideoDataset(listed, views, train=train, open_row=lambda row: InMemory(self.frames[int(row.path)]))


def pretrain(videos: Videos, settings: Settings, views: ViewsConfig, config: SVTConfig, seed: int) -> Backbone:
    """A network after SVT on the videos; a random one after 0 steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    options = {"embed_dim": settings.width, "depth": settings.depth, "num_heads": settings.width // 32}
    options |= {"img_size": SIZE, "patch_size": 8, "num_frames": FRAMES, "drop_path_rate": 0.0}
    network = create_model("svt_vitt", table_std=settings.table_std, **options)
    assert isinstance(network, Backbone)
    dataset, augment = videos.dataset(train_views(views), train=True), Augment(mean=MEAN, std=STD)
    svt = SVT(network, config, epochs=1)
    svt.train()
    optimizer = build_optimizer(svt, OptimConfig())
    for step in range(settings.steps):
        chosen = rng.choice(len(dataset), settings.batch, replace=False)
        batch = collate([dataset[step, int(i)] for i in chosen])
        batch.views[:] = [augment(view, drawn) for view, drawn in zip(batch.views, batch.params, strict=True)]
        options = {"lr": settings.lr, "lr_end": 1e-5, "weight_decay": 0.04, "clip": 3.0}
        train_step(svt, optimizer, batch, step, settings.steps, warmup=settings.steps // 20, **options)
    return svt.backbone.eval()


def features(network: Backbone, videos: Videos, num_frames: int = FRAMES) -> Tensor:
    """Class features (N, D) of one clip that covers each video."""
    transform = EvalTransform(
        num_frames=num_frames, sampling_rate=None, crop_size=SIZE, resize_size=SIZE, mean=MEAN, std=STD
    )
    dataset = videos.dataset(EvalViews(transform), train=False)
    clips = torch.stack([dataset[i]["video"] for i in range(len(videos.labels))])
    with torch.inference_mode():
        return torch.cat([network(part).cls for part in clips.split(64)])


def classes_of(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The class that the 10 nearest videos give each query."""
    known, asked = standardized(bank, queries)
    return knn_scores(known, labels, asked, num_classes=TEXTURES * MOTIONS, ks=(10,))[10].argmax(dim=1)


def run(train: Videos, test: Videos, settings: Settings, seed: int) -> dict[str, Any]:
    """Train one network: which test videos are right, by a slow clip and by slow and fast clips together."""
    views = ViewsConfig(
        sampling=settings.sampling,  # type: ignore[arg-type]
        global_frames=(FRAMES, 6),
        local_frames=(4, 4, 8, 8) if "local_to_global" in settings.correspondences else (),
        global_size=SIZE,
        local_size=16,
        local_span=0.4,  # an eighth of 32 frames holds no motion
        hflip=0.0,
        spatial_variation=settings.spatial,
        temporal_variation=settings.temporal,
        consistent=settings.consistent,
        mean=MEAN,
        std=STD,
    )
    config = SVTConfig(
        out_dim=64,
        hidden_dim=128,
        bottleneck_dim=32,
        use_bn_in_head=True,
        teacher_temp=0.02,
        warmup_teacher_temp=0.02,
        momentum=0.97,
        freeze_last_layer=0.05,
        correspondences=settings.correspondences,  # type: ignore[arg-type]
        contrast=settings.contrast,
    )
    started = time.process_time()
    network = pretrain(train, settings, views, config, seed)
    slow = [features(network, videos) for videos in (train, test)]
    both = [(one + features(network, videos, 16)) / 2 for one, videos in zip(slow, (train, test), strict=True)]
    guesses = {name: classes_of(bank, train.labels, asked) for name, (bank, asked) in (("slow", slow), ("both", both))}
    row: dict[str, Any] = {"cpu_seconds": round(time.process_time() - started)}
    for name, guess in guesses.items():
        right = {"class": guess == test.labels, "texture": guess // MOTIONS == test.labels // MOTIONS}
        right["motion"] = guess % MOTIONS == test.labels % MOTIONS
        row[f"top1_{name}"] = {key: round(100 * value.float().mean().item(), 1) for key, value in right.items()}
        row[f"right_{name}"] = {str(i): int(value) for i, value in enumerate(right["class"])}
    return row


def verdict(claim: str, test: dict[str, float]) -> str:
    """Whether a comparison of the paper's choice with another arm agrees with the claim, at the 5 % level."""
    certain, ahead = test["p"] < 0.05, test["better"] > test["worse"]
    if claim == "batch":  # the paper's batch must not be needed
        return "opposite" if certain and ahead else "seen"
    return ("seen" if ahead else "opposite") if certain else "not seen"


def table(claim: str, rows: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """Markdown of a claim, and its numbers: one line for each arm, the paper's choice and random weights first."""
    text = [
        f"**{CLAIMS[claim][0]}**",
        "",
        "| | class | texture | motion | seeds | better, worse, p | |",
        "|---" * 7 + "|",
    ]
    found: dict[str, Any] = {}
    for name, seeds in rows.items():
        kind = "both" if claim == "slow_fast" and name == "paper" else "slow"
        means = {key: round(fmean(row[f"top1_{kind}"][key] for row in seeds), 1) for key in seeds[0][f"top1_{kind}"]}
        low, high = interval(means["class"], len(seeds[0][f"right_{kind}"]))
        found[name] = {**means, "interval": [round(low), round(high)]}
        found[name]["seeds"] = [row[f"top1_{kind}"]["class"] for row in seeds]
        cells = [f"{means['class']} ({low:.0f} to {high:.0f})", str(means["texture"]), str(means["motion"])]
        cells.append(", ".join(map(str, found[name]["seeds"])))
        if name != "paper":
            paper = "right_both" if claim == "slow_fast" else "right_slow"
            test = paired([row[paper] for row in rows["paper"]], [row[f"right_{kind}"] for row in seeds])
            found[name] |= {**test, "verdict": "" if name == "random weights" else verdict(claim, test)}
            cells += [f"{test['better']}, {test['worse']}, {test['p']}", found[name]["verdict"]]
        text.append(f"| {name} | {' | '.join(cells)} |" + ("  |  |" if name == "paper" else ""))
    floor = found["random weights"]
    if floor["p"] >= 0.05 or floor["better"] < floor["worse"]:
        text.append("\nThe paper's choice is not better than random weights here, so nothing can be compared.")
    return "\n".join(text) + "\n", found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", nargs="+", default=list(CLAIMS), choices=list(CLAIMS), help="by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=Path("runs/claims.jsonl"), help="finished runs, one a line")
    parser.add_argument("--textures", type=Path, help="folder of videos; by default textures are drawn")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of factors and settings")
    parser.add_argument("--output", type=Path, help="JSON file for the tables; other claims are kept")
    args = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (change.partition("=") for change in args.set)}
    known = {*asdict(Factors()), *asdict(Settings())}
    if unknown := changes.keys() - known:
        parser.error(f"--set {', '.join(unknown)}: must be one of {', '.join(sorted(known))}")
    factors = replace(Factors(), **{key: value for key, value in changes.items() if key in asdict(Factors())})
    pictures = None
    if args.textures:
        try:
            pictures = real_textures(args.textures)
        except (OSError, ValueError, VideoReadError) as error:
            parser.error(f"--textures: {error}")
        factors = replace(factors, textures=args.textures.name)
    common = replace(Settings(), **{key: value for key, value in changes.items() if key in asdict(Settings())})
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    result = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    data = {
        seed: tuple(Videos(number, 2 * seed + k, factors, pictures) for k, number in enumerate((20, 10)))
        for seed in args.seeds
    }
    for claim in args.claim:
        arms = {"random weights": {"steps": 0}, "paper": {}, **CLAIMS[claim][1]}
        rows: dict[str, list[dict[str, Any]]] = {}
        for name, arm in arms.items():
            settings = replace(common, **arm)
            settings = replace(settings, steps=settings.steps * common.batch // settings.batch)
            for seed in args.seeds:
                key = json.loads(json.dumps({**asdict(settings), **asdict(factors), "seed": seed}))
                lines = args.rows.read_text().splitlines() if args.rows.exists() else []
                row = next((row for row in map(json.loads, lines) if key.items() <= row.items()), None)
                if row is None:
                    row = {**key, **run(*data[seed], settings, seed)}
                    with open(args.rows, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(name, seed, row["top1_slow"], f"{row['cpu_seconds']} s", flush=True)
                rows.setdefault(name, []).append(row)
        text, found = table(claim, {"paper": rows.pop("paper"), **rows})
        print(text, flush=True)
        result[claim] = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "arms": found}
        result[claim] |= {"settings": asdict(common), "factors": asdict(factors)}
        if args.output:
            args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
