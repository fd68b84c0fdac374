"""Writes MODEL_ZOO.md from the table of weights and from result files: `python tools/zoo_page.py`."""

import argparse
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from svt_zoo.evaluation.results import read_results
from svt_zoo.hub.sources import HubFile
from svt_zoo.hub.table import TABLE
from svt_zoo.hub.weights import Number, Weights
from svt_zoo.models import create_model, list_models
from svt_zoo.models.trajectory import TrajectoryAttention

_HEAD = """# Model zoo

Written by `tools/zoo_page.py` from `svt_zoo/hub/table.py` and `results/*.json`; a test keeps this page current.

- Published numbers are their authors', with the source; measured numbers are ours, with command and commit. "not run"
  means that we have not measured it. An empty field means that nobody stated it.
- GFLOPs are counted as in papers: a multiply-add is one operation, for one clip, with attention. Motionformer's
  trajectory attention is counted in the paper's form; the code here computes the same with fewer multiply-adds.
  Parameters are those of the backbone, without a classifier.
- A command follows the published number's protocol as far as that is known, with our video reader. None has been run
  on the full data. Add `run.output=FOLDER`, and `report.folder=results` for results on this page. If your videos are
  elsewhere, add `data.train=LIST data.val=LIST data.root=FOLDER`. FILE is the pre-trained file; fetch it by hand.
- Licenses are those of the weights. The data sets have terms of their own, which are not restated here.
- frames x rate: 8x32 are 8 frames spread evenly over 8 x 32 frames of a video of 30 frames per second; "segments"
  spreads them over the entire video. Views (crops x clips of each video) are as the source states them.
- A sha256 that is not known yet is recorded at the first download; every later one must equal it.
"""


