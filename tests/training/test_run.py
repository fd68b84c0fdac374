import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from training_runs import ROOT, TINY

from svt_zoo.cli import main
from svt_zoo.config import ConfigError, load_recipe
from svt_zoo.distributed import lock_folder
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.publish import config_of, write_weights
from svt_zoo.hub.sources import WeightsError
from svt_zoo.lock import FolderInUse
from svt_zoo.models import create_model
from svt_zoo.training.run import build_backbone, build_method, pretrain


def test_random_networks_of_one_recipe_have_one_story_and_no_paths() -> None:
    network = build_backbone(load_recipe(TINY, ["data.train=/home/me/videos", "run.output=/home/me/run"]))
    assert network.meta["model"] == "svt_vitt"
    assert network.meta["clip"]["num_frames"] == 2
    assert network.meta["recipe"]["optim"]["epochs"] == 3
    assert "/home" not in json.dumps(network.meta)


def test_networks_and_methods_are_in_eval_mode_until_the_training_starts() -> None:
    recipe = load_recipe(TINY)
    network = build_backbone(recipe)
    assert not network.training
    assert not any(module.training for module in build_method(recipe, network).modules())


def test_a_network_carries_the_licence_of_the_weights_that_it_is_made_of(tmp_path: Path) -> None:
    first = build_backbone(load_recipe(TINY))
    first.meta |= {"license": "CC BY-NC 4.0", "pretrained_on": "K400", "name": "first"}
    write_weights(tmp_path / "final.safetensors", first.state_dict(), config_of(first))
    second = build_backbone(load_recipe(TINY, [f"init={tmp_path / 'final.safetensors'}", "data.train=/home/mine.csv"]))
    assert (second.meta["license"], second.meta["derived_from"]) == ("CC BY-NC 4.0", "first")
    assert second.meta["pretrained_on"] == "K400, then mine"
    assert str(tmp_path) not in json.dumps(second.meta)


def test_a_run_starts_from_the_weights_of_a_file(tmp_path: Path) -> None:
    recipe = load_recipe(TINY)
    torch.manual_seed(5)
    first = build_backbone(recipe)
    path = tmp_path / "final.safetensors"
    write_weights(path, first.state_dict(), config_of(first))
    second = build_backbone(load_recipe(TINY, [f"init={path}"]))
    assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    method = build_method(recipe, second)
    assert_close(dict(method.backbone.state_dict()), dict(first.state_dict()), rtol=0, atol=0)


def test_an_exported_file_is_readable_by_others_and_loads_by_itself(tmp_path: Path) -> None:
    network = build_backbone(load_recipe(TINY))
    path = tmp_path / "final.safetensors"
    write_weights(path, network.state_dict(), config_of(network))
    assert path.stat().st_mode & 0o044
    loaded = load_model(path)
    assert loaded.meta["model"] == "svt_vitt"
    assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("override", "error", "told"),
    [
        ("init=dino", ConfigError, "dino"),
        (
            "init=/absent/file.pth",
            WeightsError,
            r"init=/absent/file.pth cannot be loaded.*not the paper's recipe",
        ),
        ("model.name=svt_vitz", ConfigError, "no model is named 'svt_vitz'; did you mean svt_vit"),
        ("model.options.num_heads=0", ConfigError, r"model.options do not fit svt_vitt: num_heads must be .* got 0"),
        ("model.options.depht=3", ConfigError, r"model.options do not fit svt_vitt.*depht"),
    ],
)
def test_what_cannot_be_started_is_told(override: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        build_backbone(load_recipe(TINY, [override]))


def test_the_sections_of_a_recipe_are_the_keywords_of_the_method() -> None:
    recipe = load_recipe(TINY, ["svt.student_temp=0.2", "svt.correspondences=[global_to_global]", "optim.epochs=9"])
    network = create_model(recipe.model.name, **recipe.model.options)
    method: Any = build_method(recipe, network)  # type: ignore[arg-type]
    assert (method.config.student_temp, method.config.correspondences, method.epochs) == (0.2, ("global_to_global",), 9)


def test_a_folder_that_cannot_be_created_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run.output=.*file cannot be created or written \(File exists\)"):
        pretrain(load_recipe(TINY, [f"run.output={tmp_path / 'file'}"]))
    with pytest.raises(ConfigError, match=r"run: output must be a folder, got ''; is a shell variable unset\?"):
        load_recipe(TINY, ["run.output="])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_command_in_the_folder_of_a_run_is_refused_and_touches_no_file(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"data.train={videos}", f"data.val={videos}", f"run.output={tmp_path}", "data.allow_overlap=true"]
    finetuning, knn = str(ROOT / "configs" / "debug" / "finetune_tiny.yaml"), ["knn/ucf101", "init=random"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "unfinished_7.tmp").write_bytes(b"of the run")
    with lock_folder(tmp_path):
        before = files_of(tmp_path)
        for command in (["pretrain", str(TINY)], ["finetune", finetuning], ["evaluate", *knn]):
            assert main([*command, *places]) == 2
            assert re.search(
                rf"^error: {tmp_path} is in use by process {os.getpid()} on \S+ since 20", capsys.readouterr().err
            )
        assert files_of(tmp_path) == before
    assert main(["pretrain", str(TINY), *places, "optim.epochs=1", "optim.warmup_epochs=0"]) == 0


def test_a_run_on_another_machine_holds_its_folder_until_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    note = tmp_path / "running.json"
    note.write_text(json.dumps({"pid": 7, "host": "node3", "since": "2026-11-29 08:00:00 +0000", "machine": "other"}))
    refused = pytest.raises(FolderInUse, match=r"process 7 on node3 since 2026-11-29 .* delete running.json, or wait")
    with refused, lock_folder(tmp_path):
        pass
    os.utime(note, (time.time() - 601,) * 2)
    with lock_folder(tmp_path):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert not note.exists()


def test_a_slurm_job_that_was_queued_again_takes_its_folder_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    note = tmp_path / "running.json"
    with lock_folder(tmp_path):
        there = json.loads(note.read_text())
    note.write_text(json.dumps({**there, "machine": "other"}))
    with pytest.raises(FolderInUse), lock_folder(tmp_path):  # another step of the same job
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with lock_folder(tmp_path):
        assert json.loads(note.read_text())["restarts"] == 1


def test_a_start_that_fails_leaves_no_folder(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    places = [f"data.train={tmp_path / 'missing'}", f"run.output={output}"]
    assert main(["pretrain", str(TINY), *places]) == 2
    assert not output.exists()
    output.mkdir()
    assert main(["pretrain", str(TINY), *places]) == 2
    assert output.exists()  # it is the user's
