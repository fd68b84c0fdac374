"""The table of pre-training methods: everything in which their runs differ."""

import math
from collections.abc import Callable
from typing import Any

from ..config import CPCRecipe, Recipe
from ..data.augment import Augment
from ..data.flow import FlowLabels
from ..hub.initial import build_on_meta
from ..hub.weights import ClipSpec
from ..methods import CPC, SVT, Method, SVTTemporal
from ..methods.temporal import TemporalConfig
from ..models import Backbone
from ..options import ConfigError


class SVTObjective:
    """SVT's pre-training, with the temporal terms that a recipe adds.

    Attributes:
        max_entropy: largest entropy of the targets in nats; None for a method without such targets.
        augment: augmentation of the views on the device.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, views = recipe, recipe.views
        self.max_entropy: float | None = math.log(recipe.svt.out_dim)
        self.augment = Augment(mean=views.mean, std=views.std, parity=views.sampling == "code")

    def method(self, backbone: Backbone) -> Method:
        """The method around a backbone."""
        svt = SVT(backbone, self.recipe.svt, epochs=self.recipe.optim.epochs)
        return SVTTemporal(svt, self.recipe.temporal) if self.recipe.temporal.is_on else svt

    def clip(self, backbone: Backbone) -> ClipSpec:
        """The clip on which the trained network is evaluated.

        It has the network's number of frames, 32 frames apart in a video of 30 per second, and a center crop.
        """
        views = self.recipe.views
        short_side = round(views.global_size * 256 / 224)
        return ClipSpec(backbone.num_frames, 32, short_side, views.global_size, views.mean, views.std)

    def flow(self) -> FlowLabels | None:
        """The maker of flow labels of the first view; None without a flow loss."""
        if not self.recipe.temporal.flow:
            return None
        model = self.recipe.model
        return build_flow(self.recipe.temporal, build_on_meta(model.name, model.options).patch_size)


class CPCObjective:
    """CPC's pre-training; as `SVTObjective`."""

    max_entropy: float | None = None

    def __init__(self, recipe: CPCRecipe) -> None:
        self.recipe = recipe
        self.augment = Augment(mean=recipe.views.mean, std=recipe.views.std)

    def method(self, backbone: Backbone) -> Method:
        """The method around a backbone."""
        views = self.recipe.views
        return CPC(backbone, self.recipe.cpc, context_frames=views.context_frames, pred_frames=views.pred_frames)

    def clip(self, backbone: Backbone) -> ClipSpec:
        """The network's frames, exactly `frame_step` apart in a video of 25 per second (UCF-101), and a center crop."""
        views, num_frames = self.recipe.views, backbone.num_frames
        # A clip covers its window from the first frame to the last, and rates are for 30 frames per second.
        rate = ((num_frames - 1) * views.frame_step + 1) / num_frames * 30 / 25
        return ClipSpec(num_frames, rate, views.scaled_side, views.size, views.mean, views.std)

    def flow(self) -> FlowLabels | None:
        """None: CPC has no flow loss."""
        return None


# By the key `method` of a recipe; `config.PRETRAINING` holds the recipe classes.
OBJECTIVES: dict[str, Callable[[Any], SVTObjective | CPCObjective]] = {"svt": SVTObjective, "cpc": CPCObjective}


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
