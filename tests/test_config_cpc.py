"""A recipe names its method, and takes the options of that method alone; CPC's show every network the same clips."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from training_runs import ROOT

from svt_zoo.config import ConfigError, CPCRecipe, FinetuneRecipe, Recipe, load_recipe, read_recipe
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.evaluation.run import choose_clip
from svt_zoo.hub.table import CPC_ResNet18_Weights
from svt_zoo.hub.weights import ClipSpec
from svt_zoo.models import create_model
from svt_zoo.options import describe
from svt_zoo.training.objectives import OBJECTIVES

CPC = ROOT / "configs" / "cpc"


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_of_the_method_it_names_and_of_svt_if_it_names_none(tmp_path: Path) -> None:
    assert load_recipe(recipe_file(tmp_path, "method: cpc\n")) == CPCRecipe()
    assert load_recipe(recipe_file(tmp_path, "method: svt\n")) == Recipe()
    assert load_recipe(recipe_file(tmp_path, ""), ["method=cpc"]) == CPCRecipe()
    with pytest.raises(ConfigError, match=r"recipe\.yaml: method must be one of svt, .*cpc.*, got 'mae'"):
        load_recipe(recipe_file(tmp_path, "method: mae\n"))


@pytest.mark.parametrize(
    ("override", "key"),
    [("svt.momentum=0.9", "svt"), ("views.global_size=96", "views.global_size"), ("cpc.center=1", "cpc.center")],
)
def test_an_option_of_another_method_is_an_unknown_key(tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key {key}"):
        load_recipe(recipe_file(tmp_path, "method: cpc\n"), [override])


def test_options_of_the_network_leave_it_the_methods_own(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, "method: cpc\n"), ["model.options.positions=true"])
    assert recipe.model.name == "cpc_resnet18"


def test_every_option_is_explained() -> None:
    text = describe(CPCRecipe)
    for key in ("views.context_frames=5", "cpc.attention=isolated", "optim.lr=0.001", "method=cpc"):
        assert key in text


def test_the_augmentation_that_was_removed_is_refused_by_name() -> None:
    path = CPC / "ucf101.yaml"
    assert load_recipe(path, ["views.augment=device"]) == load_recipe(path)
    with pytest.raises(ConfigError, match=r"views\.augment='original' was removed"):
        load_recipe(path, ["views.augment=original"])


def test_the_original_is_what_its_code_says() -> None:
    recipe = load_recipe(CPC / "ucf101_original.yaml")
    assert isinstance(recipe, CPCRecipe)
    assert (recipe.views.context_frames, recipe.views.pred_frames, recipe.views.frame_step) == (2, 3, 3)
    assert (recipe.views.jitter, recipe.views.size) == ("frame", 224)
    assert (recipe.cpc.attention, recipe.cpc.target, recipe.cpc.negatives) == ("full", "transformer", "all")
    assert (recipe.cpc.normalize, recipe.cpc.temperature) == (False, 1.0)
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("adam", 1e-3, 1e-5)
    assert (recipe.optim.epochs, recipe.data.batch_size, recipe.optim.clip_grad) == (299, 16, None)
    assert (recipe.optim.schedule, recipe.optim.milestones, recipe.optim.factor) == ("steps", (100, 200), 0.5)
    assert (recipe.model.name, recipe.run.precision) == ("cpc_resnet18", "fp32")


@pytest.mark.parametrize("name", ["ucf101_cpc", "ucf101_cpc_original"])
def test_random_weights_see_the_clips_of_trained_ones(name: str) -> None:
    recipe, trained = read_recipe(FinetuneRecipe, ROOT / "configs" / "finetune" / f"{name}.yaml"), pretrained_clip()
    network = create_model("cpc_resnet18")
    clip = choose_clip(None, recipe.clip, network)
    assert clip == choose_clip(trained, recipe.clip, network)
    own = replace(trained, num_frames=clip.num_frames, sampling_rate=clip.sampling_rate)
    assert clip == (own if name.endswith("original") else trained)
    assert not recipe.views.slow_fast  # fast clips are of another size and rate


def pretrained_clip() -> ClipSpec:
    """The clip of what configs/cpc/ucf101.yaml trains."""
    recipe = load_recipe(CPC / "ucf101.yaml")
    return OBJECTIVES["cpc"](recipe).clip(create_model("cpc_resnet18"))  # type: ignore[arg-type]


def test_every_clip_is_every_third_frame_of_videos_of_25_a_second() -> None:
    finetuned = [
        choose_clip(None, read_recipe(FinetuneRecipe, path).clip, create_model("cpc_resnet18"))
        for path in sorted((ROOT / "configs" / "finetune").glob("*cpc*.yaml"))
    ]
    rows = [CPC_ResNet18_Weights.UCF101.clip, CPC_ResNet18_Weights.UCF101_FINETUNED.clip]
    clips = [pretrained_clip(), *finetuned, *rows]
    assert [clip.num_frames for clip in clips] == [8, 8, 7, 5, 7]
    for clip in clips:
        transform = EvalTransform(**asdict(clip))
        for total in range(22, 200):  # from the window of eight frames on
            for index in (transform.clip_indices(total, fps=25), transform.clip_indices(total, fps=25, num_clips=5)):
                assert index == [index[0] + 3 * k for k in range(clip.num_frames)]


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
@pytest.mark.parametrize("size", [224, 196, 128])
def test_another_size_is_one_override_and_the_future_stays_unseen(name: str, size: int) -> None:
    recipe = load_recipe(CPC / f"{name}.yaml", [f"views.size={size}"])
    assert isinstance(recipe, CPCRecipe)
    assert recipe.views.scaled_side == round(size * 240 / 224)
    assert recipe.cpc.attention == "isolated"
    assert recipe.data.train
    assert recipe.data.val
