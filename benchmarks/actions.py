"""Evaluate SVT pre-training on a few hundred short clips without labels, with one command.

    python benchmarks/actions.py CLIPS --output runs/actions

CLIPS is a folder with a `list.csv` of the columns file, label, class, set, split, group. One network per seed and kind
of pre-training is trained on the training clips of all sets together, without their labels: "svt+" is the recipe, "svt"
the same without the contrastive term. Each set is then evaluated separately, beside floors and a supervised control:
nearest neighbors and a linear probe on the official split, nearest neighbors by group-wise cross-validation over all
clips, and fine-tuning. If the control of a set is at chance, nothing can be compared there: the program says so, leaves
the set out, and ends with status 1.
Every number comes from a recipe in `configs/actions/`. Finished work stays in the output folder, and the same command
resumes. Use another folder for other settings.

Larger, on a GPU: --set all:model.options.embed_dim=384 all:model.options.depth=12 pretrain:optim.epochs=400 ...
"""

import argparse
import csv
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svt_zoo.config import FinetuneRecipe, KNNRecipe, LinearRecipe, load_recipe, read_recipe
from svt_zoo.data.encode import Encoding
from svt_zoo.data.flow import farneback_flow
from svt_zoo.data.lists import read_list
from svt_zoo.data.prepare import prepare_videos
from svt_zoo.evaluation.metrics import wilson_interval
from svt_zoo.evaluation.results import provenance, read_results
from svt_zoo.evaluation.run import evaluate
from svt_zoo.evaluation.tokens import Thumbnail
from svt_zoo.models import Features, register_model
from svt_zoo.training.run import finetune, pretrain
from svt_zoo.training.signals import ASKED_TO_STOP

_log = logging.getLogger("actions")

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "actions"
# Name of a column: its recipe, and changes of it.
PROTOCOLS: dict[str, tuple[str, list[str]]] = {
    "kNN": ("knn", []),
    "kNN, folds": ("knn", ["repeat.folds=5"]),
    "linear": ("linear", []),
    "fine-tuned": ("finetune", []),
}
RECIPES = {"knn": KNNRecipe, "linear": LinearRecipe, "finetune": FinetuneRecipe}
FLOORS = {"thumbnail": ["model.name=thumbnail"], "flow": ["model.name=flow_histogram", "clip.num_frames=32"]}
PRETRAINED: dict[str, list[str]] = {"svt": ["svt.contrast=0"], "svt+": []}


class Stopped(Exception):
    """A signal asked a training run to stop, and it saved its state."""


class FlowHistogram(Thumbnail):
    """Optical flow in 4 quarters of the clip x 3 x 4 cells x 8 directions: motion, no appearance, no training."""

    embed_dim = cls_dim = 4 * 3 * 4 * 8

    def forward(self, clip: Tensor) -> Features:
        """The class feature holds the mean length of the flow."""
        gray = (clip.mean(dim=1) * 0.226 + 0.449) * 255  # (B, T, H, W), normalized by ImageNet's mean and std
        flow = torch.stack([farneback_flow(frames[:-1], frames[1:]) for frames in gray])  # (B, T-1, H, W, 2)
        eighth = (torch.atan2(flow[..., 1], flow[..., 0]) / (math.pi / 4)).round().long() % 8
        lengths = F.one_hot(eighth, 8) * flow.norm(dim=-1, keepdim=True)  # (B, T-1, H, W, 8)
        cells = F.adaptive_avg_pool3d(lengths.permute(0, 4, 1, 2, 3), (4, 3, 4)).flatten(1)
        return Features(cells, cells[:, None, None])


class Bench(NamedTuple):
    """Folders, lists, and changes to the recipes."""

    output: Path
    lists: dict[str, Path]
    changes: list[str]

    def recipe(self, kind: str, *overrides: str) -> Any:
        """A recipe of `configs/actions` with these overrides, followed by those of the command line."""
        changes = [change.partition(":")[2] for change in self.changes if change.partition(":")[0] in (kind, "all")]
        path, overrides = CONFIGS / f"{kind}.yaml", (*overrides, *changes)
        return read_recipe(RECIPES[kind], path, overrides) if kind in RECIPES else load_recipe(path, overrides)

    def pretrained(self, network: str, seed: int) -> Path:
        """The folder of a pre-training run on all sets without labels, after it."""
        run = self.output / f"{network}_seed{seed}"
        if not (run / "final.safetensors").exists():
            options = [f"data.train={self.lists['all train']}", f"run.output={run}", f"run.seed={seed}"]
            if not pretrain(self.recipe("pretrain", *options, *PRETRAINED[network])):
                raise Stopped
        return run

    def top1(self, network: str, protocol: str, name: str, seed: int) -> tuple[float, int]:
        """Top-1 in percent of a network on a set, and the number of clips, computed or read."""
        kind, changes = PROTOCOLS[protocol]
        folder = self.output / "evaluation" / name / f"{protocol.replace(', ', '_')}_{network}_seed{seed}"
        if not list((folder / "results").glob("*.json")):
            init = self.pretrained(network, seed) if network in PRETRAINED else "random"
            train = "all" if "repeat.folds=5" in changes else "train"
            places = [f"data.train={self.lists[f'{name} {train}']}", f"data.val={self.lists[f'{name} test']}"]
            options = [f"init={init}", f"run.seed={seed}", f"run.output={folder}", f"report.folder={folder}/results"]
            options += [f"report.dataset={name}", f"report.name={network}", *changes, *FLOORS.get(network, [])]
            recipe = self.recipe(kind, *places, *options)
            if (finetune(recipe) if kind == "finetune" else evaluate(recipe)) is None:
                raise Stopped
        (path,) = (folder / "results").glob("*.json")
        [result] = read_results(path)
        return result.metrics["top1"], result.n


