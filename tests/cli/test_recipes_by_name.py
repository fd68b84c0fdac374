"""Recipes are found by name, listed, printed and resolved."""

import contextlib
from functools import partial
from pathlib import Path

import pytest
import yaml
from commands import command

from svt_zoo.cli import main
from svt_zoo.config import (
    ConfigError,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    MultiviewRecipe,
    ProbeRecipe,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)
from svt_zoo.options import find_recipe, list_recipes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["svt/vitb_k400", "svt/vitb_k400.yaml", "configs/svt/vitb_k400.yaml"])
def test_a_recipe_is_found_by_name_wherever_the_command_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name) == load_recipe(ROOT / "configs" / "svt" / "vitb_k400.yaml")


def test_a_file_of_the_user_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svt").mkdir()
    (tmp_path / "svt" / "vitb_k400.yaml").write_text("optim: {epochs: 7}\n")
    assert load_recipe("svt/vitb_k400.yaml").optim.epochs == 7


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"svt/vit_k400: no such recipe; did you mean svt/vitb_k400, "):
        find_recipe("svt/vit_k400")


def test_the_list_names_every_recipe_but_bases(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("recipes")([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list_recipes()
    assert "svt/vitb_k400" in list_recipes()
    assert not any(name.startswith("_base_") for name in list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_a_resolved_recipe_loads_as_the_same_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = "lists=[mine.csv]" if name == "actions/probe" else "data.val=mine.csv"
    assert command("recipes")([name, change, "--dump"]) == 0
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(capsys.readouterr().out)
    assert "_BASE_" not in yaml.safe_load(dumped.read_text())
    assert load_any(dumped) == load_any(name, [change])


@pytest.mark.parametrize(("kind", "cls"), [("knn", KNNRecipe), ("linear", LinearRecipe), ("test", MultiviewRecipe)])
def test_the_kind_of_an_evaluation_chooses_its_class(kind: str, cls: type, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"kind: {kind}\n")
    assert type(load_evaluation(path)) is cls
    path.write_text("init: dino\n")
    assert type(load_evaluation(path, [f"kind={kind}"])) is cls
    assert read_recipe(cls, path).init == "dino"  # the kind is optional if the class is given


@pytest.mark.parametrize(("kind", "got"), [("", "nothing"), ("kind: nearest", "'nearest'"), ("kind: [knn]", "['knn']")])
def test_an_evaluation_without_a_known_kind_is_refused(kind: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"init: dino\n{kind}\n")
    with pytest.raises(ConfigError) as error:
        load_evaluation(path)
    assert str(error.value).endswith(f"kind must be one of knn, linear, test, got {got}; state it in the recipe")


@pytest.mark.parametrize("name", ["svt/own_videos", "cpc/ucf101", "finetune/ucf101", "linear/ucf101", "actions/probe"])
def test_a_recipe_of_another_command_is_refused_and_the_command_is_named(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    families = {"svt": "pretrain", "cpc": "pretrain", "finetune": "finetune", "linear": "evaluate", "actions": "probe"}
    own = families[name.split("/")[0]]
    commands = {one: [one, name] for one in ("pretrain", "finetune", "evaluate")}
    commands["probe"] = ["probe", "random", "list.csv", "--recipe", name]
    for other in commands.keys() - {own}:
        assert main(commands[other]) == 2
        assert capsys.readouterr().err == f"error: {name} is a recipe of svt-zoo {own}, not of svt-zoo {other}\n"


def test_every_recipe_is_one_of_a_single_command() -> None:
    for name in list_recipes():
        accepted = 0
        for load in (
            load_recipe,
            load_evaluation,
            partial(read_recipe, FinetuneRecipe),
            partial(read_recipe, ProbeRecipe),
        ):
            with contextlib.suppress(ConfigError):
                load(name)
                accepted += 1
        assert accepted == 1, name


def test_options_refuses_a_method_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("options")(["evaluate", "--method", "cpc"]) == 2
    assert capsys.readouterr().err == "error: --method=cpc applies to pretrain, got evaluate\n"


def test_options_of_one_method_leave_the_others_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("options")(["pretrain", "--method", "cpc"]) == 0
    said = capsys.readouterr().out
    assert "cpc.attention=isolated" in said
    assert "svt.out_dim" not in said
