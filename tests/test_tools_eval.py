"""The tools of evaluation and fine-tuning, as they are called, and the recipes that they are given."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command

from svt_zoo.config import (
    ConfigError,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    MultiviewRecipe,
    read_recipe,
)
from svt_zoo.data.lists import read_list
from svt_zoo.evaluation.run import choose_clip, expand_repeats
from svt_zoo.hub.initial import INITIAL_WEIGHTS
from svt_zoo.hub.table import get_weights, list_weights
from svt_zoo.hub.weights import ClipSpec
from svt_zoo.methods import Classify
from svt_zoo.models import create_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
KINDS = {"knn": KNNRecipe, "linear": LinearRecipe, "finetune": FinetuneRecipe, "evaluate": MultiviewRecipe}
TOOLS = {"knn": "eval_knn", "linear": "eval_linear", "finetune": "finetune", "evaluate": "evaluate"}
RECIPES = [
    (kind, path)
    for kind in KINDS
    for path in [*sorted((CONFIGS / kind).glob("*.yaml")), CONFIGS / "debug" / f"{kind}_tiny.yaml"]
]


def tool(kind: str, *arguments: object) -> int:
    """Run a recipe of a kind in this process; returns the exit status."""
    name = "finetune" if kind == "finetune" else "evaluate"
    return command(name)([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> list[str]:
    """Two classes that differ in brightness, as `key=value`: four training videos and two others of each."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("levels")
    for split, count in (("train", 4), ("val", 2)):
        for name, level in (("dark", 40), ("light", 200)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-12, 13, (6, 36, 48, 3))
                make_video(root / split / name / f"v{i}.mp4", (level + noise).astype(np.uint8))
    return [f"data.train={root / 'train'}", f"data.val={root / 'val'}"]


