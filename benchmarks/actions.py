"""Evaluate SVT pre-training on a few hundred short clips without labels, with one command.

    python benchmarks/actions.py CLIPS --output runs/actions

CLIPS is a folder with a `list.csv` of the columns file, label, class, set, split, group. One network per seed is
pre-trained on the training clips of all sets together, without their labels. Each set is then evaluated separately, by
nearest neighbors, a linear probe and fine-tuning. SVT is compared with a random network, with training from scratch and
with 12 x 12 pictures (the floor). A second batch size gives a curve of accuracy per epoch.
Every number comes from a recipe in `configs/actions/`. Finished work stays in the output folder, and the same command
resumes. Use another folder for other settings.

Larger, on a GPU: --set all:model.options.embed_dim=384 all:model.options.depth=12 pretrain:optim.epochs=400 ...
"""

import argparse
import csv
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svt_zoo.config import FinetuneRecipe, KNNRecipe, LinearRecipe, load_recipe, read_recipe
from svt_zoo.data.encode import Encoding
from svt_zoo.data.lists import read_list
from svt_zoo.data.prepare import prepare_videos
from svt_zoo.evaluation.results import Result, provenance, read_result
from svt_zoo.evaluation.run import evaluate
from svt_zoo.models import Backbone, Features, register_model
from svt_zoo.training.monitor import read_metrics
from svt_zoo.training.run import finetune, pretrain
from svt_zoo.training.signals import ASKED_TO_STOP

_log = logging.getLogger("actions")

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "actions"
KINDS = {"knn": KNNRecipe, "linear": LinearRecipe, "finetune": FinetuneRecipe}
EVALUATE: dict[str, Callable[[Any], list[Result] | None]] = {
    "knn": evaluate,
    "linear": evaluate,
    "finetune": finetune,
}
ROWS = {  # name: (recipe, initial weights)
    "thumbnail, kNN": ("knn", "thumbnail"),
    "random network, kNN": ("knn", "random"),
    "SVT, kNN": ("knn", "svt"),
    "random network, linear probe": ("linear", "random"),
    "SVT, linear probe": ("linear", "svt"),
    "supervised from scratch": ("finetune", "random"),
    "SVT, fine-tuned": ("finetune", "svt"),
}
COMPARED = {  # the baselines of each row of SVT
    "SVT, kNN": ("thumbnail, kNN", "random network, kNN"),
    "SVT, linear probe": ("random network, linear probe",),
    "SVT, fine-tuned": ("supervised from scratch",),
}


class Stopped(Exception):
    """A signal asked a training run to stop, and it saved its state."""


class Thumbnail(Backbone):
    """12 x 12 pixels of the median frame: colors and layout of the scene, no motion."""

    embed_dim, num_frames, patch_size = 3 * 12 * 12, 8, 5

    def __init__(self, **options: Any) -> None:
        super().__init__()  # the recipe's options are for the other networks

    def forward(self, clip: Tensor) -> Features:
        """The class feature is the full picture."""
        small = F.adaptive_avg_pool2d(clip.median(dim=2).values, 12)  # (B, 3, 12, 12)
        return Features(small.flatten(1), small.flatten(2).mT.unsqueeze(1))


