"""Result files of an evaluation: JSON with the numbers and their provenance, and a table of predictions."""

import csv
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..device import device_name
from ..files import write_whole

_log = logging.getLogger(__name__)


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
        recipe: the resolved recipe, or other settings.
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


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read a file of `write_result`.

    Raises:
        ValueError: the file is not a result; the message has the file and the cause.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return Result(**content)
    except (ValueError, TypeError) as error:
        known = ", ".join(item.name for item in fields(Result))
        raise ValueError(f"{os.fspath(path)} is no result ({error}); its fields are {known}") from error


def write_predictions(
    path: str | os.PathLike[str],
    names: Sequence[str],
    labels: Tensor,
    scores: Tensor,
    *,
    classes: Sequence[str] = (),
    top: int = 5,
) -> Path:
    """Write a table with one row per video: `file`, `label`, `class`, and `top1`, `top1_class`, `top1_score`, ...

    The format is Parquet if the path ends in `.parquet` and pyarrow is installed, otherwise CSV with suffix `.csv`.

    Args:
        path: file to write.
        names: path of each video.
        labels: (N,), -1 where there is none.
        scores: (N, K): votes, logits or probabilities.
        classes: names of the classes; if empty, the columns of names stay empty.
        top: number of best classes per video.

    Returns:
        The path of the written file.
    """
    best = scores.topk(min(top, scores.shape[1]))

    def names_of(numbers: list[int]) -> list[str]:
        return [classes[number] if classes and number >= 0 else "" for number in numbers]

    columns: dict[str, list[Any]] = {
        "file": list(names),
        "label": labels.tolist(),
        "class": names_of(labels.tolist()),
    }
    for place in range(best.indices.shape[1]):
        numbers = best.indices[:, place].tolist()
        columns[f"top{place + 1}"] = numbers
        columns[f"top{place + 1}_class"] = names_of(numbers)
        columns[f"top{place + 1}_score"] = best.values[:, place].tolist()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            path = path.with_suffix(".csv")
            _log.warning(
                "pyarrow is not installed (pip install pyarrow): the predictions are written to %s instead", path
            )
        else:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            return path
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
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
