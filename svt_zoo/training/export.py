"""Export of a trained network to one file in the zoo's format."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..evaluation.run import name_of
from ..hub.publish import config_of, write_weights
from ..models import Backbone, ZooModel, create_model
from .parallel import whole


def export_model(model: ZooModel, state: Mapping[str, Tensor], path: Path) -> None:
    """Write the full state dict of a backbone or a classifier to a file that `svt_zoo.load_model(path)` reads.

    The file contains `model.meta`: architecture, clip, origin. It is written atomically.
    """
    write_weights(path, state, config_of(model))


def story_of(
    start: ZooModel,
    recipe: Mapping[str, Any],
    *,
    how: str,
    dataset: str,
    clip: Mapping[str, Any] | None,
    name: str = "",
) -> dict[str, Any]:
    """The `meta` of a network that is trained from `start`: its own history, and the license of the initial weights.

    No path of this machine is in it, because the file may be published.

    Args:
        start: the network before the training, whose `meta` tells where its weights come from.
        recipe: the sections of the resolved recipe that describe the network.
        how: the training in a few words, such as "fine-tuned".
        dataset: name of the training videos.
        clip: on which the trained network is evaluated.
        name: of the trained network; by default its architecture, the training and the videos.
    """
    model, before, init = start.meta["model"], start.meta.get("pretrained_on"), recipe["init"]
    origin = start.meta.get("name") or (name_of(init, model) if Path(init).exists() else init)
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
        "recipe": {**recipe, "init": origin},
    }


def plain_copy(backbone: Backbone, device: torch.device) -> ZooModel:
    """A copy of `backbone` that is not sharded, in eval mode; all processes must call it."""
    state = backbone.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return copy.deepcopy(backbone).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        plain = create_model(backbone.meta["model"], **backbone.meta["model_kwargs"])
    plain.load_state_dict(whole(state), strict=True)
    plain.meta = dict(backbone.meta)
    return plain.to(device).eval()