class Bench(NamedTuple):
    """Folders, lists, and changes to the recipes."""

    output: Path
    lists: dict[str, Path]
    changes: list[str]
    curve: str

    def recipe(self, kind: str, *overrides: str) -> Any:
        """A recipe of `configs/actions` with these overrides, followed by those of the command line."""
        changes = [change.partition(":")[2] for change in self.changes if change.partition(":")[0] in (kind, "all")]
        path, overrides = CONFIGS / f"{kind}.yaml", (*overrides, *changes)
        return read_recipe(KINDS[kind], path, overrides) if kind in KINDS else load_recipe(path, overrides)

    def run_of(self, seed: int, batch_size: int) -> Path:
        """The folder of a pre-training run."""
        return self.output / f"svt_batch{batch_size}_seed{seed}"

    def train(self, seed: int, batch_size: int) -> None:
        """Pre-train on all sets without labels; the set `curve` gives the accuracy per epoch."""
        run = self.run_of(seed, batch_size)
        if (run / "final.safetensors").exists():
            return
        places = [f"data.train={self.lists['all_train']}", f"data.val={self.lists[f'{self.curve}_test']}"]
        options = [f"run.output={run}", f"run.seed={seed}", f"data.batch_size={batch_size}", "run.knn_every_epochs=3"]
        if not pretrain(self.recipe("pretrain", *places, *options)):
            raise Stopped

    def evaluate(self, row: str, name: str, seed: int, batch_size: int) -> Result:
        """Compute the result of a row for a set and a seed, or read it if it exists."""
        kind, start = ROWS[row]
        folder = self.output / "evaluation" / name / f"{kind}_{start}_seed{seed}"
        if not list((folder / "results").glob("*.json")):
            init = str(self.run_of(seed, batch_size)) if start == "svt" else "random"
            places = [
                f"data.{part}={self.lists[f'{name}_{split}']}" for part, split in (("train",) * 2, ("val", "test"))
            ]
            options = [f"init={init}", f"run.seed={seed}", f"run.output={folder}", f"report.folder={folder}/results"]
            options += [f"report.dataset={name}", f"report.name={start}"]
            options += ["model.name=thumbnail"] if start == "thumbnail" else []
            recipe = self.recipe(kind, *places, *options)
            if EVALUATE[kind](recipe) is None:
                raise Stopped
        (path,) = (folder / "results").glob("*.json")
        return read_result(path)


