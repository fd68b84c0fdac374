"""The networks at full size, built on the `meta` device: parameters and multiply-adds are the originals'."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svt_zoo.models import create_model
from tools.zoo_page import cost

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


def full_size(name: str, classes: int, **options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=classes, **options).eval()


@pytest.mark.parametrize("name", ["timesformer", "motionformer", "xvit"])
def test_times_backbones_have_the_originals_parameters_and_multiply_adds(oracle: Oracle, name: str) -> None:
    record = oracle("time/full_size_time")[1]["time"][name]
    model = full_size(f"{name}_vitb", 174)
    assert sum(p.numel() for p in model.parameters()) == record["params_without_aux"]
    norms = record["gmacs_by_op"]["layer_norm"]
    assert cost(f"{name}_vitb", {}, 8, 224)[0] == pytest.approx(record["gmacs_eval_fvcore"] - norms, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "options", "unused"),
    [
        ("FB Motionformer SSv2 224_16x4 (temp_embed 8, 3-D tubelet 2)", {}, 590_592),
        ("FB Motionformer SSv2 224_32x3 (temp_embed 16)", {"num_frames": 32}, 590_592),
        ("FB Motionformer SSv2 336_16x4", {}, 590_592),
        ("FB Motionformer joint 224_16x4", {"attention": "joint"}, 590_592),
        ("FB Motionformer divided 224_16x4", {"attention": "divided"}, 590_592),
    ],
)
def test_facebooks_motionformers_have_the_originals_parameters(
    oracle: Oracle, model: str, options: dict[str, Any], unused: int
) -> None:
    record = oracle("time/full_size_time")[1]["other_models"][model]
    network = full_size("motionformer_vitb", 174, **{"num_frames": 16, "tubelet_frames": 2, **options})
    assert sum(p.numel() for p in network.parameters()) == record["params"] - unused  # its 2-D patches
