"""Each method of pre-training brings its own pieces to the one loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import ROOT

from svt_zoo.config import PRETRAINING, ConfigError, CPCRecipe, load_recipe
from svt_zoo.data.datasets import training_dataset
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.hub.loading import load_model
from svt_zoo.methods import CPC
from svt_zoo.training.objectives import OBJECTIVES
from svt_zoo.training.run import build_backbone, build_method, pretrain

TINY = ROOT / "configs" / "debug" / "cpc_tiny.yaml"


def recipe(*overrides: str) -> CPCRecipe:
    found = load_recipe(TINY, overrides)
    assert isinstance(found, CPCRecipe)
    return found


def test_every_method_of_a_recipe_has_its_pieces() -> None:
    assert OBJECTIVES.keys() == PRETRAINING.keys()


def test_cpc_is_built_as_its_recipe_says() -> None:
    said = recipe("cpc.negatives=other_clips", "cpc.temperature=0.2")
    method = build_method(said, build_backbone(said))
    assert isinstance(method, CPC)
    assert (method.context_frames, method.pred_frames) == (2, 2)
    assert (method.config.negatives, method.config.temperature) == ("other_clips", 0.2)
    assert method.config.attention == "isolated"
    clip = method.backbone.meta["clip"]
    assert (clip["num_frames"], clip["sampling_rate"], clip["resize_size"], clip["crop_size"]) == (4, 1.2, 34, 32)


def test_what_a_network_cannot_do_is_an_error_of_the_recipe() -> None:
    said = recipe("model.name=svt_vitt", "model.options={img_size: 32}", "cpc.attention=frame_causal")
    with pytest.raises(ConfigError, match="cpc: attention=frame_causal, target=transformer: TimeSformer has no"):
        build_method(said, build_backbone(said))


def test_a_network_whose_cls_would_stay_untrained_is_an_error_of_the_recipe() -> None:
    said = recipe("model.name=xvit_vitt", "model.options={img_size: 32}")
    with pytest.raises(ConfigError, match=r"cpc: the cls of XViT, .* depends on consensus\.cls_token"):
        build_method(said, build_backbone(said))


@pytest.mark.parametrize("more", [[], ["temporal.flow=1"]])
def test_an_option_that_the_network_does_not_have_is_one_line(videos: Path, tmp_path: Path, more: list[str]) -> None:
    path = ROOT / "configs" / "debug" / ("svt_tiny.yaml" if more else "cpc_tiny.yaml")
    changes = ["model.name=cpc_resnet18", "model.options={attention: joint}", f"run.output={tmp_path}", *more]
    with pytest.raises(ConfigError, match=r"model\.options do not fit cpc_resnet18: .*'attention'"):
        pretrain(load_recipe(path, [f"data.train={videos}", *changes]))


@pytest.mark.parametrize("num_frames", [4, 5, 8])
@pytest.mark.parametrize("frame_step", [1, 3, 5])
def test_the_clip_that_is_evaluated_has_the_steps_of_training_in_videos_of_25_a_second(
    num_frames: int, frame_step: int
) -> None:
    said = recipe(f"views.frame_step={frame_step}", f"model.options.num_frames={num_frames}")
    clip = EvalTransform(**build_backbone(said).meta["clip"])
    for total in range((num_frames - 1) * frame_step + 1, 120):
        for number in range(5):
            for index in (clip.clip_indices(total, fps=25), clip.clip_indices(total, fps=25, clip=number, num_clips=5)):
                assert set(np.diff(index).tolist()) == {frame_step}


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
