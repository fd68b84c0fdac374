"""A recipe says its method, and takes the options of that method alone."""

from pathlib import Path

import pytest
from training_runs import ROOT

from svt_zoo.config import ConfigError, CPCRecipe, Recipe, describe, load_recipe

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


def test_the_original_is_what_its_code_says() -> None:
    recipe = load_recipe(CPC / "ucf101_original.yaml")
    assert isinstance(recipe, CPCRecipe)
    assert (recipe.views.context_frames, recipe.views.pred_frames, recipe.views.frame_step) == (2, 3, 3)
    assert (recipe.views.jitter, recipe.views.augment, recipe.views.size) == ("frame", "original", 224)
    assert (recipe.cpc.attention, recipe.cpc.target, recipe.cpc.negatives) == ("full", "transformer", "all")
    assert (recipe.cpc.normalize, recipe.cpc.temperature) == (False, 1.0)
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("adam", 1e-3, 1e-5)
    assert (recipe.optim.epochs, recipe.data.batch_size, recipe.optim.clip_grad) == (299, 16, None)
    assert recipe.model.name == "cpc_resnet18"


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
@pytest.mark.parametrize("size", [224, 196, 128])
def test_another_size_is_one_override_and_the_future_stays_unseen(name: str, size: int) -> None:
    recipe = load_recipe(CPC / f"{name}.yaml", [f"views.size={size}"])
    assert isinstance(recipe, CPCRecipe)
    assert recipe.views.scaled_side == round(size * 240 / 224)
    assert recipe.cpc.attention == "isolated"
    assert recipe.data.train
    assert recipe.data.val
