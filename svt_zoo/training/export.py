"""The network that a run was for, as one file in the zoo's own format."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..hub.publish import config_of, write_weights
from ..models import Backbone, ZooModel, create_model
from .parallel import whole


def export_model(model: ZooModel, state: Mapping[str, Tensor], path: Path) -> None:
    """Write whole weights `state` of a backbone or a classifier to a file that `svt_zoo.load_model(path)` reads.

    `model.meta` travels along: architecture, clip, origin. The file is whole or absent.
    """
    write_weights(path, state, config_of(model))


def plain_copy(backbone: Backbone, device: torch.device) -> ZooModel:
    """A network of its own with the weights of `backbone`, which may be spread over processes; all of them call it."""
    state = backbone.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return copy.deepcopy(backbone).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        plain = create_model(backbone.meta["model"], **backbone.meta["model_kwargs"])
    plain.load_state_dict(whole(state), strict=True)
    plain.meta = dict(backbone.meta)
    return plain.to(device).eval()