def zoo_page(results: Iterable[Mapping[str, Any]]) -> str:
    """The text of MODEL_ZOO.md.

    Args:
        results: results of evaluations (`asdict` of `evaluation.results.Result`), in the order to show them.
    """
    results, rows = list(results), list(TABLE.values())
    measured = "Nothing yet: `results/` holds no result file."
    if results:
        columns = "network | data | protocol | result | videos | commit | device | command"
        measured = _table(columns, map(_result_line, results))
    parts = [
        _HEAD,
        "## Weights",
        _table(
            "name | what it is | architecture | trained on | frames x rate | pixels | GFLOPs | parameters",
            map(_weights_line, rows),
        ),
        "## Files and licenses",
        _table("name | file | Hub copy at commit | sha256 | license of the weights | paper", map(_file_line, rows)),
        "## Numbers",
        _table(
            "network | data | protocol | metric | published | source | measured here | GFLOPs x views | command",
            [line for row in rows for line in _number_lines(row, results)],
        ),
        _remarks(rows),
        "## Measured here",
        measured,
        "## Architectures",
        _table("name | clip | features | GFLOPs | parameters", map(_architecture_line, list_models())),
        "## Notes",
        "\n".join(f"- `{row.name}`: {row.notes}" for row in rows if row.notes),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def cost(model: str, kwargs: Mapping[str, Any], num_frames: int, img_size: int) -> tuple[float, float]:
    """Multiply-adds (in 1e9) of one clip through a registered network, and its parameters (in 1e6).

    The network runs on the `meta` device, so only shapes are computed. Attention is included.
    Trajectory attention is counted in the paper's form, which needs more operations than ours.
    """
    return _cost(model, json.dumps(kwargs, sort_keys=True), num_frames, img_size)


@functools.cache
def _cost(model: str, kwargs: str, num_frames: int, img_size: int) -> tuple[float, float]:
    with torch.device("meta"):
        network = create_model(model, **json.loads(kwargs)).eval()
        clip = torch.empty(1, 3, num_frames, img_size, img_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        patches = network(clip).patches
    total = counter.get_total_flops() / 2 + sum(
        published_cost(module, *patches.shape[1:3])
        for module in network.modules()
        if isinstance(module, TrajectoryAttention)
    )
    return total / 1e9, sum(p.numel() for p in network.parameters()) / 1e6


def published_cost(attention: TrajectoryAttention, num_frames: int, num_patches: int) -> int:
    """Multiply-adds of the paper's form of the time step in excess of `_attend_points`, for one clip (T, N)."""
    dim = attention.proj_q.in_features
    scores = num_frames * dim  # of one query, with one head's channels
    paper = num_frames * 2 * dim * dim + 2 * scores
    ours = dim * dim + attention.num_heads * scores
    ours += scores if attention.use_original_code else attention.num_heads * scores + dim * dim
    return num_frames * num_patches * (paper - ours)


def _row_cost(row: Weights) -> tuple[float, float]:
    return cost(row.model, row.model_kwargs, row.clip.num_frames, row.clip.crop_size)


def _table(columns: str, lines: Iterable[Sequence[str]]) -> str:
    rule = "|".join("---" for _ in columns.split("|"))
    cells = [" | ".join(map(_cell, line)) for line in lines]
    return "\n".join([f"| {columns} |", f"|{rule}|", *(f"| {line} |" for line in cells)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _weights_line(row: Weights) -> list[str]:
    gflops, parameters = _row_cost(row)
    kwargs = f" {json.dumps(dict(row.model_kwargs), sort_keys=True)}" if row.model_kwargs else ""
    pixels = f"{row.clip.crop_size}{'' if row.clip.channel_order == 'RGB' else ' ' + row.clip.channel_order}"
    clip = [row.clip.frames_and_rate, pixels]
    size = [f"{gflops:.1f}", f"{parameters:.1f} M"]
    return [f"`{row.name}`", row.title, f"`{row.model}`{kwargs}", row.pretrained_on, *clip, *size]


def _file_line(row: Weights) -> list[str]:
    copy = _hub(row.hub_copy) if row.hub_copy else ""
    file = _hub(row.source) if isinstance(row.source, HubFile) else str(row.source)
    sha256 = f"`{row.sha256}`" if row.sha256 else "not known yet"
    return [f"`{row.name}`", file, copy, sha256, row.license, row.paper]


def _hub(file: HubFile) -> str:
    return f"`{file.repo}/{file.filename}` at `{file.revision}`"


def _number_lines(row: Weights, results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One line per published protocol with all its metrics, then one per number that only we measured."""
    lines = []
    measured = {(number.dataset, number.protocol, number.metric): number for number in row.measured}
    for _, group in groupby(row.published, lambda one: (one.dataset, one.protocol, one.source, one.recipe)):
        numbers = list(group)
        ours = [measured.pop((number.dataset, number.protocol, number.metric), None) for number in numbers]
        shown = " / ".join(f"{one.value:g} ({one.source})" if one else "not run" for one in ours)
        lines.append(_number_line(row, numbers, shown if any(ours) else "not run"))
    own = measured.values()
    lines += [_number_line(row, [one], f"{one.value:g} ({one.source})", published=False) for one in own]
    if not lines and not any(result["name"] == row.name for result in results):
        lines.append([f"`{row.name}`", *[""] * 5, "not run", "", ""])
    return lines


def _number_line(row: Weights, numbers: Sequence[Number], measured: str, *, published: bool = True) -> list[str]:
    first = numbers[0]
    protocol = first.protocol.split(",")[0]
    network = f"`{row.name}`"
    if protocol in ("linear", "fine-tune") and not row.num_classes:  # a network trained from this row's
        trained = [other.name for other in TABLE.values() if other.num_classes and first in other.published]
        network += f", {protocol}: `{trained[0]}`" if trained else f", {protocol}: trained weights not published"
    views = re.search(r"(\d+)x(\d+)", first.protocol)
    gflops = f"{_row_cost(row)[0]:.1f} x {int(views[1]) * int(views[2])}" if views else ""
    metric, value = (" / ".join(words) for words in zip(*((n.metric, f"{n.value:g}") for n in numbers), strict=True))
    source, _, remark = first.source.partition("; ")
    values = [value, source + (" (see below)" if remark else "")] if published else ["", ""]
    command = command_of(first) if published else ""  # `measured` has its own
    return [network, first.dataset, first.protocol, metric, *values, measured, gflops, command]


def _remarks(rows: Iterable[Weights]) -> str:
    """What the sources of published numbers state after a semicolon, once per source."""
    sources = dict.fromkeys(number.source.partition("; ")[::2] for row in rows for number in row.published)
    return "\n".join(f"{source}: {remark}." for source, remark in sources if remark)


def command_of(number: Number) -> str:
    """The command that follows a number's protocol, as a link to its recipe."""
    if not number.recipe:
        return "no recipe of ours"
    recipe, _, overrides = number.recipe.partition(" ")
    name = recipe.removeprefix("configs/").removesuffix(".yaml")
    command = "finetune" if name.startswith("finetune/") else "evaluate"
    return f"[`svt-zoo {command} {name} {overrides}`]({recipe})"


def _result_line(result: Mapping[str, Any]) -> list[str]:
    shown = {name: value for name, value in result["metrics"].items() if not name.endswith(("_low", "_high"))}
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in shown.items() if not name.startswith("minus_"))
    missing = f" ({result['n_missing']} unreadable)" if result["n_missing"] else ""
    data = " ".join(filter(None, (result["dataset"], result["split"])))
    commit = result["commit"][:12] + ("+changes" if result["commit"].endswith("+changes") else "")
    command = f"`{result['command']}`" if result["command"] else ""
    count = f"{result['n']}{missing}"
    return [f"`{result['name']}`", data, result["protocol"], metrics, count, commit, result["device"], command]


def _architecture_line(name: str) -> list[str]:
    with torch.device("meta"):
        network: Any = create_model(name)
    gflops, parameters = cost(name, {}, network.num_frames, 224)
    clip = f"{network.num_frames} x 224 x 224"
    return [f"`{name}`", clip, str(network.embed_dim), f"{gflops:.1f}", f"{parameters:.1f} M"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("MODEL_ZOO.md"), help="file to write (%(default)s)")
    args = parser.parse_args(arguments)
    results = [asdict(one) for path in sorted(args.results.glob("*.json")) for one in read_results(path)]
    args.output.write_text(zoo_page(results), encoding="utf-8")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
