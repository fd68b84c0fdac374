"""The commands in docs/cpc.md run, and its table of noise comes from its recipe."""

import re
from typing import Any

import pytest
from test_docs_svt import COMMAND, recipe_of
from training_runs import ROOT

from svt_zoo.config import CPCRecipe, load_recipe

PAGE = (ROOT / "docs" / "cpc.md").read_text()
COMMANDS = re.findall(rf"^{COMMAND}.*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_has_a_recipe_and_known_overrides(command: str) -> None:
    tool, recipe = recipe_of(command.replace(" --compare", ""))
    assert isinstance(recipe, CPCRecipe) == (tool in ("pretrain", "diagnose_leak"))


@pytest.mark.parametrize("page", ["cpc", "time"])
def test_no_two_trainings_of_a_page_share_a_folder(page: str) -> None:
    trainings = r"^(?:svt-zoo|torchrun .*-m svt_zoo) (?:pretrain|finetune) [^#\n]*"
    commands = re.findall(trainings, (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
    recipes: list[Any] = [recipe_of(command)[1] for command in commands]
    outputs = [recipe.run.output for recipe in recipes]
    assert len(outputs) > 2
    assert sorted(outputs) == sorted(set(outputs))


def test_the_page_describes_the_noise_of_the_recipe() -> None:
    recipe = load_recipe(ROOT / "configs" / "cpc" / "noise.yaml")
    assert isinstance(recipe, CPCRecipe)
    candidates = recipe.data.batch_size * recipe.views.pred_frames
    assert f"among {candidates} candidates" in PAGE
    assert recipe.optim.name == "adam"