def prepare(data: Path, output: Path, workers: int) -> tuple[dict[str, Path], dict[str, int]]:
    """Make small copies of the clips; return the list of each set and part, and the classes of each set."""
    table = data / "list.csv"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = dict.fromkeys(row["set"] for row in rows)
    encoding, lists = Encoding(mode="intra", short_side=72), {}
    for name in (*sets, "all"):
        for split in ("train", "test"):
            videos = read_list(str(table), where=f"split={split}" + (f",set={name}" if name in sets else ""))
            made = prepare_videos(videos, output / "clips", encoding, name=f"{name}_{split}", workers=workers)
            if made.failures:
                raise ValueError(f"{made.failures[0].path}: {made.failures[0].reason}")
            lists[f"{name} {split}"] = made.list
        train, test = (read_list(str(lists[f"{name} {split}"])) for split in ("train", "test"))
        lists[f"{name} all"] = output / "clips" / f"{name}_all.csv"
        replace(train, rows=(*train.rows, *test.rows)).save(lists[f"{name} all"])
    return lists, {name: len({row["class"] for row in rows if row["set"] == name}) for name in sets}


def cells(args: argparse.Namespace, classes: dict[str, int], bench: Bench) -> Iterator[dict[str, Any]]:
    """Every number, floors and controls first: network, protocol, set, seed, top-1 and number of clips."""

    def numbers(network: str, protocol: str, name: str) -> Iterator[dict[str, Any]]:
        seeds = [0] if network in FLOORS else args.finetune_seeds if protocol == "fine-tuned" else args.seeds
        for seed in seeds:
            top1, clips = bench.top1(network, protocol, name, seed)
            yield {"network": network, "protocol": protocol, "set": name, "seed": seed, "top1": top1, "clips": clips}

    passed = []
    for name in args.sets or classes:
        for network in (*FLOORS, "random"):
            for protocol in ("kNN", "kNN, folds", "linear"):
                yield from numbers(network, protocol, name)
        controls = list(numbers("random", "fine-tuned", name))
        yield from controls
        low, _ = interval([row["top1"] for row in controls], controls[0]["clips"])
        if low > 100 / classes[name]:
            passed.append(name)
        else:
            _log.error("%s: the supervised control is at chance, so nothing can be compared; left out", name)
    for name in passed:
        for protocol in PROTOCOLS:
            for network in PRETRAINED:
                if protocol in args.protocols:
                    yield from numbers(network, protocol, name)


def interval(top1: list[float], clips: int) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds, in percent, for that number of clips."""
    low, high = wilson_interval(fmean(top1) / 100 * clips, clips)
    return 100 * low, 100 * high


def tables(rows: list[dict[str, Any]], classes: dict[str, int]) -> str:
    """Markdown: one table per set, one row per network, one column per protocol."""
    text = []
    for name in dict.fromkeys(row["set"] for row in rows):
        text.append(f"\n**{name}**, chance {100 / classes[name]:.1f}\n\n| | {' | '.join(PROTOCOLS)} |")
        text.append("|---" * (1 + len(PROTOCOLS)) + "|")
        for network in (*FLOORS, "random", *PRETRAINED):
            line = []
            for protocol in PROTOCOLS:
                mine = [r for r in rows if (r["set"], r["network"], r["protocol"]) == (name, network, protocol)]
                if not mine:
                    line.append("")
                    continue
                top1 = [row["top1"] for row in mine]
                low, high = interval(top1, mine[0]["clips"])
                seeds = f"; {', '.join(f'{value:.1f}' for value in top1)}" if len(top1) > 1 else ""
                line.append(f"{fmean(top1):.1f} ({low:.0f} to {high:.0f}{seeds})")
            text.append(f"| {network} | {' | '.join(line)} |")
    return "\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with list.csv")
    parser.add_argument("--output", type=Path, default=Path("runs/actions"), help="folder of runs and results")
    parser.add_argument("--sets", nargs="+", help="sets of the list to evaluate; by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument(
        "--finetune-seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the fine-tuning runs"
    )
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), help="of the pre-trained networks")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare the clips")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KIND:KEY=VALUE", help="KIND: all, pretrain, knn, linear or finetune"
    )
    parser.add_argument("--save", type=Path, help="folder for a copy of the numbers as actions_<device>.json")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _log.setLevel(logging.INFO)
    register_model("thumbnail", Thumbnail)
    register_model("flow_histogram", FlowHistogram)
    args.output.mkdir(parents=True, exist_ok=True)
    lists, classes = prepare(args.data, args.output, args.workers)
    device, rows, started = "cuda" if torch.cuda.is_available() else "cpu", [], time.monotonic()
    try:
        for row in cells(args, classes, Bench(args.output, lists, args.set)):
            rows.append(row)
            _log.info("%.0f minutes: %s", (time.monotonic() - started) / 60, row)
            text = json.dumps({"rows": rows, "classes": classes, **provenance(device)}, indent=1) + "\n"
            for path in (args.output / "actions.json", *([args.save / f"actions_{device}.json"] if args.save else [])):
                path.write_text(text)
    except Stopped:
        return ASKED_TO_STOP
    (args.output / "actions.md").write_text(tables(rows, classes))
    print(tables(rows, classes))
    compared = {row["set"] for row in rows if row["network"] in PRETRAINED}
    return 0 if compared == set(args.sets or classes) else 1


if __name__ == "__main__":
    sys.exit(main())
