"""The commands of the README and the guides: each can be given, and those of docs/own_videos.md run in order."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_runs import ROOT, make_training_videos

from svt_zoo.cli import build_parser, main
from svt_zoo.config import ConfigError, CPCRecipe, FinetuneRecipe, load_any, load_recipe, read_recipe
from svt_zoo.data.views import train_views
from svt_zoo.methods.svt import view_pairs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_VIDEOS = (ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8")
SMALL = dict(re.findall(r"^\| `([\w ./]+)` \| `(.*)` \|$", OWN_VIDEOS, re.MULTILINE))
TINY_CLIP = "clip.num_frames=4 clip.sampling_rate=1 clip.resize_size=32 clip.crop_size=32"
TINY = {
    "pretrain": "views.global_size=32 views.local_size=16 svt.hidden_dim=32 svt.bottleneck_dim=16",
    "evaluate": TINY_CLIP,
    "finetune": TINY_CLIP,
    "visualize": "--img-size 32 --num-frames 4",
    "extract": "--workers 0",
}


def commands(page: str) -> Iterator[str]:
    """The `svt-zoo` lines of the page's code blocks, without comments."""
    for block in re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if re.match(r"(svt-zoo|torchrun .* -m svt_zoo) ", line))


ALL = [(page.stem, line) for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]


def recipe_of(line: str) -> Any:
    """The recipe that a command reads; None for a command without one. Unknown arguments and overrides are refused."""
    words = shlex.split(line, comments=True)
    start = next(i for i, word in enumerate(words) if word in ("svt-zoo", "svt_zoo")) + 1
    if words[start:][-1:] == ["..."]:
        words.pop()
        if len(words) == start + 1:
            return None  # `svt-zoo extract ...` shows the launcher alone
    args, overrides = build_parser().parse_known_args(words[start:])
    if not hasattr(args, "overrides"):
        assert not overrides
        return None
    load = load_recipe if args.command in ("pretrain", "preview") else load_any
    return load(args.recipe, [*args.overrides, *overrides]) if args.recipe else None


def recipes_of(page: str, command: str = "") -> list[Any]:
    """The recipes that a page's commands read."""
    return [recipe for stem, line in ALL if stem == page and command in line and (recipe := recipe_of(line))]


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_has_known_arguments_and_its_recipe_accepts_the_overrides(page: str, line: str) -> None:
    recipe = recipe_of(line)
    if page == "cpc" and " pretrain " in line:
        assert isinstance(recipe, CPCRecipe)
    if page == "svt" and " pretrain " in line:
        assert view_pairs(len(train_views(recipe.views).transforms), 2, recipe.svt.correspondences)


@pytest.mark.parametrize("page", ["cpc", "time"])
def test_no_two_trainings_of_a_page_share_a_folder(page: str) -> None:
    outputs = [recipe.run.output for command in ("pretrain", "finetune") for recipe in recipes_of(page, command)]
    assert len(outputs) > 2
    assert len(set(outputs)) == len(outputs)


def test_no_two_recipes_of_time_write_to_the_same_run_or_result() -> None:
    recipes = [read_recipe(FinetuneRecipe, path) for path in sorted((ROOT / "configs" / "time").glob("*.yaml"))]
    assert len({recipe.run.output for recipe in recipes}) == len(recipes)
    assert len({(recipe.report.name or recipe.model.name, recipe.report.dataset) for recipe in recipes}) == len(recipes)


def test_each_ablation_of_svt_is_another_recipe() -> None:
    recipes = recipes_of("svt", "data.subset=60000")
    assert len(recipes) == 10
    assert all(first != second for i, first in enumerate(recipes) for second in recipes[:i])
    assert recipes[0] == load_recipe("svt/vitb_k400", ["data.subset=60000"])


def test_a_misspelled_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="temporal_variations"):
        recipe_of("svt-zoo pretrain svt/vitb_k400 views.temporal_variations=false")


def test_the_page_of_cpc_describes_the_noise_of_its_recipe() -> None:
    recipe = load_recipe("cpc/noise")
    assert isinstance(recipe, CPCRecipe)
    candidates = recipe.data.batch_size * recipe.views.pred_frames
    assert f"among {candidates} candidates" in (ROOT / "docs" / "cpc.md").read_text(encoding="utf-8")
    assert recipe.optim.name == "adam"


def test_the_commands_of_own_videos_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        Path("videos", part).mkdir(parents=True)
        make_training_videos(Path("videos", part))
    for path in Path("videos/val").rglob("*.mp4"):  # lists that share files are refused
        path.rename(path.with_name(f"val_{path.name}"))
    shutil.copy("videos/val/a/val_v00.mp4", "new.mp4")
    lines = list(commands(OWN_VIDEOS))
    assert len(lines) == 15
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        key = " ".join(words[:2]) if words[0] == "evaluate" else words[0]
        words += [*SMALL.get(key, "").split(), *TINY.get(words[0], "").split()]
        assert main(words) == 0, line
    assert list(Path("runs/tuned/results").glob("*.json"))
    assert Path("mine.onnx").stat().st_size > 0
