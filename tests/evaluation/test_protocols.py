"""Complete evaluations from a recipe: correct for known answers, and missing videos are reported."""

import csv
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch.testing import assert_close

from svt_zoo.config import (
    ClipConfig,
    ConfigError,
    DataConfig,
    EvaluationRunConfig,
    KNNConfig,
    KNNRecipe,
    LinearConfig,
    LinearRecipe,
    ModelConfig,
    MultiviewConfig,
    MultiviewRecipe,
    RepeatConfig,
    ReportConfig,
)
from svt_zoo.data.lists import read_list
from svt_zoo.evaluation.metrics import wilson_interval
from svt_zoo.evaluation.results import read_results
from svt_zoo.evaluation.run import (
    choose_clip,
    describe_result,
    evaluate,
    expand_repeats,
    load_network,
    name_of,
)
from svt_zoo.hub.weights import ClipSpec
from svt_zoo.models import Classifier, create_model

SMALL = {"img_size": 32, "patch_size": 16, "num_frames": 2, "embed_dim": 24, "depth": 1, "num_heads": 2}
LEVELS = {"dark": 40, "grey": 120, "light": 200}  # the class of a video is its gray level


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> dict[str, Path]:
    """Folders `train` and `val` of three classes, four and two videos each."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("levels")
    for split, count in (("train", 4), ("val", 2)):
        for name, level in LEVELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-12, 13, (6, 36, 48, 3))
                make_video(root / split / name / f"v{i}.mp4", (level + noise).astype(np.uint8))
    return {"train": root / "train", "val": root / "val"}


@pytest.fixture
def common(lists: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Common settings of the recipes of a test."""
    return {
        "init": "random",
        "model": ModelConfig("svt_vitt", SMALL),
        "data": DataConfig(train=str(lists["train"]), val=str(lists["val"]), batch_size=4, num_workers=0),
        "clip": ClipConfig(sampling_rate=1, resize_size=36),
        "report": ReportConfig(dataset="levels", folder=str(tmp_path / "results")),
        "run": EvaluationRunConfig(output=str(tmp_path / "run"), device="cpu"),
    }


KNN = KNNConfig(ks=(3,))
LINEAR = LinearConfig(lrs=(0.5,), clips=2, slow_fast=False, views="3x1", standardize=True)


def test_nearest_neighbors_find_classes_that_differ_in_brightness(common: dict[str, Any], tmp_path: Path) -> None:
    [result] = evaluate(KNNRecipe(**common, knn=KNN))
    assert result.metrics["top1"] == 100
    assert (result.n, result.n_missing, result.protocol) == (6, 0, "knn 3, 1x1 views")
    [file] = (tmp_path / "results").iterdir()
    assert read_results(file) == [result]
    assert result.list_sha256 == read_list(common["data"].val).sha256
    assert result.recipe["model"]["options"] == SMALL
    assert result.command
    assert result.versions["torch"]


def test_predictions_and_a_picture_of_the_confusion_are_written(common: dict[str, Any], tmp_path: Path) -> None:
    evaluate(KNNRecipe(**common, knn=KNN))
    rows = pyarrow.parquet.read_table(tmp_path / "run" / "predictions_knn_3_1x1_views.parquet").to_pylist()
    assert [(Path(row["file"]).parent.name, row["top1_class"]) for row in rows] == [
        (name, name) for name in LEVELS for _ in range(2)
    ]
    assert (tmp_path / "run" / "confusion_knn_3_1x1_views.png").read_bytes().startswith(b"\x89PNG")


def test_a_probe_finds_classes_that_differ_in_brightness(common: dict[str, Any]) -> None:
    [result] = evaluate(LinearRecipe(**common, linear=LINEAR))
    assert result.metrics["top1"] == 100
    [case] = result.recipe["cases"]
    assert (case["lr"], case["train_n"], case["train_n_missing"]) == (0.5, 12, 0)


def test_evaluation_labels_that_are_all_wrong_give_nothing(
    common: dict[str, Any], lists: dict[str, Path], tmp_path: Path
) -> None:
    val = read_list(lists["val"])
    rows = tuple(dataclasses.replace(row, label=((row.label or 0) + 1) % 3) for row in val.rows)
    dataclasses.replace(val, rows=rows).save(tmp_path / "val.csv")
    data = dataclasses.replace(common["data"], val=str(tmp_path / "val.csv"))
    [nearest] = evaluate(KNNRecipe(**{**common, "data": data}, knn=KNN))
    assert nearest.metrics["top1"] == 0
    run = dataclasses.replace(common["run"], output=str(tmp_path / "linear"))
    [probe] = evaluate(LinearRecipe(**{**common, "data": data, "run": run}, linear=LINEAR))
    assert probe.metrics["top1"] == 0


