"""The networks and their registry: `create_model`, `list_models`, `register_model`."""

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from .base import Backbone, Classifier, ZooModel, backbone_of
from .cpc import RESNETS, CPCNetwork
from .layers import Features
from .motionformer import Motionformer
from .timesformer import timesformer
from .xvit import XViT

__all__ = [
    "OURS",
    "Backbone",
    "Classifier",
    "Features",
    "ZooModel",
    "backbone_of",
    "create_model",
    "find_builder",
    "list_models",
    "register_model",
]

_FAMILIES: dict[str, Callable[..., Backbone]] = {
    "timesformer": timesformer,
    "svt": timesformer,  # divided attention, 8 frames, drop path 0.1: the defaults (SVT section 3.1)
    "xvit": XViT,
    "motionformer": Motionformer,
}
_SIZES = {
    "vitt": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vits": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vitb": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vitl": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}


_BUILDERS: dict[str, Callable[..., Backbone]] = {
    f"{family}_{size}": partial(build, **options)
    for family, build in _FAMILIES.items()
    for size, options in _SIZES.items()
}
_BUILDERS |= {f"cpc_{resnet}": partial(CPCNetwork, resnet=resnet) for resnet in RESNETS}
_TABLES = ("pos_embed", "time_embed", "temp_embed", "st_embed")
OURS = frozenset(_BUILDERS)  # their state dicts hold all numbers that they compute with (tested)


def register_model(name: str, builder: Callable[..., Backbone] | None = None) -> Any:
    """Register your own backbone: `register_model("my_net", build)`, or as a decorator `@register_model("my_net")`.

    A builder takes keywords and returns a `Backbone`: `forward(clip: (B, C, T, H, W)) -> Features`, attributes
    `embed_dim`, `num_frames` and `patch_size`. All functions that train, evaluate or export a model of the zoo then
    accept its name.

    Raises:
        ValueError: the name is taken.
    """
    if builder is None:
        return lambda function: register_model(name, function)
    if name in _BUILDERS:
        raise ValueError(f"a model named {name!r} is registered already; choose another name")
    _BUILDERS[name] = builder
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Names of all registered models that match the glob `pattern`, sorted."""
    return sorted(name for name in _BUILDERS if fnmatchcase(name, pattern))


def find_builder(name: str) -> Callable[..., Backbone]:
    """The function that builds the model `name`.

    Raises:
        ValueError: no such model; the message names the nearest ones.
    """
    if name not in _BUILDERS:
        from ..hub.table import list_weights  # here, because the hub imports the models

        if name in list_weights():
            raise ValueError(
                f"{name!r} names trained weights, not an architecture; load them by svt_zoo.load_model({name!r})"
            )
        near = difflib.get_close_matches(name, _BUILDERS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? list_models() names all" if near else "list_models() names all"
        raise ValueError(f"no model is named {name!r}; {hint}")
    return _BUILDERS[name]


def create_model(name: str, *, num_classes: int = 0, table_std: float | None = None, **options: Any) -> ZooModel:
    """Build a registered model with random weights, in eval mode (`load_model` builds one with trained weights).

    Args:
        name: one of `list_models()`.
        num_classes: 0 gives the `Backbone` (clip -> `Features`); K > 0 a `Classifier` (clip -> logits (B, K)).
        table_std: standard deviation of the initial position tables, for a training from random weights; 0.5 fits the
            tokens, whose standard deviation is about 0.6. None is as in the papers, which start from image weights:
            0.02 for space, and no effect of time (`time_embed` and `temporal_fc` are 0).
        options: keywords of the builder, such as `img_size`, `drop_path_rate`, `attention`.

    Raises:
        ValueError: no such model (the message names the nearest ones), or a `table_std` for a network without tables.
        TypeError: the builder returned something that is not a `Backbone`.
    """
    if options.pop("pretrained", False):
        from ..hub.table import weights_for  # here, because the hub imports the models

        rows = ", ".join(weights_for(name))
        known = f"NAME being one of {rows}" if rows else f"{name!r} has none; list_weights() names all"
        raise ValueError(f"create_model builds random weights; load trained ones by svt_zoo.load_model(NAME), {known}")
    if options.pop("features_only", False):
        raise ValueError(
            "create_model has no features_only; "
            "create_model(name).forward_intermediates(clip, indices) returns the features of blocks"
        )
    backbone = find_builder(name)(**options)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"the builder of {name!r} returned a {type(backbone).__name__}; wrap it in a svt_zoo.Backbone")
    if table_std is not None:
        _scale_tables(backbone, table_std)
        options["table_std"] = table_std
    backbone.meta = {"model": name, "model_kwargs": options, "num_classes": 0}
    return (Classifier(backbone, num_classes) if num_classes else backbone).eval()


def _scale_tables(backbone: Backbone, std: float) -> None:
    """Draw position tables with `std`, and `temporal_fc` as the other linear layers."""
    tables = [p for name, p in backbone.named_parameters() if name.endswith(_TABLES)]
    if not tables or not std > 0:
        raise ValueError(f"table_std must be > 0 and needs a network with position tables, got {std}")
    for table in tables:
        nn.init.normal_(table, std=std)
    for name, parameter in backbone.named_parameters():
        if name.endswith("temporal_fc.weight"):
            nn.init.trunc_normal_(parameter, std=0.02)
