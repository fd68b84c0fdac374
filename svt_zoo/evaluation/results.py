"""Result files of an evaluation: JSON with the numbers and their provenance, and a table of predictions."""

import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.list_formats import parquet_or_csv, write_table
from ..device import device_name
from ..files import write_whole
from ..options import bounds

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepeatConfig:
    """Repetitions of an evaluation; the result is the mean.

    Attributes:
        num_seeds: number of seeds, counted from `run.seed`.
        splits: official splits; each number replaces {split} in `data.train`, `data.val` and other options of `data`.
        folds: number of parts of `data.train` for a group-wise cross-validation; each is evaluated once, and `data.val`
            is not used. null evaluates on `data.val`.
    """

    num_seeds: int = 1
    splits: tuple[int, ...] = ()
    folds: int | None = None

    def __post_init__(self) -> None:
        bounds(self, "num_seeds", low=1)
        bounds(self, "folds", low=2)
        if self.folds and self.splits:
            raise ValueError(f"folds={self.folds} and splits={list(self.splits)} exclude each other; set one of them")
        bounds(self, "splits", low=0)


@dataclass(frozen=True)
class ReportConfig:
    """Names in a result file, and its folder.

    Attributes:
        name: what was evaluated; by default the name of `init`.
        dataset: name of the data set; by default the name of the list `data.val`.
        split: part of the data set.
        folder: folder of the result files; by default `results` in `run.output`. MODEL_ZOO.md is made from the files in
            `results` of the checkout.
    """

    name: str = ""
    dataset: str = ""
    split: str = "test"
    folder: str = ""

    def within(self, output: str) -> "ReportConfig":
        """The same section with a folder: `results` in `output`, unless one is given."""
        return self if self.folder else replace(self, folder=f"{output}/results")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The numbers of one evaluation and everything that is needed to assess and reproduce them.

    Attributes:
        name: what was evaluated: a row of the zoo, a run.
        protocol: how it was evaluated, such as "knn 20" or "linear, 3x1 views".
        dataset, split: the evaluation videos; `list_sha256` is the hash of their list.
        metrics: by name, accuracies in percent.
        n: number of evaluated videos.
        n_missing: number of videos of the list that could not be read; they are not counted in `n`.
        command: the command line.
        recipe: the resolved recipe, with the `model` that was evaluated, or other settings.
        commit: of this project, with "+changes" if files differ from it; empty outside a checkout.
        device: name of the processor or GPU.
        versions: of the packages that affect the numbers.
    """

    name: str
    protocol: str
    dataset: str
    split: str
    list_sha256: str
    metrics: dict[str, float]
    n: int
    n_missing: int
    command: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def log_start(
    what: str,
    network: nn.Module,
    *,
    device: torch.device | str,
    precision: str | torch.dtype,
    output: str | os.PathLike[str],
    **facts: object,
) -> None:
    """Log the setup of a run, once, in the main process.

    `facts` are numbers by name, such as `evaluation_videos=9537, classes=101`; None and 0 are left out.
    """
    if not distributed.is_main():
        return
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    named = [_count(value, name.replace("_", " ")) for name, value in facts.items() if value]
    _log.info(
        "%s on %s, precision %s, %s: %s, network of %.1f M parameters; output: %s",
        what,
        device_name(device),
        str(precision).removeprefix("torch."),
        _count(distributed.world_size(), "processes"),
        ", ".join(named),
        millions,
        os.fspath(output),
    )


def _count(number: object, noun: str) -> str:
    """Number and noun: "2 classes", "1 class", "1 epoch"."""
    return f"{number} {noun if number != 1 else noun.removesuffix('es' if noun.endswith('sses') else 's')}"


def provenance(device: torch.device | str) -> dict[str, Any]:
    """The fields `command`, `commit`, `device` and `versions` for a `Result` made now on this machine."""
    versions = {"python": platform.python_version()}
    for package in ("svt-zoo", "torch", "torchvision", "av", "numpy", "safetensors"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""  # a checkout on the path, without installation
    command = " ".join(("python", *sys.argv))
    return {"command": command, "commit": _commit(), "device": device_name(device), "versions": versions}


def write_result(result: Result, folder: str | os.PathLike[str] = "results") -> Path:
    """Write `<name>-<protocol>-<dataset>-<split>.json` into `folder`; an older file is replaced atomically.

    Raises:
        ValueError: a metric is not a finite number.
    """
    words = (result.name, result.protocol, result.dataset, result.split)
    path = Path(folder) / ("-".join(re.sub(r"[^\w.]+", "_", word).strip("_") for word in words if word) + ".json")
    text = json.dumps(asdict(result), indent=2, allow_nan=False, default=str)
    write_whole(path, f"{text}\n".encode())
    return path


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read a file of `write_result`, or one of a probe, which has several results.

    Raises:
        ValueError: the file holds no results; the message has the file and the cause.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Result(**one) for one in content.get("results", [content])]
    except (ValueError, TypeError, AttributeError) as error:
        known = ", ".join(item.name for item in fields(Result))
        raise ValueError(f"{os.fspath(path)} is no result ({error}); its fields are {known}") from error


def write_predictions(
    path: Path, names: Sequence[str], labels: Tensor, scores: Tensor, *, classes: Sequence[str] = (), top: int = 5
) -> Path:
    """Write a table with one row per video: `file`, `label`, `class`, and `top1`, `top1_class`, `top1_score`, ...

    The format is Parquet if the path ends in `.parquet` and pyarrow is installed, otherwise CSV with suffix `.csv`.
    Labels are (N,), -1 where there is none; scores are (N, K): votes, logits or probabilities. Returns the path of the
    written file.
    """

    def names_of(numbers: list[int]) -> list[str]:
        return [classes[number] if classes and number >= 0 else "" for number in numbers]

    columns: dict[str, list[Any]] = {
        "file": list(names),
        "label": labels.tolist(),
        "class": names_of(labels.tolist()),
    }
    best = scores.topk(min(top, scores.shape[1]))
    for place in range(best.indices.shape[1]):
        numbers = best.indices[:, place].tolist()
        columns[f"top{place + 1}"] = numbers
        columns[f"top{place + 1}_class"] = names_of(numbers)
        columns[f"top{place + 1}_score"] = best.values[:, place].tolist()
    path = parquet_or_csv(path)
    write_table(path, columns, zip(*columns.values(), strict=True))
    return path


def _commit() -> str:
    """Commit of the checkout that contains this file, or an empty string."""
    package = Path(__file__).resolve().parents[1]
    git = ("git", "-C", str(package))
    try:
        # `ls-files` fails if the package is installed inside the checkout of another project.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
