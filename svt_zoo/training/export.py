"""Export of a trained network to one file in the zoo's format."""

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
    """Write the full state dict of a backbone or a classifier to a file that `svt_zoo.load_model(path)` reads.

    The file contains `model.meta`: architecture, clip, origin. It is written atomically.
    """
    write_weights(path, state, config_of(model))


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
