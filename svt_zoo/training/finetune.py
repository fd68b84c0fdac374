"""From a recipe to a fine-tuning run and the test of what it gives."""

import logging
from pathlib import Path

import torch

from .. import distributed
from ..config import ConfigError, FinetuneRecipe, expand_repeats, to_dict
from ..data.augment import Augment
from ..data.clips import FinetuneViews
from ..data.datasets import VideoDataset
from ..data.lists import VideoList, evaluation_list, training_list
from ..data.loader import VideoLoader, build_loader
from ..device import choose_device
from ..evaluation.protocols import Extractor, Outcome, multiview_protocol
from ..evaluation.results import Result
from ..evaluation.run import Evaluated, load_network, name_of, write_results
from ..evaluation.views import fast_transform
from ..hub.loading import FINAL_NAME, load_model
from ..methods import Classify, Temporal
from ..methods.temporal import reversed_classes
from ..models import Backbone
from .build import write_description
from .engine import Trainer
from .export import export_model, story_of
from .objectives import build_flow
from .online_knn import OnlineKNN
from .parallel import whole
from .random_state import seed_all

_log = logging.getLogger(__name__)

_NOT_TRAINING = ("kind", "repeat", "report")  # may change without another run


def finetune(recipe: FinetuneRecipe) -> list[Result] | None:
    """Train a classifier as the recipe says, or go on with it, and test it: for each split and seed.

    Each run's folder is that of a pre-training, with a whole classifier in `final.safetensors`, and the test's
    predictions and pictures beside it; the results go into `report.folder`.

    Returns:
        The results, in the main process; None if a signal asked the run to stop, and the same call goes on.

    Raises:
        As `training.build.pretrain`, and ValueError for lists without labels or that share videos.
    """
    each = expand_repeats(recipe)
    device = distributed.init(choose_device(recipe.run.device))
    try:
        done = []
        for case in each:
            train = training_list(case.data, seed=case.run.seed)
            val = evaluation_list(case.data, classes=train.classes)
            for name, videos in (("train", train), ("val", val)):
                if unlabelled := sum(row.label is None for row in videos.rows):
                    raise ConfigError(
                        f"data.{name}: {unlabelled} of {len(videos)} videos have no label; add labels to the list"
                    )
            if not train_classifier(case, train, val, device):
                return None
            outcome = measure_classifier(case, val, device)
            done.append(Evaluated(case.report.split, case.run.seed, Path(case.run.output), val, [outcome]))
        name = name_of(recipe.init, recipe.model.name)
        return write_results(done, recipe.report, name=name, recipe=to_dict(recipe), device=device)
    finally:
        distributed.shutdown()


def train_classifier(recipe: FinetuneRecipe, train: VideoList, val: VideoList, device: torch.device) -> bool:
    """Train one classifier on the list `train` and leave it in `run.output`; False if it was asked to stop."""
    output = Path(recipe.run.output)
    backbone = load_network(recipe)
    assert isinstance(backbone, Backbone)
    seed_all(recipe.run.seed)  # the same weights of the linear layer in every process
    method = build_classify(recipe, backbone, train).to(device)
    transform = backbone.transforms()
    trainer = Trainer(
        method,
        build_finetune_loader(recipe, backbone, train, device),
        Augment(mean=transform.mean, std=transform.std, channel_order=transform.channel_order).to(device),
        optim=recipe.optim,
        run=recipe.run,
        device=device,
        recipe={name: section for name, section in to_dict(recipe).items() if name not in _NOT_TRAINING},
        evaluate=_online_knn(recipe, train, val, device),
        layer_decay=recipe.optim.layer_decay,
        lr_factors=recipe.optim.lr_factors,
    )
    if not trainer.fit(started=lambda: write_description(output, recipe, device)):
        return False
    weights = whole(method.classifier.state_dict())  # all processes, if each has a part
    if distributed.is_main():
        export_model(method.classifier, weights, output / FINAL_NAME)
        _log.info("training finished; the weights are in %s", output / FINAL_NAME)
    distributed.barrier()
    return True


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
    told = {name: section for name, section in to_dict(recipe).items() if name not in ("data", "run", "report")}
    report, how = recipe.report, "fine-tuned"
    dataset = report.dataset or Path(recipe.data.train).stem
    backbone.meta = story_of(backbone, told, how=how, dataset=dataset, clip=backbone.meta["clip"], name=report.name)
    method.classifier.meta = {
        **backbone.meta,
        "num_classes": train.num_classes,
        "categories": list(train.classes) or None,
        "views": recipe.multiview.views,  # of the test
    }
    return method.eval()


def build_finetune_loader(
    recipe: FinetuneRecipe, backbone: Backbone, train: VideoList, device: torch.device
) -> VideoLoader:
    """Batches of random clips of `train`, as the recipe's `views` say, at the clip of `backbone`."""
    transform = backbone.transforms()
    views = FinetuneViews(
        transform,
        recipe.views,
        fast=fast_transform(transform) if recipe.views.slow_fast else None,
        flow=build_flow(recipe.temporal, backbone.patch_size),
    )
    return build_loader(
        VideoDataset(train, views, train=True, allow_cut=recipe.data.allow_cut, seed=recipe.run.seed),
        batch_size=recipe.data.batch_size,
        num_workers=recipe.data.num_workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=device.type == "cuda",
        max_failure_fraction=recipe.data.max_failure_fraction,
        output_dir=recipe.run.output,
    )


def measure_classifier(recipe: FinetuneRecipe, val: VideoList, device: torch.device) -> Outcome:
    """The multi-view test of the classifier that a run has left in its folder, in float32."""
    output = Path(recipe.run.output)
    extractor = Extractor(
        network=load_model(output / FINAL_NAME, num_classes=None),
        folder=output / "features",
        device=device,
        batch_size=recipe.data.batch_size,
        num_workers=recipe.data.num_workers,
    )
    return multiview_protocol(extractor, val, recipe.multiview, protocol="fine-tuned")


def _online_knn(recipe: FinetuneRecipe, train: VideoList, val: VideoList, device: torch.device) -> OnlineKNN | None:
    if not recipe.run.knn_every_epochs:
        return None
    return OnlineKNN(
        train,
        val,
        Path(recipe.run.output) / "knn",
        device=device,
        batch_size=recipe.data.batch_size,
        num_workers=recipe.data.num_workers,
    )