def test_from_fine_tuning_to_evaluation_by_the_tools_alone(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, run = tmp_path / "results", tmp_path / "run"
    common = [*places, f"report.folder={results}", "report.dataset=levels"]
    assert tool("finetune", CONFIGS / "debug" / "finetune_tiny.yaml", *common, f"run.output={run}") == 0
    assert "fine-tuned, 3x1 views, levels test: top1" in capsys.readouterr().out
    tuned = json.loads((results / "debug-fine_tuned_3x1_views-levels-test.json").read_text())
    for kind in ("evaluate", "knn", "linear"):
        output = f"run.output={tmp_path / kind}"
        assert tool(kind, CONFIGS / "debug" / f"{kind}_tiny.yaml", *common, f"init={run}", output) == 0
    tested = json.loads((results / "debug-classifier_3x1_views-levels-test.json").read_text())
    assert tested["metrics"] == tuned["metrics"]
    assert tested["list_sha256"] == tuned["list_sha256"]
    names = {path.name for path in results.iterdir()}
    assert {"debug-knn_1_1x1_views-levels-test.json", "debug-linear_3x1_views-levels-test.json"} < names
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "final.safetensors"} <= {
        path.name for path in run.iterdir()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_arguments_give_one_line(kind: str, places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = CONFIGS / "debug" / f"{kind}_tiny.yaml"
    for arguments, message in (
        ([CONFIGS / "absent.yaml"], "no such recipe"),
        ([recipe, "data.trian=x"], "did you mean data.train?"),
        ([recipe, "run.seed=a"], "run.seed must be an integer, got 'a'"),
        ([recipe, "svt.out_dim=1"], "unknown key svt"),
        ([recipe, *places, "init=no_such_row"], "no_such_row"),
        ([recipe, *places, "init=no/such/file.pth"], "no/such/file.pth"),
        ([recipe, *places, "data.val=no/such/list.csv", "init=random"], "no"),
        ([recipe, *places, "run.device=cuda"], "torch sees no GPU"),
    ):
        if message.startswith("torch sees") and torch.cuda.is_available():
            continue
        assert tool(kind, *arguments) == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert printed.err.startswith("error: ")
        assert message in printed.err
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_written_into_the_run_and_not_into_the_pages_folder(kind: str) -> None:
    recipe = read_recipe(KINDS[kind], CONFIGS / kind / "ucf101.yaml", ["run.output=runs/mine"])
    assert recipe.report.folder == "runs/mine/results"


def test_a_folder_for_results_that_is_named_is_used() -> None:
    recipe = read_recipe(KNNRecipe, CONFIGS / "knn" / "ucf101.yaml", ["report.folder=results"])
    assert recipe.report.folder == "results"


def test_a_test_on_other_videos_has_no_splits() -> None:
    [case] = expand_repeats(read_recipe(MultiviewRecipe, CONFIGS / "evaluate" / "ucf101.yaml", ["run.output=out"]))
    assert (case.run.output, case.report.split) == ("out/split1_seed0", "test 1")
    own = ["run.output=out", "data.val=videos"]
    [case] = expand_repeats(read_recipe(MultiviewRecipe, CONFIGS / "evaluate" / "ucf101.yaml", own))
    assert (case.run.output, case.report.split) == ("out", "test")


@pytest.mark.parametrize(
    ("kind", "override", "way_out"),
    [
        ("linear", "linear.slow_fast=false", "set views=3x1"),
        ("finetune", "views.slow_fast=false", "set multiview.views=3x1"),
    ],
)
def test_fast_clips_are_not_tested_by_default_when_training_has_none(kind: str, override: str, way_out: str) -> None:
    with pytest.raises(ConfigError, match=way_out):
        read_recipe(KINDS[kind], CONFIGS / kind / "ucf101.yaml", [override])


@pytest.mark.parametrize("kind", KINDS)
def test_options_lists_what_can_be_set(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {"finetune": ["finetune"], "evaluate": ["evaluate", "--kind", "test"]}
    assert command("options")(chosen.get(kind, ["evaluate", "--kind", kind])) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("data.train=", "data.val=", "run.output=", "run.seed=", "init=", "clip."))


@pytest.mark.parametrize(("kind", "path"), RECIPES, ids=lambda value: getattr(value, "stem", value))
def test_every_recipe_loads_and_builds(kind: str, path: Path) -> None:
    header = path.read_text()
    assert all(f"\n# {word}" in header for word in ("Paper: ", "Expected result: ", "Hardware: ", "Command: "))
    command = "finetune" if kind == "finetune" else "evaluate"
    assert f"{command} {path.parent.name}/{path.stem}" in header
    for recipe in expand_repeats(read_recipe(KINDS[kind], path)):
        named = get_weights(recipe.init) if recipe.init in list_weights() else None
        with torch.device("meta"):
            network = create_model(named.model if named else recipe.model.name, **recipe.model.options)
            if isinstance(recipe, FinetuneRecipe):
                Classify(network, 101, recipe.classify)
        clip = choose_clip(named.clip if named else None, recipe.clip, network)
        assert isinstance(clip, ClipSpec)
        assert recipe.init in (*INITIAL_WEIGHTS, *list_weights(), "random") or recipe.init.startswith("runs/")
        assert "{" not in f"{recipe.data.train}{recipe.data.val}{recipe.data.where_train}"


def test_ssv2_is_never_flipped() -> None:
    linear, tuned = (read_recipe(KINDS[kind], CONFIGS / kind / "ssv2.yaml") for kind in ("linear", "finetune"))
    assert linear.linear.hflip == tuned.views.hflip == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "counts"), [("ucf101", (9537, 3783)), ("hmdb51", None)])
def test_the_official_lists_are_those_of_the_recipes(
    name: str, counts: tuple[int, int] | None, shared: Path, tmp_path: Path
) -> None:
    first = expand_repeats(read_recipe(KNNRecipe, CONFIGS / "knn" / f"{name}.yaml"))[0]
    if counts:
        folder = shared / "annotations" / name
        found = [read_list(folder / Path(file).name) for file in (first.data.train, first.data.val)]
        assert tuple(len(videos) for videos in found) == counts
        return
    (tmp_path / "wave_test_split1.txt").write_text("a_g1.avi 1\nb_g2.avi 2\nc_g3.avi 0\n")
    train, val = (read_list(tmp_path, where=where) for where in (first.data.where_train, first.data.where_val))
    assert [Path(videos.rows[0].path).name for videos in (train, val)] == ["a_g1.avi", "b_g2.avi"]


@pytest.mark.parametrize("kind", TOOLS)
def test_an_interrupt_ends_a_tool_with_a_line_and_no_traceback(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("svt_zoo.config.read_recipe", interrupted)
    monkeypatch.setattr("svt_zoo.config.load_evaluation", interrupted)
    assert tool(kind, CONFIGS / "debug" / f"{kind}_tiny.yaml") == 130
    assert capsys.readouterr().err.startswith("stopped; the same command goes on")
