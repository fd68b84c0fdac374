"""The table of pre-training methods: everything in which a run differs between them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..config import ConfigError, CPCRecipe, Recipe, TemporalConfig
from ..data.augment import Augment
from ..data.flow import FlowLabels
from ..hub.weights import ClipSpec
from ..methods import CPC, SVT, Method, SVTTemporal
from ..models import Backbone, create_model


@dataclass(frozen=True)
class Objective:
    """The functions of a recipe in which pre-training methods differ.

    Attributes:
        method: the method around a backbone.
        augment: augmentation of the views on the device.
        clip: the clip on which the trained network is evaluated.
        max_entropy: largest entropy of the method's targets in nats; None if it has no such targets.
        flow: makes flow labels of the first view; None if the method does not use them.
    """

    method: Callable[[Any, Backbone], Method]
    augment: Callable[[Any], Augment]
    clip: Callable[[Any, Backbone], ClipSpec]
    max_entropy: Callable[[Any], float | None]
    flow: Callable[[Any], FlowLabels | None]


def _svt(recipe: Recipe, backbone: Backbone) -> Method:
    svt = SVT(backbone, recipe.svt, epochs=recipe.optim.epochs)
    return SVTTemporal(svt, recipe.temporal) if recipe.temporal.is_on else svt


def _svt_augment(recipe: Recipe) -> Augment:
    return Augment(mean=recipe.views.mean, std=recipe.views.std, parity=recipe.views.sampling == "code")


def _svt_clip(recipe: Recipe, backbone: Backbone) -> ClipSpec:
    """The network's number of frames, 32 frames apart in a video of 30 per second, center crop."""
    views = recipe.views
    short_side = round(views.global_size * 256 / 224)
    return ClipSpec(backbone.num_frames, 32, short_side, views.global_size, views.mean, views.std)


def _svt_flow(recipe: Recipe) -> FlowLabels | None:
    if not recipe.temporal.flow:
        return None
    try:
        with torch.device("meta"):
            network = create_model(recipe.model.name, **recipe.model.options)
    except TypeError as error:
        raise ConfigError(f"model.options do not fit {recipe.model.name}: {error}") from error
    assert isinstance(network, Backbone)
    return build_flow(recipe.temporal, network.patch_size)


def _cpc(recipe: CPCRecipe, backbone: Backbone) -> Method:
    views = recipe.views
    return CPC(backbone, recipe.cpc, context_frames=views.context_frames, pred_frames=views.pred_frames)


def _cpc_clip(recipe: CPCRecipe, backbone: Backbone) -> ClipSpec:
    """The network's number of frames, exactly `frame_step` apart in a video of 25 per second (UCF-101), center crop."""
    views, num_frames = recipe.views, backbone.num_frames
    # A clip covers its window from the first frame to the last, and rates are for 30 frames per second.
    rate = ((num_frames - 1) * views.frame_step + 1) / num_frames * 30 / 25
    return ClipSpec(num_frames, rate, views.scaled_side, views.size, views.mean, views.std)


# By the key `method` of a recipe; `config.PRETRAINING` holds the recipe classes.
OBJECTIVES = {
    "svt": Objective(
        method=_svt,
        augment=_svt_augment,
        clip=_svt_clip,
        max_entropy=lambda recipe: math.log(recipe.svt.out_dim),
        flow=_svt_flow,
    ),
    "cpc": Objective(
        method=_cpc,
        augment=lambda recipe: Augment(mean=recipe.views.mean, std=recipe.views.std),
        clip=_cpc_clip,
        max_entropy=lambda recipe: None,
        flow=lambda recipe: None,
    ),
}


def build_flow(temporal: TemporalConfig, patch_size: int) -> FlowLabels | None:
    """The maker of flow labels; None if the weight of the flow loss is 0.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if not temporal.flow:
        return None
    try:
        return FlowLabels(patch_size, rule=temporal.flow_rule, threshold=temporal.flow_threshold)
    except ImportError as error:
        raise ConfigError(f"temporal.flow={temporal.flow}: {error}, or set temporal.flow=0") from error
