"""Pre-training and fine-tuning, from a recipe to the exported weights."""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from .. import distributed
from ..config import FinetuneRecipe, PretrainRecipe
from ..data.augment import Augment
from ..data.clips import FinetuneViews
from ..data.datasets import VideoDataset, training_dataset
from ..data.lists import VideoList, evaluation_list, training_list
from ..data.loader import VideoLoader
from ..device import choose_device
from ..evaluation.protocols import Extractor, multiview_protocol
from ..evaluation.results import Result, provenance
from ..evaluation.run import Evaluated, expand_repeats, load_network, model_section, name_of, write_results
from ..evaluation.views import fast_transform
from ..files import write_whole
from ..hub.initial import load_initial
from ..hub.loading import FINAL_NAME, load_model
from ..hub.publish import config_of, write_weights
from ..methods import Classify, Method, Temporal
from ..methods.temporal import reversed_classes
from ..models import Backbone, ZooModel, find_builder
from ..options import ConfigError, to_dict
from .checkpoint import seed_all
from .compare import Comparison
from .engine import Trainer
from .monitor import OnlineKNN
from .objectives import OBJECTIVES, build_flow
from .parallel import full_state

_log = logging.getLogger(__name__)


def pretrain(recipe: PretrainRecipe) -> bool:
    """Run a recipe, or continue its run, in this process of those that torchrun started.

    All files are written into `run.output`.

    Returns:
        Whether the run has ended; False if a signal asked it to stop, and the same call continues it.

    Raises:
        ConfigError: a recipe that cannot be run.
        WeightsError: the initial weights cannot be loaded.
        CheckpointError: there are checkpoints, but none to continue from.
        FolderInUse: another command writes into `run.output`.
        NonFiniteLoss, TooManyFailures: see `Trainer.fit`.
    """
    with _process(recipe) as device:
        objective = OBJECTIVES[recipe.method](recipe)
        dataset = training_dataset(recipe.data, recipe.views, seed=recipe.run.seed, flow=objective.flow())
        comparison = Comparison.of(recipe, dataset.videos) if recipe.run.compare else None
        seed_all(recipe.run.seed)  # the same weights in every process
        method = build_method(recipe, build_backbone(recipe))
        knn = None
        if recipe.run.knn_every_epochs:
            val = evaluation_list(recipe.data, classes=dataset.videos.classes)
            knn = OnlineKNN(recipe, dataset.videos, val, device)
        if not _train(recipe, method, dataset, objective.augment, device, knn, max_entropy=objective.max_entropy):
            return False
        if comparison is not None:
            seed_all(recipe.run.seed)  # init=random gives the same weights again
            after = load_model(str(Path(recipe.run.output) / FINAL_NAME))
            comparison.report(build_backbone(recipe), after, recipe, device)
        return True


