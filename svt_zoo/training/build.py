"""From a recipe to a run: the only part of training that sees a whole recipe."""

import logging
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from .. import distributed
from ..config import ConfigError, FinetuneRecipe, PretrainRecipe, to_dict
from ..data.datasets import training_dataset
from ..data.lists import VideoList, evaluation_list
from ..data.loader import build_loader
from ..device import choose_device
from ..hub.initial import load_initial
from ..hub.loading import FINAL_NAME
from ..methods import Method
from ..models import Backbone, list_models
from .engine import Trainer
from .environment import record_start
from .export import export_model, story_of
from .objectives import OBJECTIVES
from .online_knn import OnlineKNN
from .parallel import whole
from .random_state import seed_all

_log = logging.getLogger(__name__)


def pretrain(recipe: PretrainRecipe) -> bool:
    """Run a recipe, or go on with it, in this process of those that torchrun started; the results lie in `run.output`.

    Returns:
        Whether the run has ended; False if a signal asked it to stop, and the same call goes on.

    Raises:
        ConfigError: a recipe that cannot be run.
        WeightsError: the weights that the run starts from cannot be had.
        CheckpointError: there are checkpoints, but none to go on from.
        NonFiniteLoss, TooManyFailures: see `Trainer.fit`.
    """
    device = distributed.init(choose_device(recipe.run.device))
    try:
        output = Path(recipe.run.output)
        flow = OBJECTIVES[recipe.method].flow(recipe)
        dataset = training_dataset(recipe.data, recipe.views, seed=recipe.run.seed, flow=flow)
        loader = build_loader(
            dataset,
            batch_size=recipe.data.batch_size,
            num_workers=recipe.data.num_workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=device.type == "cuda",
            max_failure_fraction=recipe.data.max_failure_fraction,
            output_dir=output,
        )
        seed_all(recipe.run.seed)  # the same weights in every process
        method = build_method(recipe, build_backbone(recipe)).to(device)
        trainer = Trainer(
            method,
            loader,
            OBJECTIVES[recipe.method].augment(recipe).to(device),
            optim=recipe.optim,
            run=recipe.run,
            device=device,
            recipe=to_dict(recipe),
            evaluate=build_knn(recipe, dataset.videos, device),
            max_entropy=OBJECTIVES[recipe.method].max_entropy(recipe),
        )
        if not trainer.fit(started=lambda: write_description(output, recipe, device)):
            return False
        weights = whole(method.backbone.state_dict())  # all processes, if each has a part
        if distributed.is_main():
            export_model(method.backbone, weights, output / FINAL_NAME)
            _log.info("training finished; the weights are in %s", output / FINAL_NAME)
        return True
    finally:
        distributed.shutdown()


def build_method(recipe: PretrainRecipe, backbone: Backbone) -> Method:
    """The objective of a recipe around `backbone`, in eval mode until the training starts.

    Raises:
        ConfigError: the method has no such option, or not for this network.
    """
    try:
        return OBJECTIVES[recipe.method].method(recipe, backbone).eval()
    except ValueError as error:
        raise ConfigError(f"{recipe.method}: {error}") from error


def build_backbone(recipe: PretrainRecipe) -> Backbone:
    """The network of a recipe in eval mode, with the weights that `init` names.

    Raises:
        ConfigError: a model that is not registered, options that it does not have, or no such start for it.
        WeightsError: the weights cannot be had or do not fit.
    """
    name, options = recipe.model.name, recipe.model.options
    if name not in list_models():
        raise ConfigError(f"model.name={name!r} is not registered; one of {', '.join(list_models())}")
    try:
        network = distributed.in_turn(
            lambda: load_initial(recipe.init, model=name, options=options, progress=distributed.is_main())
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if network.meta["model"] != name:
        raise ConfigError(f"init={recipe.init} is a {network.meta['model']}; set model.name={network.meta['model']}")
    assert isinstance(network, Backbone)
    told = {name: section for name, section in to_dict(recipe).items() if name not in ("data", "run")}
    network.meta = story_of(
        network,
        told,
        how=f"pre-trained by {recipe.method.upper()}",
        dataset=Path(recipe.data.train).stem,
        clip=asdict(OBJECTIVES[recipe.method].clip(recipe, network)),
    )
    return network.eval()


def build_knn(recipe: PretrainRecipe, train: VideoList, device: torch.device) -> OnlineKNN | None:
    """The kNN evaluation of a recipe, if it asks for one."""
    if not recipe.run.knn_every_epochs:
        return None
    return OnlineKNN(
        train,
        evaluation_list(recipe.data, classes=train.classes),
        Path(recipe.run.output) / "knn",
        device=device,
        batch_size=recipe.data.batch_size,
        num_workers=recipe.data.num_workers,
    )


def write_description(output: Path, recipe: PretrainRecipe | FinetuneRecipe, device: torch.device) -> None:
    """Write `config.yaml`, the resolved recipe, and `environment.json` into the run's folder.

    Raises:
        ConfigError: the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.output={output} cannot be created ({error.strerror}); name another folder") from error
    text = yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None)
    (output / "config.yaml").write_text(text)
    record_start(output / "environment.json", device)
