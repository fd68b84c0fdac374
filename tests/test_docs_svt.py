"""The commands that docs/svt.md gives can be run: their tools exist, their recipes load, their overrides are known."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from test_recipes import CONFIGS, KINDS
from training_runs import ROOT

from svt_zoo.config import ConfigError, Recipe, load_recipe, read_recipe
from svt_zoo.data.build import train_views
from svt_zoo.methods.svt import view_pairs

BLOCKS = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / "svt.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if re.match(r"(python|torchrun .*) tools/", line)]


def recipe_of(command: str) -> tuple[str, object]:
    """The tool of a command, and the recipe that it would run."""
    words = shlex.split(command)
    place = next(i for i, word in enumerate(words) if word.startswith(("tools/", "examples/")))
    assert (ROOT / words[place]).is_file()
    tool, (recipe, *overrides) = Path(words[place]).stem, words[place + 1 :]
    load = partial(read_recipe, KINDS[tool]) if tool in KINDS else load_recipe
    return tool, load(ROOT / recipe, overrides)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_has_a_recipe_and_known_overrides(command: str) -> None:
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


def test_a_misspelt_override_is_noticed() -> None:
    with pytest.raises(ConfigError, match="temporal_variations"):
        recipe_of("python tools/pretrain.py configs/svt/vitb_k400.yaml views.temporal_variations=false")
