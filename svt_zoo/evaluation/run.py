"""Runs an evaluation recipe and writes its results: the only evaluation module that reads complete recipes."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from .. import distributed
from ..config import EvaluationRecipe, FinetuneRecipe, KNNRecipe, LinearRecipe, MultiviewRecipe
from ..data.lists import DataConfig, VideoList, evaluation_list, training_list
from ..data.transforms import ClipConfig
from ..device import choose_device, choose_dtype
from ..hub.initial import INITIAL_WEIGHTS, load_initial
from ..hub.loading import FINAL_NAME, WEIGHTS_NAME
from ..hub.weights import ClipSpec
from ..models import ZooModel, backbone_of, create_model
from ..options import ConfigError, to_dict
from .metrics import summarize
from .protocols import (
    Extractor,
    Outcome,
    knn_protocol,
    linear_protocol,
    multiview_protocol,
    pooled_metrics,
    write_outcome,
)
from .results import ReportConfig, Result, log_start, provenance, write_result

_log = logging.getLogger(__name__)
_MARK = "{split}"
_UNTRAINED = "random:"  # prefix of `init`: the same architecture with random weights

# SVT's evaluation clip, for weights without a specification: 8x32, mean 0.45 and std 0.225 for all channels.
_CLIP = ClipSpec(8, 32, 256, 224, (0.45,) * 3, (0.225,) * 3)


R = TypeVar("R", bound=EvaluationRecipe | FinetuneRecipe)


def expand_repeats(recipe: R) -> list[R]:
    """One recipe per split (or fold) and seed, splits first; several have folders of their own in `run.output`.

    `repeat.splits` has no effect if no option of `data` contains {split}; a test does not read `data.train`.

    Raises:
        ConfigError: an option of `data` contains {split}, but `repeat.splits` is empty.
    """
    unread = ("train", "where_train") if isinstance(recipe, MultiviewRecipe) else ()
    read = {name: value for name, value in vars(recipe.data).items() if name not in unread}
    marked = any(isinstance(value, str) and _MARK in value for value in read.values())
    splits = recipe.repeat.splits if marked else ()
    if marked and not splits:
        raise ConfigError(
            "an option of data contains {split}, but repeat.splits is empty; add the numbers of the splits, such as "
            f"repeat.splits=[1]; got data.train={recipe.data.train!r}, data.val={recipe.data.val!r}"
        )
    if recipe.repeat.splits and not marked:
        _log.info("repeat.splits=%s is ignored, because the lists do not contain {split}", list(recipe.repeat.splits))
    folds = recipe.repeat.folds
    single = recipe.repeat.num_seeds == 1 and not splits and not folds
    # A result on held-out training videos must not look like a test result.
    name = "fold" if folds else "validation" if recipe.data.validation_fraction else recipe.report.split
    recipes = []
    kind = "fold" if folds else "split"
    for split in splits or (range(folds) if folds else (None,)):
        for seed in range(recipe.run.seed, recipe.run.seed + recipe.repeat.num_seeds):
            folder = f"seed{seed}" if split is None else f"{kind}{split}_seed{seed}"
            output = recipe.run.output if single else f"{recipe.run.output}/{folder}"
            changes: dict[str, Any] = {
                "data": _with_split(recipe.data, split, folds),
                "report": replace(recipe.report, split=name if split is None else f"{name} {split}"),
                "run": replace(recipe.run, seed=seed, output=output),
            }
            recipes.append(replace(recipe, **changes))
    return recipes


def _with_split(data: DataConfig, split: int | None, folds: int | None) -> DataConfig:
    if folds and split is not None:
        return replace(data, fold=(split, folds))
    texts: dict[str, Any] = {
        option.name: value.replace(_MARK, str(split))
        for option in fields(data)
        if isinstance(value := getattr(data, option.name), str)
    }
    return data if split is None else replace(data, **texts)


class Evaluated(NamedTuple):
    """One split with one seed: its network, the folder of its files, the evaluation list, and the outcomes."""

    split: str
    seed: int
    model: dict[str, Any]
    folder: Path
    videos: VideoList
    outcomes: list[Outcome]

    def outcome(self, protocol: str) -> Outcome:
        """Returns the outcome of a protocol."""
        return next(outcome for outcome in self.outcomes if outcome.protocol == protocol)


def evaluate(recipe: KNNRecipe | LinearRecipe | MultiviewRecipe) -> list[Result]:
    """Runs the evaluation of a recipe for each split and seed, and writes the files of its results.

    Returns:
        One result per protocol (k-NN: per k) and split, in the main process; an empty list in all others.

    Raises:
        ConfigError: the recipe cannot be run.
        WeightsError: the weights cannot be loaded.
        ListError: a list cannot be read.
        ValueError: training and evaluation lists share videos, or no video can be evaluated.
    """
    cases = expand_repeats(recipe)
    device = distributed.init(choose_device(recipe.run.device))
    try:
        with distributed.lock_folder(Path(recipe.run.output)):
            pass  # no training runs there; other evaluations may, because they share their features
        evaluated = [_evaluate(case, device) for case in cases]
        name = name_of(recipe.init, recipe.model.name)
        return write_results(evaluated, recipe.report, name=name, recipe=to_dict(recipe), device=device)
    finally:
        distributed.shutdown()


def _evaluate(recipe: KNNRecipe | LinearRecipe | MultiviewRecipe, device: torch.device) -> Evaluated:
    """Evaluate one split with one seed."""
    is_test, output, seed = isinstance(recipe, MultiviewRecipe), Path(recipe.run.output), recipe.run.seed
    network, dtype = load_network(recipe, num_classes=None if is_test else 0), choose_dtype(recipe.run.dtype, device)
    extractor = Extractor(network, output / "features", device, recipe.data, dtype)
    train = None if is_test else training_list(recipe.data, seed=seed)
    classes = network.meta.get("categories") if train is None else train.classes
    val = evaluation_list(recipe.data, classes=classes)
    log_start(
        {"knn": "kNN evaluation", "linear": "linear probe", "test": "test of a classifier"}[recipe.kind],
        network,
        device=device,
        precision=dtype,
        output=output,
        training_videos=train and len(train),
        epochs=recipe.linear.epochs if isinstance(recipe, LinearRecipe) else None,
        evaluation_videos=len(val),
        classes=val.num_classes,
    )
    if isinstance(recipe, MultiviewRecipe):
        outcomes = [multiview_protocol(extractor, val, recipe.multiview)]
    else:
        assert train is not None
        if isinstance(recipe, KNNRecipe):
            outcomes = knn_protocol(extractor, train, val, recipe.knn, seed=seed)
        else:
            outcomes = [linear_protocol(extractor, train, val, recipe.linear, seed=seed)]
    return Evaluated(recipe.report.split, seed, model_section(network), output, val, outcomes)


def load_network(recipe: EvaluationRecipe | FinetuneRecipe, *, num_classes: int | None = 0) -> ZooModel:
    """Load the network of a recipe in eval mode, with its clip in `meta`; the seed determines random weights.

    `init=random:NAME` uses the architecture and the clip of NAME with random weights, as a baseline for NAME.
    """
    name = recipe.init.removeprefix(_UNTRAINED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        network = distributed.in_turn(
            lambda: load_initial(
                name,
                model=recipe.model.name,
                options=recipe.model.options,
                num_classes=num_classes,
                progress=distributed.is_main(),
            )
        )
        spec = network.meta.get("clip")
        if name != recipe.init:
            network = create_model(network.meta["model"], **network.meta["model_kwargs"])
    clip = asdict(choose_clip(ClipSpec(**spec) if spec else None, recipe.clip, network))
    network.meta = {**network.meta, "clip": clip}
    backbone = backbone_of(network)
    backbone.meta = {**backbone.meta, "clip": clip}
    return network.eval()


def model_section(network: ZooModel) -> dict[str, Any]:
    """The network that was evaluated, as the section `model` of a recipe: with `init=FILE`, that of the file."""
    return {"name": network.meta["model"], "options": dict(network.meta["model_kwargs"])}


def choose_clip(spec: ClipSpec | None, changes: ClipConfig, network: ZooModel) -> ClipSpec:
    """Clip of the weights, or SVT's at the network's size if they have none, with the changes of the recipe."""
    if spec is None:
        backbone = backbone_of(network)
        size = backbone.meta.get("model_kwargs", {}).get("img_size", _CLIP.crop_size)
        spec = _CLIP.resized(getattr(backbone, "num_frames", _CLIP.num_frames), size)
    clip = spec.resized(changes.num_frames or spec.num_frames, changes.crop_size or spec.crop_size)
    if changes.sampling_rate is not None:
        clip = replace(clip, sampling_rate=None if changes.sampling_rate == "segments" else changes.sampling_rate)
    options = {name: getattr(changes, name) for name in ("resize_size", "mean", "std")}
    return replace(clip, **{name: value for name, value in options.items() if value is not None})


def write_results(
    evaluated: Sequence[Evaluated], report: ReportConfig, *, name: str, recipe: dict[str, Any], device: torch.device
) -> list[Result]:
    """Write the files of each evaluation and, for each protocol that all have, one result per split (mean of seeds).

    Several splits get one more result, their mean. Only the main process writes; all others return an empty list.
    """
    if not distributed.is_main():
        return []
    splits = list(dict.fromkeys(one.split for one in evaluated))
    groups = {split: [one for one in evaluated if one.split == split] for split in splits}
    if recipe["repeat"]["folds"]:
        groups = {f"{recipe['repeat']['folds']} folds": list(evaluated)}
    elif len(splits) > 1:
        groups[f"mean of {', '.join(splits)}"] = list(evaluated)
    protocols = [{outcome.protocol for outcome in one.outcomes} for one in evaluated]
    results = [
        Result(
            name=report.name or name,
            protocol=outcome.protocol,
            dataset=report.dataset or Path(recipe["data"]["train" if recipe["repeat"]["folds"] else "val"]).stem,
            split=split,
            **_counted(group, outcome.protocol, pooled=bool(recipe["repeat"]["folds"])),
            recipe={**recipe, "model": group[0].model, "cases": [_noted(one, outcome.protocol) for one in group]},
            **provenance(device),
        )
        for outcome in evaluated[0].outcomes
        if all(outcome.protocol in names for names in protocols)
        for split, group in groups.items()
    ]
    for one in evaluated:
        for outcome in one.outcomes:
            write_outcome(outcome, one.folder, classes=one.videos.classes)
    for result in results:
        write_result(result, report.folder)
    return results


def _counted(group: Sequence[Evaluated], protocol: str, *, pooled: bool) -> dict[str, Any]:
    """Mean metrics and the number of videos; each split counts once, for any number of seeds.

    `pooled` counts the videos of all splits of a seed together: folds of one data set.
    """
    runs = [[one] for one in group]
    if pooled:
        runs = [[one for one in group if one.seed == seed] for seed in dict.fromkeys(one.seed for one in group)]
    splits = {one.split: one for one in group}.values()
    hashes = [one.videos.sha256 for one in splits]
    return {
        "metrics": summarize([pooled_metrics([one.outcome(protocol) for one in run]) for run in runs]),
        "n": sum(len(one.outcome(protocol).videos.names) for one in splits),
        "n_missing": sum(len(one.outcome(protocol).videos.missing) for one in splits),
        "list_sha256": hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    }


def _noted(one: Evaluated, protocol: str) -> dict[str, Any]:
    """Notes on one seed of one split, for the recipe field of the result."""
    outcome = one.outcome(protocol)
    return {"split": one.split, "seed": one.seed, "top1": outcome.metrics()["top1"], **outcome.notes}


def name_of(init: str, model: str) -> str:
    """Name of the network in results: a row of the table, the folder of a run, or a file name without suffix."""
    if init in ("random", *INITIAL_WEIGHTS):
        return f"{model} {init}"
    if init.startswith(_UNTRAINED):
        return f"{name_of(init.removeprefix(_UNTRAINED), model)} untrained"
    path = Path(init)
    if path.name in (FINAL_NAME, WEIGHTS_NAME):
        path = path.parent
    return path.stem if path.suffix in (".pth", ".pt", ".bin", ".safetensors") else path.name


def describe_result(result: Result) -> str:
    """Format a result as one line: accuracies with 95 % intervals or std over runs, and the missing videos."""
    parts = []
    for metric in ("top1", "top5", "mean_class"):
        if metric in result.metrics:
            low, high = result.metrics[f"{metric}_low"], result.metrics[f"{metric}_high"]
            spread = f", std {result.metrics[f'{metric}_std']:.1f}" if f"{metric}_std" in result.metrics else ""
            parts.append(f"{metric} {result.metrics[metric]:.1f} ({low:.1f} to {high:.1f}{spread})")
    counted = f"{result.n} videos" + (f", {result.n_missing} missing" if result.n_missing else "")
    place = f"{result.name}, {result.protocol}, {result.dataset} {result.split}"
    return f"{place}: {', '.join(parts)}; {counted}"
