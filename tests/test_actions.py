"""The floors of benchmarks/actions.py, and what it does if its control fails."""

import argparse
import importlib.util
from types import ModuleType

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


def test_a_control_at_chance_leaves_its_set_out(
    actions: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    control = {"easy": 60.0, "hopeless": 40.0}
    monkeypatch.setattr(actions.Bench, "top1", lambda bench, network, protocol, name, seed: (control[name], 30))
    args = argparse.Namespace(sets=None, seeds=[0, 1], finetune_seeds=[0], protocols=["kNN"])
    found = list(actions.cells(args, {"easy": 3, "hopeless": 3}, actions.Bench(ROOT, {}, [])))
    assert [(row["set"], row["network"], row["seed"]) for row in found if row["network"].startswith("svt")] == [
        ("easy", name, seed) for name in ("svt", "svt+") for seed in (0, 1)
    ]
    assert "hopeless: the supervised control is at chance" in caplog.text
    table = actions.tables(found, {"easy": 3, "hopeless": 3})
    assert "| svt+ | 60.0 (42 to 75; 60.0, 60.0) |" in table


def test_a_thumbnail_shows_colors_and_no_motion(actions: ModuleType) -> None:
    clip = torch.rand(1, 3, 5, 48, 48)
    feature = actions.Thumbnail()(clip).cls
    assert feature.shape == (1, actions.Thumbnail().cls_dim)
    assert torch.equal(actions.Thumbnail()(clip.flip(2)).cls, feature)


def test_a_histogram_of_flow_tells_left_from_right(actions: ModuleType) -> None:
    frames = torch.stack(
        [torch.rand(48, 96, generator=torch.Generator().manual_seed(0)).roll(2 * t, 1) for t in range(8)]
    )
    frames = torch.nn.functional.avg_pool2d(frames[None], 5, 1, 2)[0]
    clip = frames.expand(1, 3, 8, 48, 96)
    cells = actions.FlowHistogram()(clip).cls.view(8, -1).sum(dim=1)  # (directions,)
    assert cells.argmax() == 0
    assert actions.FlowHistogram()(clip.flip(2)).cls.view(8, -1).sum(dim=1).argmax() == 4