def test_slow_and_fast_clips_are_evaluated_together(common: dict[str, Any]) -> None:
    linear = dataclasses.replace(LINEAR, clips=1, slow_fast=True, views="slow-fast 1x1", pool="sum")
    [result] = evaluate(LinearRecipe(**common, linear=linear))
    assert result.protocol == "linear, slow-fast 1x1 views"
    assert result.metrics["top1"] == 100


def test_a_missing_video_is_reported_and_not_replaced(
    common: dict[str, Any], lists: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in lists:
        videos = read_list(lists[split])
        (tmp_path / f"{split}.mp4").write_bytes(b"no video")
        broken = dataclasses.replace(videos.rows[0], path=str(tmp_path / f"{split}.mp4"))
        dataclasses.replace(videos, rows=(broken, *videos.rows[1:])).save(tmp_path / f"{split}.csv")
    data = dataclasses.replace(common["data"], train=str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"))
    [result] = evaluate(KNNRecipe(**{**common, "data": data}, knn=KNN))
    assert (result.n, result.n_missing) == (5, 1)
    assert result.recipe["cases"][0]["train_n_missing"] == 1
    assert "5 videos, 1 missing" in describe_result(result)
    with open(tmp_path / "run" / "missing.csv", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["path", "reason"]
    assert row[0] == str(tmp_path / "val.mp4")
    assert "data.val: 1 of 6 videos cannot be read" in caplog.text


def test_training_on_evaluation_videos_is_refused(common: dict[str, Any], lists: dict[str, Path]) -> None:
    data = dataclasses.replace(common["data"], val=str(lists["train"]))
    for run in (
        lambda: evaluate(KNNRecipe(**{**common, "data": data})),
        lambda: evaluate(LinearRecipe(**{**common, "data": data})),
    ):
        with pytest.raises(ValueError, match="share 12 files or groups"):
            run()


def test_videos_without_labels_are_refused(common: dict[str, Any], lists: dict[str, Path]) -> None:
    data = dataclasses.replace(common["data"], val=str(lists["val"] / "dark"))
    with pytest.raises(ValueError, match=r"data\.val: 2 videos have no label"):
        evaluate(KNNRecipe(**{**common, "data": data}, knn=KNN))


def test_more_neighbors_than_videos_are_skipped_with_a_warning(
    common: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    results = evaluate(KNNRecipe(**common, knn=KNNConfig(ks=(1, 12, 20, 200))))
    assert [result.protocol.split(",")[0] for result in results] == ["knn 1", "knn 12"]
    assert "only 12 training videos, so there is no result for k = 20, 200" in caplog.text


def test_few_shots_are_drawn_from_each_class(common: dict[str, Any]) -> None:
    [result] = evaluate(KNNRecipe(**common, knn=KNNConfig(ks=(1, 4), shots=1)))
    assert result.protocol == "knn 1, 1-shot, 1x1 views"
    assert result.metrics["top1"] == 100


def test_seeds_and_splits_are_averaged(common: dict[str, Any], lists: dict[str, Path], tmp_path: Path) -> None:
    for split in (1, 2):
        for name in lists:
            read_list(lists[name]).save(tmp_path / f"{name}{split}.csv")
    places = {"train": f"{tmp_path}/train{{split}}.csv", "val": f"{tmp_path}/val{{split}}.csv"}
    data = dataclasses.replace(common["data"], **places)
    repeat = RepeatConfig(num_seeds=2, splits=(1, 2))
    results = evaluate(KNNRecipe(**{**common, "data": data}, knn=KNN, repeat=repeat))
    assert [result.split for result in results] == ["test 1", "test 2", "mean of test 1, test 2"]
    assert [result.n for result in results] == [6, 6, 12]
    assert all(result.metrics["top1_std"] == 0 for result in results)
    assert len(results[2].recipe["cases"]) == 4
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == [
        f"split{split}_seed{seed}" for split in (1, 2) for seed in (0, 1)
    ]
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_each_training_video_is_evaluated_in_one_of_the_folds(common: dict[str, Any], lists: dict[str, Path]) -> None:
    repeat = RepeatConfig(folds=3, num_seeds=2)
    [result] = evaluate(KNNRecipe(**common, knn=KNNConfig(ks=(1,)), repeat=repeat))
    assert (result.split, result.n) == ("3 folds", len(read_list(lists["train"])))
    assert result.metrics["top1"] == 100
    low, _ = wilson_interval(result.n, result.n)  # of all videos, not of a fold
    assert result.metrics["top1_low"] == pytest.approx(100 * low)
    assert len(result.recipe["cases"]) == 6
    with pytest.raises(ValueError, match="exclude each other"):
        RepeatConfig(folds=3, splits=(1,))


def test_splits_need_numbers_and_a_place_for_them(common: dict[str, Any]) -> None:
    own = KNNRecipe(**common, repeat=RepeatConfig(splits=(1, 2)))
    assert [case.data for case in expand_repeats(own)] == [own.data]  # lists without {split} are not changed
    data = dataclasses.replace(common["data"], train="list{split}.csv")
    with pytest.raises(ConfigError, match=r"repeat\.splits is empty; add the numbers of the splits"):
        expand_repeats(KNNRecipe(**{**common, "data": data}))


def test_results_of_validation_videos_are_named_validation(common: dict[str, Any], lists: dict[str, Path]) -> None:
    data = dataclasses.replace(common["data"], validation_fraction=0.5)
    [result] = evaluate(KNNRecipe(**{**common, "data": data}, knn=KNNConfig(ks=(1,))))
    assert result.split == "validation"
    assert result.n == len(read_list(lists["train"])) // 2


def test_the_seed_draws_random_weights_and_nothing_else_does(common: dict[str, Any]) -> None:
    run = common["run"]
    state = torch.get_rng_state()
    first, again, other = (
        load_network(KNNRecipe(**{**common, "run": dataclasses.replace(run, seed=seed)})).cls_token
        for seed in (0, 0, 1)
    )
    assert_close(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_in_the_original_format_can_be_evaluated(common: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    backbone = create_model("svt_vitt", **SMALL)
    released = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    released |= {"head.mlp.0.weight": torch.ones(4, 24), "head.last_layer.weight_g": torch.ones(8, 1)}
    torch.save(released, tmp_path / "kinetics400_vitt_ssl.pth")
    recipe = KNNRecipe(**{**common, "init": str(tmp_path / "kinetics400_vitt_ssl.pth")}, knn=KNN)
    assert_close(load_network(recipe).state_dict(), backbone.state_dict())
    [result] = evaluate(recipe)
    assert (result.name, result.metrics["top1"]) == ("kinetics400_vitt_ssl", 100)


def test_a_folder_of_weights_states_its_architecture_and_its_clip(common: dict[str, Any], tmp_path: Path) -> None:
    model = create_model("timesformer_vitt", **SMALL)
    spec = {"num_frames": 2, "sampling_rate": 3, "resize_size": 36, "crop_size": 32}
    model.meta["clip"] = {**spec, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    model.save_pretrained(tmp_path / "mine")
    recipe = KNNRecipe(**{**common, "init": str(tmp_path / "mine"), "model": ModelConfig(), "clip": ClipConfig()})
    network = load_network(recipe)
    assert network.meta["model"] == "timesformer_vitt"
    assert network.transforms().mean == (0.1, 0.2, 0.3)
    assert network.transforms().sampling_rate == 3


def test_random_weights_of_a_named_model_keep_its_architecture_and_clip(common: dict[str, Any], tmp_path: Path) -> None:
    model = create_model("timesformer_vitt", **SMALL)
    spec = {"num_frames": 2, "sampling_rate": 3, "resize_size": 36, "crop_size": 32}
    model.meta["clip"] = {**spec, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    model.save_pretrained(tmp_path / "mine")
    like = {**common, "init": f"random:{tmp_path / 'mine'}", "model": ModelConfig(), "clip": ClipConfig()}
    network = load_network(KNNRecipe(**like))
    assert network.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(network.cls_token, model.cls_token)  # type: ignore[arg-type]
    assert network.transforms().mean == (0.1, 0.2, 0.3)
    assert name_of(like["init"], "svt_vitb") == "mine untrained"


def test_a_run_logs_its_device_and_its_network(common: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        evaluate(KNNRecipe(**common, knn=KNN))
    [line] = [text for text in caplog.messages if text.startswith("kNN evaluation on cpu")]
    for part in (
        "precision float32",
        "12 training videos",
        "6 evaluation videos",
        "3 classes",
        "M parameters",
        "output",
    ):
        assert part in line


def test_a_run_that_has_not_finished_is_refused(common: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(RuntimeError, match=r"neither final\.safetensors nor model\.safetensors"):
        load_network(KNNRecipe(**{**common, "init": str(tmp_path / "unfinished")}))


def test_a_classifier_is_tested_on_all_views(common: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("svt_vitt", num_classes=3, **SMALL)
    assert isinstance(model, Classifier)
    model.meta["categories"] = list(LEVELS)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([0.0, 1.0, 0.0])  # predicts "grey" for any input
    model.save_pretrained(tmp_path / "mine")
    recipe = MultiviewRecipe(
        **{**common, "init": str(tmp_path / "mine"), "model": ModelConfig()},
        multiview=MultiviewConfig(views="3x2", pool="mean"),
    )
    [result] = evaluate(recipe)
    assert result.metrics["top1"] == pytest.approx(100 / 3)
    assert result.recipe["model"] == {"name": "svt_vitt", "options": SMALL}  # the file's, not the recipe's default
    assert (result.protocol, result.name) == ("classifier, 3x2 views", "mine")


def test_a_backbone_is_no_classifier(common: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"has no classifier; fine-tune it \(svt-zoo finetune\)"):
        evaluate(MultiviewRecipe(**common))


def test_features_are_not_computed_twice(
    common: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(KNNRecipe(**common, knn=KNN))
    monkeypatch.setattr("svt_zoo.evaluation.features.view_features", None)
    assert [result.metrics for result in evaluate(KNNRecipe(**common, knn=KNN))] == [r.metrics for r in first]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (ClipConfig(), (8, 32, 256, 224)),
        (ClipConfig(num_frames=16), (16, 16, 256, 224)),
        (ClipConfig(crop_size=112), (8, 32, 128, 112)),
        (ClipConfig(sampling_rate="segments"), (8, None, 256, 224)),
        (ClipConfig(sampling_rate=4, resize_size=224), (8, 4, 224, 224)),
    ],
)
def test_a_recipe_changes_the_clip_of_the_weights(changes: ClipConfig, expected: tuple[Any, ...]) -> None:
    spec = ClipSpec(8, 32, 256, 224, (0.1,) * 3, (0.2,) * 3)
    with torch.device("meta"):
        network = create_model("svt_vitt", **SMALL)
    clip = choose_clip(spec, changes, network)
    assert (clip.num_frames, clip.sampling_rate, clip.resize_size, clip.crop_size) == expected
    assert clip.mean == spec.mean


def test_weights_without_a_clip_get_svts(common: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = create_model("svt_vitb")
    clip = choose_clip(None, ClipConfig(), network)
    assert clip == ClipSpec(8, 32, 256, 224, (0.45,) * 3, (0.225,) * 3)


@pytest.mark.parametrize(
    ("init", "name"),
    [
        ("svt", "svt_vitb svt"),
        ("random", "svt_vitb random"),
        ("runs/a/final.safetensors", "a"),
        ("runs/a", "a"),
        ("/weights/kinetics400_vitb_ssl.pth", "kinetics400_vitb_ssl"),
        ("timesformer_vitb_k400", "timesformer_vitb_k400"),
    ],
)
def test_a_result_is_named_by_what_was_evaluated(init: str, name: str) -> None:
    assert name_of(init, "svt_vitb") == name


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (KNNConfig, {"ks": (20, 0)}, r"ks must be >= 1, got \(20, 0\)"),
        (KNNConfig, {"ks": ()}, "ks must hold one or more numbers"),
        (KNNConfig, {"temperature": 0.0}, "temperature must be > 0, got 0"),
        (KNNConfig, {"shots": 0}, "shots must be >= 1, got 0"),
        (KNNConfig, {"views": "5x1"}, "views must be .* got '5x1'"),
        (LinearConfig, {"lrs": (0.1, 0.0)}, "lrs must be > 0"),
        (LinearConfig, {"lrs": ()}, "lrs must hold one or more learning rates"),
        (LinearConfig, {"clips": 0}, "clips must be >= 1, got 0"),
        (LinearConfig, {"hflip": 2.0}, "hflip must be >= 0 and <= 1, got 2"),
        (LinearConfig, {"weight_decay": -1.0}, "weight_decay must be >= 0, got -1"),
        (MultiviewConfig, {"views": "3"}, "views must be .* got '3'"),
        (RepeatConfig, {"num_seeds": 0}, "num_seeds must be >= 1, got 0"),
        (EvaluationRunConfig, {"output": ""}, "output must name a folder, got nothing"),
        (EvaluationRunConfig, {"seed": -1}, "seed must be >= 0, got -1"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused_by_name(options: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)
