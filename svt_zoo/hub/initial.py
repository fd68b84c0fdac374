"""The initial weights of a run: the words that `init` of a recipe accepts, in addition to those of `load_model`."""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from ..models import Backbone, ZooModel, create_model, find_builder
from ..options import ConfigError
from .loading import file_inside, load_model
from .sources import UnfitWeightsError, WeightsError
from .table import list_weights

# By the width of the network.
INITIAL_WEIGHTS: dict[str, dict[int, str]] = {
    "dino": {768: "dino_vitb16", 384: "dino_vits16"},
    "image_supervised": {768: "imagenet_vitb16"},
    "svt": {768: "svt_vitb_k400"},
}


def load_initial(
    init: str, *, model: str, options: dict[str, Any], num_classes: int | None = 0, progress: bool = True
) -> ZooModel:
    """The network that `init` names. The architecture is that of the weights if they state it, otherwise `model`.

    Args:
        init: "random", "svt", "dino", "image_supervised" (for `model`), the folder of a finished run or of
            `save_pretrained`, or whatever `load_model` takes.
        model: a registered model.
        options: keywords of its builder.
        num_classes: as of `load_model`; a random network has no classifier.
        progress: show a bar while downloading.

    Raises:
        ValueError: no such model, or no such initial weights for it.
        WeightsError: the weights cannot be fetched, or (`UnfitWeightsError`) they or the options do not fit.
    """
    try:
        if init == "random":
            return _build(model, options)
        weights = _of_width(init, model, options) if init in INITIAL_WEIGHTS else init
        if weights not in list_weights() and Path(weights).is_dir():
            weights = str(file_inside(Path(weights)))
        is_stated = init not in INITIAL_WEIGHTS and (weights in list_weights() or _states_architecture(weights))
        name = None if is_stated else model
        return load_model(weights, model=name, num_classes=num_classes, progress=progress, **options)
    except TypeError as error:
        raise ConfigError(f"model.options do not fit {model}: {error}") from error
    except UnfitWeightsError as error:
        cause = str(error)  # it may start with the path that init is
        raise UnfitWeightsError(f"init={cause}" if cause.startswith(init) else f"init={init}: {cause}") from error
    except WeightsError as error:
        cause = str(error).removeprefix(f"{init}: ")
        raise WeightsError(
            f"init={init} cannot be loaded: {cause}; or take init=random, which is not the paper's recipe"
        ) from error


def _build(model: str, options: dict[str, Any]) -> ZooModel:
    find_builder(model)  # raises for an unknown name
    try:
        return create_model(model, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options do not fit {model}: {error}") from error


def build_on_meta(model: str, options: dict[str, Any]) -> Backbone:
    """The network of a recipe without memory for its weights.

    Raises:
        ValueError: no such model, or (`ConfigError`) the options do not fit it.
    """
    with torch.device("meta"):
        return cast(Backbone, _build(model, options))


def _of_width(init: str, model: str, options: dict[str, Any]) -> str:
    width = build_on_meta(model, options).embed_dim
    if width not in INITIAL_WEIGHTS[init]:
        known = ", ".join(map(str, INITIAL_WEIGHTS[init]))
        raise ValueError(
            f"init={init} is for networks of width {known}, {model} has {width}; use init=random, or a file of weights "
            "that fit"
        )
    return INITIAL_WEIGHTS[init][width]


def _states_architecture(path: str) -> bool:
    """Whether `path` is a local file in the zoo's own format."""
    if not Path(path).is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "config" in (file.metadata() or {})
    except SafetensorError:
        return False
