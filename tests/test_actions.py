"""How benchmarks/actions.py compares its numbers."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import torch
from training_runs import ROOT


@pytest.fixture(scope="module")
def actions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("actions", ROOT / "benchmarks" / "actions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(**top1: list[float]) -> dict[str, Any]:
    names = {"tiny": "thumbnail, kNN", "random": "random network, kNN", "svt": "SVT, kNN"}
    return {names[name]: {"mean": sum(values) / len(values), "top1": values} for name, values in top1.items()}


def test_better_means_better_in_every_seed(actions: ModuleType) -> None:
    verdicts = list(actions.verdicts(rows(tiny=[30.0], random=[20.0, 22.0, 24.0], svt=[25.0, 31.0, 26.0])))
    assert verdicts == [
        "SVT, kNN: not better than thumbnail, kNN (-2.7, 1 of 3).",
        "SVT, kNN: better than random network, kNN (+5.3, 3 of 3).",
    ]
    verdicts = list(actions.verdicts(rows(tiny=[26.0], svt=[25.0, 31.0, 26.0])))
    assert verdicts == ["SVT, kNN: not in every seed better than thumbnail, kNN (+1.3, 1 of 3)."]


def test_a_thumbnail_shows_colors_and_no_motion(actions: ModuleType) -> None:
    clip = torch.rand(1, 3, 5, 48, 48)
    feature = actions.Thumbnail()(clip).cls
    assert feature.shape == (1, actions.Thumbnail.embed_dim)
    assert torch.equal(actions.Thumbnail()(clip.flip(2)).cls, feature)
