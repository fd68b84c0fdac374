"""Each method of pre-training brings its own pieces to the one loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import ROOT

from svt_zoo.config import PRETRAINING, ConfigError, CPCRecipe, load_recipe
from svt_zoo.data.build import training_dataset
from svt_zoo.hub.loading import load_model
from svt_zoo.methods import CPC
from svt_zoo.training.build import build_backbone, build_method, pretrain
from svt_zoo.training.pieces import PIECES

TINY = ROOT / "configs" / "debug" / "cpc_tiny.yaml"


def recipe(*overrides: str) -> CPCRecipe:
    found = load_recipe(TINY, overrides)
    assert isinstance(found, CPCRecipe)
    return found


def test_every_method_of_a_recipe_has_its_pieces() -> None:
    assert PIECES.keys() == PRETRAINING.keys()


def test_cpc_is_built_as_its_recipe_says() -> None:
    said = recipe("cpc.negatives=other_clips", "cpc.temperature=0.2")
    method = build_method(said, build_backbone(said))
    assert isinstance(method, CPC)
    assert (method.context_frames, method.pred_frames) == (2, 2)
    assert (method.negatives, method.temperature, method.attention) == ("other_clips", 0.2, "isolated")
    clip = method.backbone.meta["clip"]
    assert (clip["num_frames"], clip["sampling_rate"], clip["resize_size"], clip["crop_size"]) == (4, 1, 34, 32)


def test_what_a_network_cannot_do_is_an_error_of_the_recipe() -> None:
    said = recipe("model.name=svt_vitt", "model.options={img_size: 32}", "cpc.attention=frame_causal")
    with pytest.raises(ConfigError, match="cpc: attention=frame_causal, target=transformer: TimeSformer has no"):
        build_method(said, build_backbone(said))


def test_pre_training_on_test_videos_is_refused(videos: Path) -> None:
    said = recipe(f"data.train={videos}", f"data.val={videos}")
    with pytest.raises(ValueError, match="allow_overlap"):
        training_dataset(said.data, said.views)


def test_a_run_leaves_a_network_whose_context_can_be_read(videos: Path, tmp_path: Path) -> None:
    assert pretrain(recipe(f"data.train={videos}", f"run.output={tmp_path}", "optim.epochs=1"))
    network: Any = load_model(tmp_path / "final.safetensors")
    transform = network.transforms()
    clip = transform(torch.zeros(4, 40, 50, 3, dtype=torch.uint8))
    assert network(clip[None]).cls.shape == (1, 16)
    assert network.context(clip[None]).shape == (1, 16, 1, 1)
