"""Runs probes with controls on sets of videos, and writes their table, picture and results."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import distributed
from ..config import ProbeRecipe
from ..data.list_formats import write_table
from ..data.lists import DataConfig, VideoList, check_overlap, list_columns
from ..data.pool import Journal
from ..device import choose_device, choose_dtype
from ..files import is_url, write_whole
from ..options import to_dict
from .features import fill_shards
from .metrics import group_interval, wilson_interval
from .probe import ProbeData, Prober
from .results import Result, log_start, provenance
from .run import load_network, model_section, name_of
from .shards import ClipReader, ShardFolder
from .tokens import ClipAndShuffled, TokenCompute, Tokens

_log = logging.getLogger(__name__)
_TEST_FRACTION = 0.25  # of the groups of a list without a column `split`
_NOTE = """Top-1 in percent with 95 % intervals, by a bootstrap over groups. ▼: the control is below the input, ▲: above
it, where the interval of the paired difference excludes 0."""


class ProbeSet(NamedTuple):
    """Training and test videos of one set."""

    name: str
    train: VideoList
    test: VideoList


class Outcome(NamedTuple):
    """The fraction of correct answers for each test video (M,), and what was chosen."""

    correct: Tensor
    notes: dict[str, Any]


def read_set(text: str, data: DataConfig) -> ProbeSet:
    """Read one entry of `ProbeRecipe.lists`.

    Raises:
        ListError: a list cannot be read.
        ValueError: a video has no label, both parts share files or groups, or the test has fewer than two groups.
    """
    path, at, where = text.rpartition("@")
    if not at or "=" not in where:
        path, where = text, ""
    first, comma, second = path.partition(",")
    if comma and not os.path.exists(path):
        train = data.read(first, where, data.labels)
        test = data.read(second, where, train.classes or None)
    elif (is_url(path) or os.path.exists(path)) and "split" in list_columns(path, format=data.format):
        train, test = (data.read(path, f"{where},split={part}", data.labels) for part in ("train", "test"))
    else:
        train, test = data.read(path, where, data.labels).hold_out(_TEST_FRACTION)
    name = "_".join(pair.partition("=")[2] for pair in where.split(",") if pair) or Path(first).stem
    if name == "train":  # as in videos/train,videos/test
        name = Path(first).resolve().parent.name or name
    if unlabeled := [row.path for row in (*train.rows, *test.rows) if row.label is None]:
        raise ValueError(f"{text}: {len(unlabeled)} videos have no label, the first is {unlabeled[0]}")
    if shared := check_overlap(train, test, allow=True):
        raise ValueError(f"{text}: training and test videos share {len(shared)} files or groups, such as {shared[0]}")
    if len(set(test.columns.groups())) < 2:
        raise ValueError(f"{text}: the intervals need test videos of two or more groups, got one")
    return ProbeSet(name, train, test)


def probe(recipe: ProbeRecipe) -> list[Result]:
    """Probe a network on all sets; the same call continues after a kill, and reuses features and finished probes.

    Under torchrun, the processes divide the videos; the main process trains the probes and alone returns results.

    Raises:
        ConfigError: the recipe cannot be run.
        WeightsError: the weights cannot be loaded.
        ValueError: the lists do not fit, or no video can be read.
    """
    sets = [read_set(text, recipe.data) for text in recipe.lists]
    names = [one.name for one in sets]
    if not sets or len(set(names)) < len(names):
        raise ValueError(f"a probe needs one or more sets with different names, got {names}")
    device = distributed.init(choose_device(recipe.run.device))
    try:
        untrained = f"random:{recipe.init.removeprefix('random:')}"
        other = replace(recipe, init=untrained, run=replace(recipe.run, seed=recipe.run.seed + 1))
        dtype = choose_dtype(recipe.run.dtype, device)
        network = load_network(recipe)
        compute = TokenCompute(network, load_network(other), recipe.probe, device, dtype)
        with distributed.lock_folder(Path(recipe.run.output)):
            pass  # no training runs there
        log_start("probe", network, device=device, precision=dtype, output=recipe.run.output, sets=len(sets))
        results = [result for one in sets for result in _probe_set(one, recipe, compute)]
    finally:
        distributed.shutdown()
    if results:
        _write(results, recipe, name_of(recipe.init, recipe.model.name))
    return results


def _probe_set(one: ProbeSet, recipe: ProbeRecipe, compute: TokenCompute) -> list[Result]:
    """Extract the features of a set, then, in the main process, train and test all probes."""
    output, videos = Path(recipe.run.output) / one.name, replace(one.train, rows=(*one.train.rows, *one.test.rows))
    start, seed, transform = _processor_time(), recipe.run.seed, compute.network.transforms()
    settings = {"list_sha256": videos.sha256, **compute.settings, "seed": str(seed)}
    shards = ShardFolder(output / "features", videos, settings, 64)
    reader = ClipReader(videos, ClipAndShuffled(transform), batch_size=recipe.data.batch_size, seed=seed)
    fill_shards(shards, reader, compute, num_workers=recipe.data.num_workers)
    tokens = Tokens(shards, compute.parts(transform))
    if not distributed.is_main():
        return []
    if tokens.missing:
        write_table(output / "missing.csv", ("path", "reason"), tokens.missing)
        _log.warning("%s: %d of %d videos cannot be read", one.name, len(tokens.missing), len(videos))
    middle, index = _processor_time(), torch.tensor(tokens.video_index)
    kept, is_train = videos.columns.take(index.numpy()), index < len(one.train)
    names, labels = torch.from_numpy(kept.labels).unique(return_inverse=True)
    train, test = is_train.nonzero()[:, 0], (~is_train).nonzero()[:, 0]
    data = ProbeData(tokens, train, test, labels, list(kept.groups()), len(names))
    prober = Prober(data, recipe.probe, seed=seed, device=compute.device)
    model = model_section(compute.network)
    results = list(_results(one, recipe, model, prober, _outcomes(prober, output, compute.settings)))
    kilobytes = 2e-3 * max(part.end for part in tokens.parts.values())
    text = "%s: processor time %.1f s for features (%.1f kB per video) and %.1f s for %d probes with controls"
    _log.info(text, one.name, middle - start, kilobytes, _processor_time() - middle, len(results))
    return results


def _processor_time() -> float:
    """Seconds of this process and of its workers that have ended."""
    return sum(os.times()[:4])


def _outcomes(prober: Prober, folder: Path, settings: dict[str, str]) -> dict[tuple[str, int], dict[str, Outcome]]:
    """By probe and layer: the outcome of each condition. Finished ones are read from a journal in `folder`."""
    options, data = prober.options, prober.data
    facts = [settings, asdict(options), prober.seed, data.labels.tolist(), data.groups, data.tokens.video_index]
    version = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    journal = Journal(folder / "probes.jsonl")
    lines = [entry for entry in journal.read(dict) if entry.get("version") == version]
    done = {(entry["probe"], *entry["key"]): entry["outcomes"] for entry in lines}
    found: dict[tuple[str, int], dict[str, Outcome]] = {}
    for kind, (condition, layer) in product(options.probes, options.keys()):
        if condition == "reversed":
            continue  # with "input"
        if (kind, condition, layer) not in done:
            tested = [condition]
            if condition == "input" and "reversed" in options.controls:
                tested.append("reversed")
            outcomes = [
                (name, {shown: correct.tolist() for shown, correct in scored.correct.items()}, scored.notes)
                for name, scored in prober.run(kind, (condition, layer), {name: (name, layer) for name in tested})
            ]
            journal.append({"version": version, "probe": kind, "key": (condition, layer), "outcomes": outcomes})
            done[kind, condition, layer] = outcomes
        for (name, correct, notes), place in product(
            done[kind, condition, layer], (options.layers or (0,)) if condition == "thumbnail" else (layer,)
        ):
            cells = found.setdefault((name, place), {})
            cells |= {shown: Outcome(torch.tensor(values), notes) for shown, values in correct.items()}
    return found


def _results(
    one: ProbeSet,
    recipe: ProbeRecipe,
    model: dict[str, Any],
    prober: Prober,
    outcomes: dict[tuple[str, int], dict[str, Outcome]],
) -> Iterator[Result]:
    """One result per probe and layer, with the controls and the differences to them among its metrics."""
    data, resamples = prober.data, recipe.probe.resamples
    groups = [data.groups[row] for row in data.test.tolist()]
    facts = {"train_sha256": one.train.sha256, "train_n": len(data.train), "groups": len(set(groups))}
    facts |= {**to_dict(recipe), "model": model, "classes": data.num_classes}
    origin = provenance(prober.device)

    def named(name: str, values: Tensor, *, is_accuracy: bool) -> dict[str, float]:
        low, high = group_interval(values, groups, resamples=resamples)
        if is_accuracy:  # at least Wilson's, which is right where (almost) all answers are equal
            wilson = wilson_interval(values.sum().item(), len(values))
            low, high = min(low, wilson[0]), max(high, wilson[1])
        return {name: 100 * values.mean().item(), f"{name}_low": 100 * low, f"{name}_high": 100 * high}

    for (name, layer), cells in outcomes.items():
        given = cells["input"].correct
        metrics = named("top1", given, is_accuracy=True)
        for control in recipe.probe.controls:
            metrics |= named(control, cells[control].correct, is_accuracy=True)
            metrics |= named(f"minus_{control}", given - cells[control].correct, is_accuracy=False)
        yield Result(
            name=recipe.report.name or name_of(recipe.init, recipe.model.name),
            protocol=f"probe, {name}" + (f", layer {layer}" if layer else ""),
            dataset=one.name,
            split=recipe.report.split,
            list_sha256=one.test.sha256,
            metrics=metrics,
            n=len(data.test),
            n_missing=len(one.test) - len(data.test),
            recipe={**facts, "chosen": {shown: cell.notes for shown, cell in cells.items()}},
            **origin,
        )


def _write(results: Sequence[Result], recipe: ProbeRecipe, name: str) -> None:
    """Write probe.md, probe.png, and one file of results that `tools/zoo_page.py` reads."""
    output = Path(recipe.run.output)
    write_whole(output / "probe.md", probe_table(results).encode())
    write_whole(output / "probe.png", plot_probes(results))
    text = json.dumps({"results": [asdict(result) for result in results]}, indent=1, allow_nan=False, default=str)
    file = f"{recipe.report.name or name}-probe.json".replace("/", "_")
    write_whole(Path(recipe.report.folder) / file, text.encode())


def probe_table(results: Sequence[Result]) -> str:
    """Markdown: a table per set, with a row per probe and layer and a column per condition."""
    text = []
    for mine in _by_set(results):
        facts, columns = mine[0].recipe, _columns(mine[0])
        parts = f"{facts['train_n']} training and {mine[0].n} test videos in {facts['groups']} groups"
        text += [f"**{mine[0].dataset}**: {parts}, chance {100 / facts['classes']:.1f}\n"]
        text += [f"| | {' | '.join(['input', *columns[1:]])} |", "|---" * (1 + len(columns)) + "|"]
        for result in mine:
            cells = " | ".join(_cell(result.metrics, column) for column in columns)
            text.append(f"| {result.protocol.removeprefix('probe, ')} | {cells} |")
        text.append("")
    return "\n".join([*text, _NOTE, ""])


def plot_probes(results: Sequence[Result]) -> bytes:
    """Draw accuracies with their intervals as PNG: a panel per set, a group per probe, a color per condition."""
    from matplotlib.figure import Figure  # slow to import

    sets = list(_by_set(results))
    figure = Figure(figsize=(3 + 1.2 * max(map(len, sets)), 0.6 + 2.6 * len(sets)), layout="constrained")
    for axes, mine in zip(figure.subplots(len(sets), squeeze=False)[:, 0], sets, strict=True):
        columns = _columns(mine[0])
        for number, column in enumerate(columns):
            places = [i + 0.8 * ((number + 0.5) / len(columns) - 0.5) for i in range(len(mine))]
            values, low, high = ([one.metrics[column + end] for one in mine] for end in ("", "_low", "_high"))
            below = [value - end for value, end in zip(values, low, strict=True)]
            above = [end - value for value, end in zip(values, high, strict=True)]
            style = {"fmt": "s", "label": "input"} if column == "top1" else {"fmt": "o", "label": column}
            axes.errorbar(places, values, [below, above], ms=5, capsize=2, **style)
        axes.axhline(100 / mine[0].recipe["classes"], color="gray", ls=":", lw=1)
        axes.set(title=f"{mine[0].dataset} (dotted: chance)", ylabel="top-1, %", ylim=(-3, 103))
        axes.set_xticks(range(len(mine)), [one.protocol.removeprefix("probe, ") for one in mine])
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _by_set(results: Sequence[Result]) -> Iterator[list[Result]]:
    for name in dict.fromkeys(one.dataset for one in results):
        yield [one for one in results if one.dataset == name]


def _columns(result: Result) -> list[str]:
    return ["top1", *result.recipe["probe"]["controls"]]


def _cell(metrics: dict[str, float], name: str) -> str:
    mark = ""
    if name != "top1":
        mark = " ▼" if metrics[f"minus_{name}_low"] > 0 else " ▲" if metrics[f"minus_{name}_high"] < 0 else ""
    return f"{metrics[name]:.1f} ({metrics[f'{name}_low']:.0f} to {metrics[f'{name}_high']:.0f}){mark}"
