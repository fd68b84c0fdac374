"""Exports weights in the names of the original code, and checks the result."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import atomic
from ..hub.convert import convert, to_cpc, to_motionformer, to_svt, to_timesformer, to_xvit
from ..hub.state_dicts import from_classifier
from ..models import Backbone, Classifier, ZooModel, backbone_of
from ..models.cpc import CPCNetwork
from ..models.motionformer import Motionformer
from ..models.timesformer import TimeSformer
from ..models.xvit import XViT
from .export import ExportError


def export_original(model: ZooModel, path: str | os.PathLike[str]) -> Path:
    """Write a PyTorch file with the names and the nesting of the original code.

    A backbone of SVT has the names of SVT's released file. Other TimeSformers (classifiers of SVT too) and
    Motionformers have Facebook's names, X-ViT and CPC those of their authors. The file is kept only if it reads back
    with equal tensors.

    Raises:
        ExportError: a network without an original, or the file reads back with other tensors.
    """
    path = Path(path)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    with atomic(path) as temporary:
        torch.save(_in_original_names(model, state), temporary)
        again = convert(torch.load(temporary, weights_only=True)).state
        ours = from_classifier(state)
        if set(again) != set(ours) or not all(torch.equal(again[key], value) for key, value in ours.items()):
            raise ExportError(f"{path}: the file would read back with other tensors")
    return path


def _in_original_names(model: ZooModel, state: dict[str, Tensor]) -> dict[str, Any]:
    backbone = backbone_of(model)
    if isinstance(backbone, TimeSformer):
        is_svt = isinstance(model, Backbone) and model.meta.get("model", "").startswith("svt_")
        return to_svt(state) if is_svt else to_timesformer(state)
    if isinstance(backbone, Motionformer):
        is_epic = isinstance(model, Classifier) and model.meta.get("name") == "motionformer_vitb_epic"
        return to_motionformer(state, heads=(97, 300) if is_epic else ())
    if isinstance(backbone, XViT):
        return to_xvit(state, original=True)
    if isinstance(backbone, CPCNetwork):
        return {"state_dict": to_cpc(state)}
    raise ExportError(f"no original code has a {type(backbone).__name__}; export it as onnx")
