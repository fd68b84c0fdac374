"""Fine-tuning: it learns what can be learned, ends with a test, and goes on where it was stopped."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from training_runs import ROOT, lines_of, weights_of

from svt_zoo import load_model
from svt_zoo.config import ConfigError, FinetuneRecipe, read_recipe
from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.evaluation.results import read_results
from svt_zoo.evaluation.run import load_network
from svt_zoo.evaluation.views import fast_transform
from svt_zoo.models import Backbone, Classifier, create_model
from svt_zoo.training.checkpoint import checkpoints
from svt_zoo.training.engine import Trainer
from svt_zoo.training.run import build_classify, finetune, train_classifier

TINY = ROOT / "configs" / "debug" / "finetune_tiny.yaml"
LEVELS = {"dark": 40, "grey": 120, "light": 200}  # the class of a video is its gray level


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> dict[str, str]:
    """Folders `train` and `val` of three classes, six and two videos each."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("levels")
    for split, count in (("train", 6), ("val", 2)):
        for name, level in LEVELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-12, 13, (6, 36, 48, 3))
                make_video(root / split / name / f"v{i}.mp4", (level + noise).astype(np.uint8))
    return {"train": str(root / "train"), "val": str(root / "val")}


def recipe(lists: dict[str, str], output: Path, *more: str) -> FinetuneRecipe:
    places = [f"data.train={lists['train']}", f"data.val={lists['val']}", f"run.output={output}"]
    return read_recipe(FinetuneRecipe, TINY, [*places, f"report.folder={output}/results", *more])


