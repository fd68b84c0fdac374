"""The commands in docs/svt.md run: their recipes exist and their overrides are known."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from test_recipes import CONFIGS
from training_runs import ROOT

from svt_zoo.config import (
    ConfigError,
    FinetuneRecipe,
    Recipe,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)
from svt_zoo.data.build import train_views
from svt_zoo.methods.svt import view_pairs

BLOCKS = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / "svt.md").read_text(), re.MULTILINE | re.DOTALL)
COMMAND = r"(?:svt-zoo|torchrun .*-m svt_zoo|python (?:tools|examples)/)"
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if re.match(COMMAND, line)]
TOOLS = {"pretrain": load_recipe, "finetune": partial(read_recipe, FinetuneRecipe), "evaluate": load_evaluation}


def recipe_of(command: str) -> tuple[str, object]:
    """What a command does (pretrain, finetune, evaluate, or the name of another tool), and the recipe that it reads."""
    words = shlex.split(command)
    scripts = ("tools/", "examples/")
    place = next(i for i, word in enumerate(words) if word in ("svt-zoo", "svt_zoo") or word.startswith(scripts))
    if words[place].startswith(scripts):
        assert (ROOT / words[place]).is_file()
        words.insert(place + 1, Path(words[place]).stem)
    tool, recipe, *overrides = words[place + 1 :]
    return tool, TOOLS.get(tool, load_any)(recipe, overrides)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_has_a_recipe_and_known_overrides(command: str) -> None:
    tool, recipe = recipe_of(command)
    if tool == "pretrain":
        assert isinstance(recipe, Recipe)
        assert view_pairs(len(train_views(recipe.views).transforms), 2, recipe.svt.correspondences)


def test_each_ablation_is_another_recipe() -> None:
    ablations = [command for command in COMMANDS if "data.subset=60000" in command]
    recipes = [recipe_of(command)[1] for command in ablations]
    assert len(ablations) == 10
    assert all(first != second for i, first in enumerate(recipes) for second in recipes[:i])
    full = load_recipe(CONFIGS / "svt" / "vitb_k400.yaml", ["data.subset=60000"])
    assert recipes[0] == full


def test_a_misspelled_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="temporal_variations"):
        recipe_of("svt-zoo pretrain svt/vitb_k400 views.temporal_variations=false")
