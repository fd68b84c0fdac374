"""The small settings of docs/own_videos.md fit the recipes that the page uses them with."""

import re
from typing import Any

import pytest
from training_runs import ROOT

from svt_zoo.config import FinetuneRecipe, KNNRecipe, LinearRecipe, load_recipe, read_recipe

PAGE = (ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)\.py` \| `(.*)` \|$", PAGE, re.MULTILINE))
KINDS: dict[str, tuple[Any, str]] = {
    "eval_knn": (KNNRecipe, "knn"),
    "eval_linear": (LinearRecipe, "linear"),
    "finetune": (FinetuneRecipe, "finetune"),
}


def small(tool: str) -> Any:
    if tool == "pretrain":
        return load_recipe(ROOT / "configs" / "svt" / "own_videos.yaml", ROWS[tool].split())
    kind, folder = KINDS[tool]
    return read_recipe(kind, ROOT / "configs" / folder / "ucf101.yaml", ROWS[tool].split())


@pytest.mark.parametrize("tool", ["pretrain", *KINDS])
def test_the_small_settings_of_the_page_are_accepted(tool: str) -> None:
    assert small(tool).run.device == "cpu"


def test_without_fast_clips_the_page_tests_without_them() -> None:
    assert small("eval_linear").linear.views == "3x1"
    assert small("finetune").multiview.views == "3x1"


def test_the_network_that_the_page_names_is_that_of_its_recipe() -> None:
    assert f"model.name={load_recipe(ROOT / 'configs' / 'svt' / 'own_videos.yaml').model.name}" in PAGE
