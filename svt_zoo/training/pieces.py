"""What each method of pre-training brings to the one loop: the only place that tells them apart."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..config import ConfigError, CPCRecipe, ModelConfig, Recipe
from ..data.augment import Augment
from ..data.flow import FlowLabels
from ..hub.weights import ClipSpec
from ..methods import CPC, SVT, Method, SVTTemporal
from ..models import Backbone, create_model
from .temporal import build_flow, build_terms


@dataclass(frozen=True)
class Pieces:
    """One method's part of a run, made from its recipe.

    Attributes:
        method: the objective around a backbone.
        augment: what the device does with views.
        clip: on which the trained network is evaluated.
        max_entropy: of the method's targets, in nats; None if it has no such targets.
        flow: what labels the motion in the first view, if the method asks for it.
    """

    method: Callable[[Any, Backbone], Method]
    augment: Callable[[Any], Augment]
    clip: Callable[[Any, Backbone], ClipSpec]
    max_entropy: Callable[[Any], float | None]
    flow: Callable[[Any], FlowLabels | None] = lambda recipe: None


def _svt(recipe: Recipe, backbone: Backbone) -> Method:
    svt = SVT(backbone, epochs=recipe.optim.epochs, **_options(recipe.svt))
    return SVTTemporal(svt, build_terms(recipe.temporal, backbone)) if recipe.temporal.is_on else svt


def _svt_augment(recipe: Recipe) -> Augment:
    return Augment(mean=recipe.views.mean, std=recipe.views.std, parity=recipe.views.sampling == "code")


def _svt_clip(recipe: Recipe, backbone: Backbone) -> ClipSpec:
    """The network's frames, 32 times as many of 30 a second, centre crop."""
    views = recipe.views
    short_side = round(views.global_size * 256 / 224)
    return ClipSpec(backbone.num_frames, 32, short_side, views.global_size, views.mean, views.std)


def _svt_max_entropy(recipe: Recipe) -> float:
    return math.log(recipe.svt.out_dim)


def _svt_flow(recipe: Recipe) -> FlowLabels | None:
    return build_flow(recipe.temporal, _patch_size(recipe.model)) if recipe.temporal.flow else None


def _patch_size(model: ModelConfig) -> int:
    try:
        with torch.device("meta"):
            return int(create_model(model.name, **model.options).patch_size)  # type: ignore[arg-type]  # a backbone
    except TypeError as error:
        raise ConfigError(f"model.options do not fit {model.name}: {error}") from error


def _cpc(recipe: CPCRecipe, backbone: Backbone) -> Method:
    views = recipe.views
    options = _options(recipe.cpc)
    return CPC(backbone, context_frames=views.context_frames, pred_frames=views.pred_frames, **options)


def _cpc_augment(recipe: CPCRecipe) -> Augment:
    return Augment(mean=recipe.views.mean, std=recipe.views.std)


def _cpc_clip(recipe: CPCRecipe, backbone: Backbone) -> ClipSpec:
    """The network's frames, exactly `frame_step` apart in a video of 25 a second, as UCF-101's; centre crop."""
    views, num_frames = recipe.views, backbone.num_frames
    # A clip is spread over its window from the first frame to the last, and rates count frames of 30 a second.
    rate = ((num_frames - 1) * views.frame_step + 1) / num_frames * 30 / 25
    return ClipSpec(num_frames, rate, views.scaled_side, views.size, views.mean, views.std)


def _options(section: Any) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__dataclass_fields__}


# By what a recipe says in `method`; `config.PRETRAINING` has the classes of the recipes.
PIECES = {
    "svt": Pieces(_svt, _svt_augment, _svt_clip, _svt_max_entropy, _svt_flow),
    "cpc": Pieces(_cpc, _cpc_augment, _cpc_clip, lambda recipe: None),
}
