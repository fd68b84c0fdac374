"""The commands in docs/time.md run, and no two of them write to the same folder or result."""

import re

import pytest
from test_docs_svt import COMMAND, recipe_of
from training_runs import ROOT

from svt_zoo.config import FinetuneRecipe, Recipe, read_recipe

BLOCKS = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / "time.md").read_text(), re.MULTILINE | re.DOTALL)
LINES = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if re.match(COMMAND, line)]
RECIPES = sorted((ROOT / "configs" / "time").glob("*.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_has_a_recipe_and_known_overrides(command: str) -> None:
    _, recipe = recipe_of(command)
    assert isinstance(recipe, FinetuneRecipe | Recipe)
    assert recipe.run.output.startswith("runs/")


def test_no_two_recipes_write_to_the_same_run_or_result() -> None:
    recipes = [read_recipe(FinetuneRecipe, path) for path in RECIPES]
    assert len({recipe.run.output for recipe in recipes}) == len(recipes)
    named = [(recipe.report.name or recipe.model.name, recipe.report.dataset) for recipe in recipes]
    assert len(set(named)) == len(recipes)