@contextmanager
def _process(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[torch.device]:
    """Context of a run in this process: its device, its group of processes, and the lock of its folder."""
    output = Path(recipe.run.output)
    device = distributed.init(choose_device(recipe.run.device))
    with ExitStack() as stack:
        stack.callback(distributed.shutdown)
        try:
            stack.enter_context(distributed.lock_folder(output))
        except OSError as error:
            message = f"run.output={output} cannot be created or written ({error.strerror}); name another folder"
            raise ConfigError(message) from error
        yield device


def build_method(recipe: PretrainRecipe, backbone: Backbone) -> Method:
    """The objective of a recipe around `backbone`, in eval mode until the training starts.

    Raises:
        ConfigError: the method has no such option, or not for this network.
    """
    try:
        return OBJECTIVES[recipe.method](recipe).method(backbone).eval()
    except ValueError as error:
        raise ConfigError(f"{recipe.method}: {error}") from error


def build_backbone(recipe: PretrainRecipe) -> Backbone:
    """The network of a recipe in eval mode, with the weights that `init` names.

    Raises:
        ConfigError: a model that is not registered, options that it does not have, or no such initial weights for it.
        WeightsError: the weights cannot be loaded or do not fit.
    """
    name, options = recipe.model.name, recipe.model.options
    try:
        find_builder(name)
        network = distributed.in_turn(
            lambda: load_initial(recipe.init, model=name, options=options, progress=distributed.is_main())
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if network.meta["model"] != name:
        raise ConfigError(f"init={recipe.init} is a {network.meta['model']}; set model.name={network.meta['model']}")
    assert isinstance(network, Backbone)
    how, dataset = f"pre-trained by {recipe.method.upper()}", Path(recipe.data.train).stem
    clip = asdict(OBJECTIVES[recipe.method](recipe).clip(network))
    network.meta = trained_meta(network, recipe, how=how, dataset=dataset, clip=clip)
    return network.eval()


def finetune(recipe: FinetuneRecipe) -> list[Result] | None:
    """Train the classifier of a recipe, or continue its run, and test it: for each split and seed.

    Each run's folder is that of a pre-training, with a complete classifier in `final.safetensors`, and the test's
    predictions and pictures beside it. The results are written into `report.folder`.

    Returns:
        The results, in the main process; None if a signal asked the run to stop, and the same call continues it.

    Raises:
        As `pretrain`, and ValueError for lists without labels or that share videos.
    """
    recipes = expand_repeats(recipe)
    with _process(recipe) as device:
        done = []
        for case in recipes:
            train = training_list(case.data, seed=case.run.seed)
            val = evaluation_list(case.data, classes=train.classes)
            for name, videos in (("train", train), ("val", val)):
                if unlabeled := (videos.columns.labels < 0).sum():
                    raise ConfigError(
                        f"data.{name}: {unlabeled} of {len(videos)} videos have no label; add labels to the list, "
                        "or give a folder of class folders"
                    )
            if not train_classifier(case, train, val, device):
                return None
            output = Path(case.run.output)
            network = load_model(output / FINAL_NAME, num_classes=None)
            extractor = Extractor(network, output / "features", device, case.data)  # in float32
            outcome = multiview_protocol(extractor, val, case.multiview, protocol="fine-tuned")
            done.append(Evaluated(case.report.split, case.run.seed, model_section(network), output, val, [outcome]))
        name = name_of(recipe.init, recipe.model.name)
        return write_results(done, recipe.report, name=name, recipe=to_dict(recipe), device=device)


def train_classifier(recipe: FinetuneRecipe, train: VideoList, val: VideoList, device: torch.device) -> bool:
    """Train one classifier on the list `train`, in the folder `run.output`; False if it was asked to stop."""
    backbone = load_network(recipe)
    assert isinstance(backbone, Backbone)
    seed_all(recipe.run.seed)  # the same weights of the linear layer in every process
    method = build_classify(recipe, backbone, train)
    transform = backbone.transforms()
    views = FinetuneViews(
        transform,
        recipe.views,
        fast=fast_transform(transform) if recipe.views.slow_fast else None,
        flow=build_flow(recipe.temporal, backbone.patch_size),
    )
    dataset = VideoDataset(train, views, train=True, allow_cut=recipe.data.allow_cut, seed=recipe.run.seed)
    augment = Augment(mean=transform.mean, std=transform.std, channel_order=transform.channel_order)
    knn = OnlineKNN(recipe, train, val, device) if recipe.run.knn_every_epochs else None
    return _train(recipe, method, dataset, augment, device, knn)


def build_classify(recipe: FinetuneRecipe, backbone: Backbone, train: VideoList) -> Classify:
    """The objective of a recipe around `backbone` for the classes of `train`, in eval mode until the training starts.

    The `meta` of its backbone and of its classifier become those of the network that is trained.
    """
    shuffled = recipe.temporal.order and recipe.temporal.order_of == "shuffled"
    if shuffled and (pair := reversed_classes(train.classes)):
        _log.warning(
            "temporal.order_of=shuffled: %s and %s look like each other's reverse; the order of shuffled frames then "
            "has no answer and hides the direction; set temporal.order=0 or temporal.order_of=straight",
            *pair,
        )
    if recipe.temporal.is_on:
        method: Classify = Temporal(backbone, train.num_classes, recipe.temporal, recipe.classify)
    else:
        method = Classify(backbone, train.num_classes, recipe.classify)
    dataset, clip = recipe.report.dataset or Path(recipe.data.train).stem, backbone.meta["clip"]
    backbone.meta = trained_meta(
        backbone, recipe, how="fine-tuned", dataset=dataset, clip=clip, name=recipe.report.name
    )
    method.classifier.meta = {
        **backbone.meta,
        "num_classes": train.num_classes,
        "categories": list(train.classes) or None,
        "views": recipe.multiview.views,  # of the test
    }
    return method.eval()


def _train(
    recipe: PretrainRecipe | FinetuneRecipe,
    method: Method,
    dataset: VideoDataset,
    augment: Augment,
    device: torch.device,
    knn: OnlineKNN | None,
    *,
    max_entropy: float | None = None,
) -> bool:
    """Train a method to the end and export its network; False if a signal asked to stop."""
    output, data = Path(recipe.run.output), recipe.data
    loader = VideoLoader(
        dataset,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=device.type == "cuda",
        max_failure_fraction=data.max_failure_fraction,
        output_dir=output,
    )
    trainer = Trainer(
        method.to(device), loader, augment.to(device), recipe, device=device, evaluate=knn, max_entropy=max_entropy
    )
    if not trainer.fit(started=lambda: write_description(output, recipe, device)):
        return False
    network = method.classifier if isinstance(method, Classify) else method.backbone
    weights = full_state(network.state_dict())  # all processes, if each has a part
    if distributed.is_main():
        write_weights(output / FINAL_NAME, weights, config_of(network))
        _log.info("training finished; the weights are in %s", output / FINAL_NAME)
    distributed.barrier()
    return True


def trained_meta(
    start: ZooModel,
    recipe: PretrainRecipe | FinetuneRecipe,
    *,
    how: str,
    dataset: str,
    clip: Mapping[str, Any] | None,
    name: str = "",
) -> dict[str, Any]:
    """The `meta` of a network that is trained from `start`: its own history, and the license of the initial weights.

    It contains no path of this machine, because the file may be published.

    Args:
        start: the network before the training, whose `meta` states where its weights come from.
        recipe: the resolved recipe.
        how: the training in a few words, such as "fine-tuned".
        dataset: name of the training videos.
        clip: on which the trained network is evaluated.
        name: of the trained network; by default its architecture, the training and the videos.
    """
    model, before = start.meta["model"], start.meta.get("pretrained_on")
    init = name_of(recipe.init, model) if Path(recipe.init).exists() else recipe.init
    origin = start.meta.get("name") or init
    sections = {key: value for key, value in to_dict(recipe).items() if key not in ("data", "run", "report")}
    return {
        "name": name or f"{model}, {how} on {dataset}",
        "title": f"{model}, {how} on {dataset} by svt_zoo, from init={origin}",
        "model": model,
        "model_kwargs": start.meta["model_kwargs"],
        "num_classes": 0,
        "clip": clip,
        "pretrained_on": f"{before}, then {dataset}" if before else dataset,
        "derived_from": origin,
        "license": start.meta.get("license", ""),
        "recipe": {**sections, "init": origin},
    }


def write_description(output: Path, recipe: PretrainRecipe | FinetuneRecipe, device: torch.device) -> None:
    """Write `config.yaml`, the resolved recipe, and add this start of the run to `environment.json`."""
    text = yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None)
    write_whole(output / "config.yaml", text.encode())
    path = output / "environment.json"
    starts = json.loads(path.read_text()) if path.exists() else []
    environment = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **provenance(device),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "processes": distributed.world_size(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    write_whole(path, f"{json.dumps([*starts, environment], indent=2)}\n".encode())
