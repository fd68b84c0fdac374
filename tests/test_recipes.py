"""Every recipe below configs/ can be run: it loads, its header is complete, and its networks can be built."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from training_runs import ROOT, file_of, lines_of, lines_so_far, make_training_videos, run, start, wait_for

from svt_zoo.config import (
    FinetuneRecipe,
    ProbeRecipe,
    Recipe,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.views import train_views
from svt_zoo.hub.initial import INITIAL_WEIGHTS
from svt_zoo.methods import Temporal
from svt_zoo.models import Backbone, create_model
from svt_zoo.training.run import build_classify, build_method

CONFIGS = ROOT / "configs"


def command_of(path: Path) -> str:
    """The command that the header of a recipe names: pretrain, finetune or evaluate."""
    command = re.search(r"^# Command: (?:svt-zoo|torchrun .* -m svt_zoo) (\w+) ", path.read_text(), re.MULTILINE)
    return command[1] if command else ""


RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "_base_")
PRETRAINING = [path for path in RECIPES if command_of(path) == "pretrain"]
FINETUNING = [path for path in RECIPES if command_of(path) == "finetune"]
DEBUG = [path for path in PRETRAINING if path.parent.name == "debug"]


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(CONFIGS)))


@named(RECIPES)
def test_a_recipe_opens_with_paper_result_hardware_and_command(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Paper:", "Expected result:", "Hardware:", "Command:"):
        assert any(line.startswith(f"# {word}") for line in header), word
    assert any(path.relative_to(CONFIGS).with_suffix("").as_posix() in line for line in header)


@named(RECIPES)
def test_the_first_line_of_a_recipe_is_one_sentence(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert ". " not in first


@named([path for path in RECIPES if command_of(path) in ("pretrain", "finetune")])
def test_a_recipe_with_optical_flow_names_its_extra(path: Path) -> None:
    recipe = read_recipe(FinetuneRecipe, path) if command_of(path) == "finetune" else load_recipe(path)
    flow = "temporal" in vars(recipe) and recipe.temporal.flow > 0
    assert flow == ('# Needs: pip install "svt-zoo[flow]"' in path.read_text())


@named(RECIPES)
def test_a_recipe_loads_as_the_class_that_its_command_takes(path: Path) -> None:
    read = {"pretrain": load_recipe, "finetune": partial(read_recipe, FinetuneRecipe), "evaluate": load_evaluation}
    read["probe"] = partial(read_recipe, ProbeRecipe)
    assert read.get(command_of(path), load_recipe)(path) == load_any(path)


@named(PRETRAINING)
def test_the_networks_of_a_recipe_can_be_built(path: Path) -> None:
    recipe = load_recipe(path)
    with torch.device("meta"):
        backbone = create_model(recipe.model.name, **recipe.model.options)
        assert isinstance(backbone, Backbone)
        method = build_method(recipe, backbone)
    assert method.backbone.embed_dim == backbone.embed_dim
    assert len(train_views(recipe.views).transforms) >= (1 if recipe.method == "cpc" else 2)


@named(FINETUNING)
def test_the_classifier_of_a_recipe_can_be_built(path: Path) -> None:
    recipe = read_recipe(FinetuneRecipe, path)
    with torch.device("meta"):
        backbone = create_model(recipe.model.name, **recipe.model.options)
        assert isinstance(backbone, Backbone)
        backbone.meta["clip"] = None
        method = build_classify(recipe, backbone, VideoList((Row("a", label=0), Row("b", label=1))))
    assert isinstance(method, Temporal) == recipe.temporal.is_on


@pytest.mark.parametrize("data", ["k400", "ucf101"])
@pytest.mark.parametrize(
    "options", [["model.name=motionformer_vitb"], ["model.name=xvit_vitb", "model.options.dropout=0.5"]]
)
def test_time_takes_other_backbones_with_the_options_that_its_recipes_name(data: str, options: list[str]) -> None:
    path = CONFIGS / "time" / f"timesformer_{data}_time.yaml"
    recipe = read_recipe(FinetuneRecipe, path, ["init=image_supervised", *options])
    with torch.device("meta"):
        backbone = create_model(recipe.model.name, **recipe.model.options)
        assert isinstance(backbone, Backbone)
        backbone.meta["clip"] = None
        method = build_classify(recipe, backbone, VideoList((Row("a", label=0), Row("b", label=1))))
    assert isinstance(method, Temporal)
    assert INITIAL_WEIGHTS[recipe.init][backbone.embed_dim] == "imagenet_vitb16"


def test_the_defaults_are_the_papers_recipe() -> None:
    recipe, default = load_recipe(CONFIGS / "svt" / "vitb_k400.yaml"), Recipe()
    for section in ("init", "views", "svt", "optim"):
        assert getattr(recipe, section) == getattr(default, section), section


def test_by_default_blur_and_the_teachers_drop_path_are_as_in_the_code_that_trained_the_released_weights() -> None:
    recipe = load_recipe(CONFIGS / "svt" / "vitb_k400.yaml")
    assert (recipe.views.blur_and_solarize, recipe.svt.teacher_mode) == (False, "replica")


def test_the_papers_recipe_has_the_papers_numbers() -> None:
    recipe = load_recipe(CONFIGS / "svt" / "vitb_k400.yaml")
    optim, views = recipe.optim, recipe.views
    assert (recipe.init, recipe.model.name) == ("dino", "svt_vitb")
    assert (optim.epochs, optim.warmup_epochs, optim.lr) == (20, 5, 5e-4)
    assert optim.scale_lr
    assert (optim.weight_decay, optim.weight_decay_end) == (0.04, 0.1)
    assert views.global_frames == (8, 16)
    assert views.local_frames == (2, 2, 4, 4, 8, 8, 16, 16)
    assert (views.global_span, views.local_span) == (0.9, 1 / 8)
    assert views.sampling == "paper"


def test_the_codes_recipe_is_what_the_code_did() -> None:
    recipe = load_recipe(CONFIGS / "svt" / "vitb_k400_code.yaml")
    assert recipe.views.sampling == "code"
    assert not recipe.views.blur_and_solarize
    assert (recipe.optim.epochs, recipe.optim.warmup_epochs, recipe.optim.weight_decay_end) == (100, 10, 0.4)
    assert (recipe.svt.teacher_mode, recipe.init) == ("replica", "random")


def test_directions_are_kept_where_they_matter() -> None:
    assert load_recipe(CONFIGS / "svt" / "vitb_ssv2.yaml").views.hflip == 0


@named(DEBUG)
def test_a_debug_recipe_trains_stops_goes_on_and_equals_the_straight_run(path: Path, tmp_path: Path) -> None:
    videos = make_training_videos(tmp_path)

    def command(name: str) -> list[str]:
        return [str(path), f"data.train={videos}", f"run.output={tmp_path / name}"]

    assert run(command("straight")) == [0]
    process = start(command("stopped"))
    wait_for(2, tmp_path / "stopped", process)
    process.terminate()
    process.join()
    assert process.exitcode == 75
    assert lines_so_far(tmp_path / "stopped") < lines_so_far(tmp_path / "straight")
    assert run(command("stopped")) == [0]
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "straight")
    assert file_of(tmp_path / "stopped") == file_of(tmp_path / "straight")