def prepare(data: Path, output: Path, workers: int) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Make small copies of the clips; return the list of each set and split, and the size of each set."""
    table = data / "list.csv"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = {name: [row for row in rows if row["set"] == name] for name in dict.fromkeys(row["set"] for row in rows)}
    encoding = Encoding(mode="intra", short_side=72)
    lists = {}
    for name in (*sets, "all"):
        for split in ("train", "test"):
            where = f"split={split}" + (f",set={name}" if name in sets else "")
            made = prepare_videos(
                read_list(str(table), where=where), output / "clips", encoding, name=f"{name}_{split}", workers=workers
            )
            if made.failures:
                raise ValueError(f"{made.failures[0].path}: {made.failures[0].reason}")
            lists[f"{name}_{split}"] = made.list
    sizes = {
        name: {
            "classes": len({row["class"] for row in rows}),
            "train": sum(row["split"] == "train" for row in rows),
            "test": sum(row["split"] == "test" for row in rows),
        }
        for name, rows in sets.items()
    }
    return lists, sizes


def jobs(
    bench: Bench, sets: list[str], seeds: list[int], batch_sizes: list[int]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All jobs as (description, function), the baselines of SVT first."""
    first, *others = batch_sizes

    def rows(seed: int, trained: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
        for (row, (_, start)), name in product(ROWS.items(), sets):
            if (start == "svt") == trained and (seed == seeds[0] or start != "thumbnail"):  # thumbnails have no seed
                yield f"{name}, {row}, seed {seed}", partial(bench.evaluate, row, name, seed, first)

    for seed in seeds:
        yield from rows(seed, trained=False)
    for seed in seeds:
        yield f"pre-training, batch {first}, seed {seed}", partial(bench.train, seed, first)
        yield from rows(seed, trained=True)
    for size, seed in product(others, seeds):
        yield f"pre-training, batch {size}, seed {seed}", partial(bench.train, seed, size)


def summary(bench: Bench, sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All numbers of the finished jobs."""
    tables: dict[str, Any] = {}
    for name in sets:
        for row, (kind, start) in ROWS.items():
            paths = bench.output.glob(f"evaluation/{name}/{kind}_{start}_seed*/results/*.json")
            top1 = [round(read_result(path).metrics["top1"], 1) for path in sorted(paths)]
            if top1:
                tables.setdefault(name, {})[row] = {"mean": round(fmean(top1), 1), "top1": top1}
    curves: dict[str, dict[str, list[float]]] = {}
    for path in sorted(bench.output.glob("svt_batch*_seed*/metrics.jsonl"), key=lambda path: (len(str(path)), path)):
        points = curves.setdefault(path.parent.name.split("_")[1].removeprefix("batch"), {})
        for line in read_metrics(path):
            if "knn_top1" in line:
                points.setdefault(str(round(line["epoch"])), []).append(round(line["knn_top1"], 1))
    return {"sets": sets, "top1": tables, "curve": {"set": bench.curve, "knn_top1": curves}}


def markdown(results: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    text = []
    for name, rows in results["top1"].items():
        about = results["sets"][name]
        text.append(
            f"**{name}**: {about['classes']} classes, chance {100 / about['classes']:.1f} %, {about['train']} training "
            f"and {about['test']} test clips; one clip is {100 / about['test']:.1f} points.\n"
        )
        text.append("| top-1 (%) | mean | lowest to highest | seeds |\n|---|---|---|---|")
        for row, cell in rows.items():
            low, high = min(cell["top1"]), max(cell["top1"])
            text.append(f"| {row} | {cell['mean']:.1f} | {low:.1f} to {high:.1f} | {len(cell['top1'])} |")
        text.append("\n" + " ".join(verdicts(rows)) + "\n")
    sizes = results["curve"]["knn_top1"]
    epochs = sorted({int(epoch) for points in sizes.values() for epoch in points})
    if epochs:
        text.append(f"**kNN per epoch**, {results['curve']['set']}, mean over seeds:\n")
        text.append(f"| batch | {' | '.join(map(str, epochs))} |\n|---|{'---|' * len(epochs)}")
        for size, points in sizes.items():
            cells = [f"{fmean(points[str(epoch)]):.1f}" if str(epoch) in points else "" for epoch in epochs]
            text.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def verdicts(rows: dict[str, Any]) -> Iterator[str]:
    """State for each baseline whether SVT is better in every seed, in some, or in none."""
    for row, others in COMPARED.items():
        for other in (name for name in others if row in rows and name in rows):
            ours, theirs = rows[row]["top1"], rows[other]["top1"]
            pairs = list(zip(ours, theirs * len(ours) if len(theirs) == 1 else theirs, strict=False))
            better, gain = sum(a > b for a, b in pairs), fmean(a - b for a, b in pairs)
            word = "better" if better == len(pairs) else "not better" if gain <= 0 else "not in every seed better"
            yield f"{row}: {word} than {other} ({gain:+.1f}, {better} of {len(pairs)})."


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy per epoch, mean and range over seeds, one line per batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.add_subplot(xlabel="epoch", ylabel=f"kNN top-1 (%), {results['curve']['set']}")
    for size, points in results["curve"]["knn_top1"].items():
        epochs = [int(epoch) for epoch in points]
        axis.plot(epochs, [fmean(values) for values in points.values()], marker=".", label=f"batch {size}")
        axis.fill_between(epochs, [min(v) for v in points.values()], [max(v) for v in points.values()], alpha=0.2)
    axis.legend()
    figure.savefig(path, dpi=100)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with list.csv")
    parser.add_argument("--output", type=Path, default=Path("runs/actions"), help="folder of runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64], help="the table uses the first")
    parser.add_argument("--curve", default="tennis", help="the set that gives the accuracy per epoch")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare the clips")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KIND:KEY=VALUE", help="KIND: all, pretrain, knn, linear or finetune"
    )
    parser.add_argument("--save", type=Path, help="folder for a copy of the numbers as actions_<device>.json")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _log.setLevel(logging.INFO)
    register_model("thumbnail", Thumbnail)
    args.output.mkdir(parents=True, exist_ok=True)
    lists, sets = prepare(args.data, args.output, args.workers)
    bench = Bench(args.output, lists, args.set, args.curve)
    todo = list(jobs(bench, list(sets), args.seeds, args.batch_sizes))
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for number, (description, job) in enumerate(todo, 1):
        minutes = (time.monotonic() - started) / 60
        _log.info("%d of %d, %.0f minutes so far: %s", number, len(todo), minutes, description)
        try:
            job()
        except Stopped:
            return ASKED_TO_STOP
        results = {**summary(bench, sets), **provenance(device)}
        for path in (args.output / "actions.json", *([args.save / f"actions_{device}.json"] if args.save else [])):
            path.write_text(json.dumps(results, indent=1) + "\n")
        (args.output / "actions.md").write_text(markdown(results))
    draw(results, args.output / "curve.png")
    print((args.output / "actions.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