@pytest.fixture(scope="module")
def straight(lists: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("straight")
    assert finetune(recipe(lists, output)) is not None
    return output


def test_fine_tuning_learns_classes_that_differ_in_brightness(straight: Path) -> None:
    [file] = (straight / "results").iterdir()
    [result] = read_results(file)
    assert result.metrics["top1"] == 100
    assert (result.n, result.n_missing, result.protocol, result.name) == (6, 0, "fine-tuned, 3x1 views", "debug")
    assert len(lines_of(straight)) == 8 * 4


def test_what_is_left_is_a_classifier_that_knows_its_classes(straight: Path) -> None:
    model = load_model(straight / "final.safetensors", num_classes=None)
    assert isinstance(model, Classifier)
    assert model.meta["categories"] == sorted(LEVELS)
    assert model.meta["clip"]["num_frames"] == 2
    assert "data" not in model.meta["recipe"]  # no path of this machine
    assert (straight / "predictions_fine_tuned_3x1_views.parquet").is_file()


def test_what_is_left_states_the_network_that_was_trained_and_not_the_one_it_started_from(
    lists: dict[str, str], tmp_path: Path
) -> None:
    case = recipe(lists, tmp_path, "clip.num_frames=4", "report.dataset=Levels", "report.name=levels_classifier")
    start = create_model("svt_vitt", **case.model.options)
    assert isinstance(start, Backbone)
    origin = {"name": "start_k400", "pretrained_on": "K400", "license": "CC BY-NC 4.0", "labels": "k400.txt"}
    start.meta |= {**origin, "clip": {"num_frames": 4}, "published": [{"value": 90}], "weights": "/home/me/start.pth"}
    method = build_classify(case, start, read_list(lists["train"]))
    meta = method.classifier.meta
    assert (meta["name"], meta["derived_from"]) == ("levels_classifier", "start_k400")
    assert (meta["pretrained_on"], meta["license"]) == ("K400, then Levels", "CC BY-NC 4.0")
    assert (meta["num_classes"], meta["categories"]) == (3, sorted(LEVELS))
    assert (meta["clip"]["num_frames"], meta["views"]) == (4, "3x1")
    assert not {"labels", "published", "weights"} & set(meta)
    assert method.classifier.backbone.meta["name"] == "levels_classifier"


def test_a_classifier_to_train_is_in_eval_mode_until_the_training_starts(lists: dict[str, str], tmp_path: Path) -> None:
    case = recipe(lists, tmp_path)
    backbone = load_network(case)
    assert not backbone.training
    assert isinstance(backbone, Backbone)
    assert not any(module.training for module in build_classify(case, backbone, read_list(lists["train"])).modules())


def test_a_run_that_goes_on_equals_the_straight_run(
    lists: dict[str, str], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recipe(lists, tmp_path / "run", "run.checkpoint_every_steps=3")
    train_step = Trainer._train_step

    def killed(self: Trainer, *arguments: Any) -> Any:
        if self.step == 7:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(case)
    assert checkpoints(tmp_path / "run" / "checkpoints")[0].name.startswith("step_000000006")
    assert finetune(case) is not None
    assert lines_of(tmp_path / "run") == lines_of(straight)
    tensors = [
        {name: value for name, value in weights_of(run).items() if name != "metadata"}
        for run in (tmp_path / "run", straight)
    ]
    assert tensors[0] == tensors[1]


def test_a_finished_run_is_only_tested_again(lists: dict[str, str], straight: Path) -> None:
    before = lines_of(straight)
    [again] = finetune(recipe(lists, straight, "report.name=again")) or ()
    assert (again.name, again.metrics["top1"]) == ("again", 100)
    assert lines_of(straight) == before


def test_slow_and_fast_clips_train_and_test_together(lists: dict[str, str], tmp_path: Path) -> None:
    more = ["views.slow_fast=true", "multiview.views=slow-fast 1x1", "optim.epochs=1", "classify.mixup=0.2"]
    [result] = finetune(recipe(lists, tmp_path / "run", *more, "data.subset=4")) or ()
    assert result.protocol == "fine-tuned, slow-fast 1x1 views"


def test_a_fine_tuned_classifier_is_a_start_for_another(lists: dict[str, str], straight: Path, tmp_path: Path) -> None:
    case = recipe(lists, tmp_path / "run", f"init={straight}", "optim.epochs=1", "optim.lr=0.0")
    assert finetune(case) is not None
    first, second = (load_model(run / "final.safetensors", num_classes=None) for run in (straight, tmp_path / "run"))
    assert isinstance(first, Classifier)
    assert isinstance(second, Classifier)
    assert_close(first.backbone.state_dict(), second.backbone.state_dict())
    assert not torch.equal(first.head.weight, second.head.weight)  # a new one


def test_several_seeds_are_several_runs_and_one_result(lists: dict[str, str], tmp_path: Path) -> None:
    more = ["repeat.num_seeds=2", "optim.epochs=1", "data.subset=4"]
    [result] = finetune(recipe(lists, tmp_path / "run", *more)) or ()
    assert "top1_std" in result.metrics
    assert [case["seed"] for case in result.recipe["cases"]] == [0, 1]
    assert result.recipe["model"]["name"] == "svt_vitt"
    assert all((tmp_path / "run" / f"seed{seed}" / "final.safetensors").is_file() for seed in (0, 1))


def test_lists_that_share_videos_or_have_no_labels_are_refused(lists: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share 18 files or groups"):
        finetune(recipe({**lists, "val": lists["train"]}, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"data\.val: 2 of 2 videos have no label"):
        finetune(recipe({**lists, "val": f"{lists['val']}/dark"}, tmp_path / "run"))


def test_a_video_with_a_frame_every_20_seconds_does_not_end_a_run(
    lists: dict[str, str], tmp_path: Path, shared: Path
) -> None:
    video = shared / "reported" / "timelapse_0.05fps.mp4"
    if not video.exists():
        pytest.skip("needs ../shared/reported")
    slow = {split: str(shutil.copytree(lists[split], tmp_path / split)) for split in ("train", "val")}
    for split in slow:
        shutil.copy(video, tmp_path / split / "dark" / f"{split}.mp4")
    more = ["optim.epochs=1", "data.max_failure_fraction=0.1", "run.knn_every_epochs=1"]
    assert finetune(recipe(slow, tmp_path / "run", *more)) is not None


def test_training_logs_on_what_it_runs(lists: dict[str, str], straight: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        finetune(recipe(lists, straight))
    [line] = [text for text in caplog.messages if text.startswith("training by Classify on cpu")]
    for part in ("precision float32", "18 videos", "3 classes", "32 steps", "8 epochs", "M parameters", str(straight)):
        assert part in line


def schedule(lists: dict[str, str], output: Path, *more: str) -> list[float]:
    """The learning rate of each step."""
    case = recipe(lists, output, "optim.name=sgd", "optim.epochs=15", "optim.lr=5e-3", "data.batch_size=9", *more)
    rates: list[float] = []

    class Dry(Trainer):
        def fit(self, started: Any = None) -> bool:
            rates.extend(self.hyperparameters(step)[0] for step in range(self.total_steps))
            return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svt_zoo.training.run.Trainer", Dry)
        train = read_list(case.data.train)
        assert not train_classifier(case, train, train, torch.device("cpu"))
    return rates


def test_the_learning_rate_is_a_tenth_from_epochs_11_and_14(lists: dict[str, str], tmp_path: Path) -> None:
    rates = schedule(lists, tmp_path, "optim.milestones=[11, 14]")
    assert rates == pytest.approx([5e-3] * 22 + [5e-4] * 6 + [5e-5] * 2)


def test_without_milestones_the_learning_rate_is_constant(lists: dict[str, str], tmp_path: Path) -> None:
    assert set(schedule(lists, tmp_path, "optim.milestones=[]")) == {5e-3}


def test_the_learning_rate_may_warm_up_and_follow_a_cosine(lists: dict[str, str], tmp_path: Path) -> None:
    rates = schedule(lists, tmp_path, "optim.warmup_epochs=2", "optim.schedule=cosine")
    assert rates[:5] == pytest.approx([0, 5e-3 / 3, 1e-2 / 3, 5e-3, 5e-3])
    assert rates[-1] < 1e-4
    assert schedule(lists, tmp_path, "optim.warmup_epochs=2")[:4] == pytest.approx(rates[:4])


def test_the_defaults_are_the_papers() -> None:
    optim = FinetuneRecipe().optim
    assert (optim.name, optim.lr, optim.momentum, optim.scale_lr) == ("sgd", 5e-3, 0.9, False)
    assert (optim.epochs, optim.milestones, optim.factor) == (15, (11, 14), 0.1)
    assert (optim.weight_decay, optim.weight_decay_end, optim.layer_decay) == (1e-4, 1e-4, 1.0)


def test_layer_decay_slows_the_first_blocks(lists: dict[str, str], tmp_path: Path) -> None:
    case = recipe(lists, tmp_path / "run", "optim.layer_decay=0.5", "optim.epochs=1", "data.subset=4")
    assert finetune(case) is not None
    checkpoint = torch.load(checkpoints(tmp_path / "run" / "checkpoints")[0], weights_only=True)
    scales = {group["lr_scale"] for group in checkpoint["optimizer"]["param_groups"]}
    assert scales == {1.0, 0.5, 0.25, 0.125}  # head and norm, two blocks, patch embedding


def test_cutmix_of_clips_of_two_sizes_is_refused(lists: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set views\.slow_fast=false"):
        recipe(lists, tmp_path, "views.slow_fast=true", "classify.cutmix=1.0")
    with pytest.raises(ConfigError, match=r"set views\.slow_fast=false"):
        recipe(lists, tmp_path, "views.slow_fast=true", "views.policy=randaugment")


def ramp(path: Path, make_video: Callable[..., Path]) -> VideoList:
    """A video that brightens with time and from left to right."""
    levels = np.arange(24, 144, dtype=np.uint8)[:, None] + np.linspace(0, 80, 128).astype(np.uint8)
    make_video(path, np.broadcast_to(levels[:, None, :, None], (120, 64, 128, 3)))
    return VideoList((Row(str(path), label=0),))


def test_a_fast_clip_has_the_window_crop_and_flip_of_the_slow_one(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    numbers = {"resize_size": 40, "crop_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    slow = EvalTransform(num_frames=4, sampling_rate=10, **numbers)
    views = FinetuneViews(slow, FinetuneViewsConfig(), fast=fast_transform(slow, num_frames=20, crop_size=16))
    dataset = VideoDataset(ramp(tmp_path / "ramp.mp4", make_video), views, train=True)
    slopes, starts = [], []
    for epoch in range(12):
        sample = dataset[epoch, 0]
        first, second = (view.float() for view in sample["video"])
        assert (first.shape, second.shape) == ((4, 32, 32, 3), (20, 16, 16, 3))
        for t in (0, -1):
            assert first[t].mean() == pytest.approx(second[t].mean().item(), abs=2.5)
        slopes.append([float(view[0, :, -1].mean() - view[0, :, 0].mean()) for view in (first, second)])
        starts.append(round(first[0].mean().item()))
        one, other = sample["params"]
        assert torch.equal(one.flip, other.flip)
    assert len(set(starts)) > 6
    assert all(a == pytest.approx(b, abs=8) for a, b in slopes)


def test_a_policy_acts_on_one_clip() -> None:
    slow = EvalTransform(num_frames=4, sampling_rate=10, resize_size=40, crop_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    options = FinetuneViewsConfig(policy="randaugment", slow_fast=False)
    with pytest.raises(ValueError, match="needs a single clip"):
        FinetuneViews(slow, options, fast=fast_transform(slow))
