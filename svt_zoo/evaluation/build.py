"""Runs an evaluation recipe and writes its results: the only evaluation module that reads complete recipes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from .. import distributed
from ..config import (
    ClipConfig,
    EvaluationRecipe,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    MultiviewRecipe,
    ReportConfig,
    expand_repeats,
    to_dict,
)
from ..data.build import evaluation_list, training_list
from ..data.lists import VideoList
from ..device import choose_device, choose_dtype
from ..hub.initial import INITIAL_WEIGHTS, load_initial
from ..hub.loading import FINAL_NAME, WEIGHTS_NAME
from ..hub.weights import ClipSpec
from ..models import ZooModel, backbone_of, create_model
from .metrics import summarise
from .protocols import Extractor, Outcome, knn_protocol, linear_protocol, multiview_protocol, write_outcome
from .results import Result, provenance, write_result
from .start import log_start

_LIKE = "random:"  # prefix of `init`: the same architecture with random weights

R = TypeVar("R", KNNRecipe, LinearRecipe, MultiviewRecipe)

# SVT's evaluation clip, for weights without a specification: 8x32, mean 0.45 and std 0.225 for all channels.
_CLIP = ClipSpec(8, 32, 256, 224, (0.45,) * 3, (0.225,) * 3)


Evaluation = tuple[VideoList, list[Outcome]]  # the evaluation videos and the outcomes


class Evaluated(NamedTuple):
    """One split with one seed: the folder of its files, the evaluation list, and the outcomes."""

    split: str
    seed: int
    folder: Path
    videos: VideoList
    outcomes: list[Outcome]

    def outcome(self, protocol: str) -> Outcome:
        """Returns the outcome of a protocol."""
        return next(outcome for outcome in self.outcomes if outcome.protocol == protocol)


def evaluate(recipe: KNNRecipe | LinearRecipe | MultiviewRecipe) -> list[Result]:
    """Runs the evaluation that the kind of `recipe` selects. Raises the errors of `evaluate_knn`."""
    if isinstance(recipe, KNNRecipe):
        return evaluate_knn(recipe)
    return evaluate_linear(recipe) if isinstance(recipe, LinearRecipe) else evaluate_classifier(recipe)


def evaluate_knn(recipe: KNNRecipe) -> list[Result]:
    """Runs the k-NN evaluation of a recipe. Returns one result per k (and split), and writes their files.

    Raises:
        ConfigError: the recipe cannot be run.
        WeightsError: the weights cannot be loaded.
        ListError: a list cannot be read.
        ValueError: training and evaluation lists share videos, or no video can be evaluated.
    """

    def run(case: KNNRecipe, extractor: Extractor) -> Evaluation:
        train, val = _lists(case)
        _log_start("kNN evaluation", case, extractor, val, training_videos=len(train))
        options = {name: getattr(case.knn, name) for name in case.knn.__dataclass_fields__}
        return val, knn_protocol(extractor, train, val, seed=case.run.seed, **options)

    return _run(recipe, run)


def evaluate_linear(recipe: LinearRecipe) -> list[Result]:
    """Runs the linear probe of a recipe. Returns one result (per split). Raises the errors of `evaluate_knn`."""

    def run(case: LinearRecipe, extractor: Extractor) -> Evaluation:
        train, val = _lists(case)
        _log_start("linear probe", case, extractor, val, training_videos=len(train), epochs=case.linear.epochs)
        options = {name: getattr(case.linear, name) for name in case.linear.__dataclass_fields__}
        return val, [linear_protocol(extractor, train, val, seed=case.run.seed, **options)]

    return _run(recipe, run)


def evaluate_classifier(recipe: MultiviewRecipe) -> list[Result]:
    """Runs the multi-view test of a classifier. Raises the errors of `evaluate_knn`."""

    def run(case: MultiviewRecipe, extractor: Extractor) -> Evaluation:
        val = evaluation_list(case.data, classes=extractor.network.meta.get("categories"))
        _log_start("test of a classifier", case, extractor, val)
        return val, [multiview_protocol(extractor, val, views=case.multiview.views, pool=case.multiview.pool)]

    return _run(recipe, run, num_classes=None)


def _run(recipe: R, evaluate: Callable[[R, Extractor], Evaluation], *, num_classes: int | None = 0) -> list[Result]:
    """Evaluate each split with each seed; write the outcomes and the results."""
    each = expand_repeats(recipe)
    device = distributed.init(choose_device(recipe.run.device))
    try:
        done = []
        for case in each:
            network = load_network(case, num_classes=num_classes)
            extractor = Extractor(
                network=network,
                folder=Path(case.run.output) / "features",
                device=device,
                dtype=choose_dtype(recipe.run.dtype, device),
                batch_size=case.data.batch_size,
                num_workers=case.data.num_workers,
            )
            videos, outcomes = evaluate(case, extractor)
            done.append(Evaluated(case.report.split, case.run.seed, Path(case.run.output), videos, outcomes))
        name = name_of(recipe.init, recipe.model.name)
        return write_results(done, recipe.report, name=name, recipe=to_dict(recipe), device=device)
    finally:
        distributed.shutdown()


def load_network(recipe: EvaluationRecipe | FinetuneRecipe, *, num_classes: int | None = 0) -> ZooModel:
    """Load the network of a recipe in eval mode, with its clip in `meta`; the seed determines random weights.

    `init=random:START` uses the architecture and the clip of START with random weights, as a baseline for START.

    Raises:
        ValueError: `init` names no known model.
        WeightsError: the weights cannot be loaded.
    """
    start = recipe.init.removeprefix(_LIKE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        network = distributed.in_turn(
            lambda: load_initial(
                start,
                model=recipe.model.name,
                options=recipe.model.options,
                num_classes=num_classes,
                progress=distributed.is_main(),
            )
        )
        said = network.meta.get("clip")
        if start != recipe.init:
            network = create_model(network.meta["model"], **network.meta["model_kwargs"])
    clip = asdict(choose_clip(ClipSpec(**said) if said else None, recipe.clip, network))
    network.meta = {**network.meta, "clip": clip}
    backbone = backbone_of(network)
    backbone.meta = {**backbone.meta, "clip": clip}
    return network.eval()


def choose_clip(said: ClipSpec | None, asked: ClipConfig, network: ZooModel) -> ClipSpec:
    """Clip of the weights, or SVT's at the network's size if they have none, with the changes of the recipe."""
    if said is None:
        backbone = backbone_of(network)
        size = backbone.meta.get("model_kwargs", {}).get("img_size", _CLIP.crop_size)
        said = _CLIP.resized(getattr(backbone, "num_frames", _CLIP.num_frames), size)
    clip = said.resized(asked.num_frames or said.num_frames, asked.crop_size or said.crop_size)
    if asked.sampling_rate is not None:
        clip = replace(clip, sampling_rate=None if asked.sampling_rate == "segments" else asked.sampling_rate)
    options = {name: getattr(asked, name) for name in ("resize_size", "mean", "std")}
    return replace(clip, **{name: value for name, value in options.items() if value is not None})


def write_results(
    done: Sequence[Evaluated], report: ReportConfig, *, name: str, recipe: dict[str, Any], device: torch.device
) -> list[Result]:
    """Write the files of each evaluation and, for each protocol that all have, one result per split (mean of seeds).

    Several splits get one more result, their mean. Only the main process writes.

    Args:
        done: the evaluations.
        report: fields that are common to all results.
        name: of what was evaluated, if `report` has no name.
        recipe: the resolved recipe as plain data.
        device: on which the results were computed.

    Returns:
        The results, as written; an empty list in all other processes.
    """
    splits = list(dict.fromkeys(one.split for one in done))
    groups = {split: [one for one in done if one.split == split] for split in splits}
    if len(splits) > 1:
        groups[f"mean of {', '.join(splits)}"] = list(done)
    results = []
    by_protocol = [{outcome.protocol: outcome for outcome in one.outcomes} for one in done]
    for protocol in [name for name in by_protocol[0] if all(name in found for found in by_protocol)]:
        for split, group in groups.items():
            results.append(
                Result(
                    name=report.name or name,
                    protocol=protocol,
                    dataset=report.dataset or Path(recipe["data"]["val"]).stem,
                    split=split,
                    **_counted(group, protocol),
                    recipe={**recipe, "cases": [_noted(one, protocol) for one in group]},
                    **provenance(device),
                )
            )
    if not distributed.is_main():
        return []
    for one in done:
        for outcome in one.outcomes:
            write_outcome(outcome, one.folder, classes=one.videos.classes)
    for result in results:
        write_result(result, report.folder)
    return results


def _counted(group: Sequence[Evaluated], protocol: str) -> dict[str, Any]:
    """Mean metrics and the number of videos; each split counts once, for any number of seeds."""
    splits = {one.split: one for one in group}.values()
    hashes = [one.videos.sha256 for one in splits]
    return {
        "metrics": summarise([one.outcome(protocol).metrics() for one in group]),
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
    if init.startswith(_LIKE):
        return f"{name_of(init.removeprefix(_LIKE), model)} untrained"
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


def _log_start(what: str, case: EvaluationRecipe, extractor: Extractor, videos: VideoList, **facts: int) -> None:
    log_start(
        what,
        extractor.network,
        device=extractor.device,
        precision=extractor.dtype,
        output=case.run.output,
        **facts,
        evaluation_videos=len(videos),
        classes=videos.num_classes,
    )


def _lists(recipe: KNNRecipe | LinearRecipe) -> tuple[VideoList, VideoList]:
    """Read the training and evaluation lists, which share no video."""
    train = training_list(recipe.data, seed=recipe.run.seed)
    return train, evaluation_list(recipe.data, classes=train.classes)
