import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_runs import TINY, lines_of

from svt_zoo.batch import Batch
from svt_zoo.config import DataConfig, OptimConfig, Recipe, RunConfig, ViewsConfig, load_recipe
from svt_zoo.data.augment import Augment
from svt_zoo.data.datasets import training_dataset
from svt_zoo.data.loader import VideoLoader
from svt_zoo.hub.loading import load_model
from svt_zoo.methods import Method
from svt_zoo.models import Backbone, Features
from svt_zoo.training.engine import NonFiniteLoss, Trainer
from svt_zoo.training.run import pretrain

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Mean(Backbone):
    """The mean color of a clip, times a weight."""

    embed_dim, num_frames, patch_size = 3, 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, clip: Tensor) -> Features:
        patches = (clip.mean(dim=(3, 4)) * self.weight[:, None]).transpose(1, 2).unsqueeze(2)  # (B, T, 1, D)
        return Features(patches.mean(dim=(1, 2)), patches)


class Recorder(Method):
    """Pulls features towards 1, and writes down when it was called."""

    def __init__(self, spoil: int | None = None) -> None:
        super().__init__()
        self.backbone = Mean()
        self.calls: list[tuple[str, float]] = []
        self.spoil = spoil

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        self.calls.append(("forward", epoch))
        loss = (self.backbone(batch.views[0]).cls - 1).square().mean()
        if self.spoil is not None and self.spoil in batch.video_index:
            loss = loss * torch.nan
        return {"near": loss, "far": 0.5 * loss}

    def before_step(self, epoch: float) -> None:
        assert self.backbone.weight.grad is not None
        self.calls.append(("before", epoch))

    def after_step(self, epoch: float) -> None:
        self.calls.append(("after", epoch))

    def metrics(self) -> dict[str, float | Tensor]:
        return {"cheap": 1.0, "dear": torch.tensor(2.0)}


def loader_of(videos: Path, batch_size: int, output: Path) -> VideoLoader:
    views = ViewsConfig(global_frames=(2, 2), local_frames=(), global_size=16)
    return VideoLoader(training_dataset(DataConfig(train=str(videos)), views), batch_size=batch_size, output_dir=output)


def trainer(videos: Path, output: Path, method: Method, *, batch_size: int = 4, **options: Any) -> Trainer:
    optim = OptimConfig(**{"epochs": 2, "warmup_epochs": 1, "lr": 0.5, **options.pop("optim", {})})
    run = RunConfig(output=str(output), device="cpu", **options.pop("run", {}))
    recipe = Recipe(optim=optim, run=run)
    return Trainer(method, loader_of(videos, batch_size, output), Augment(), recipe, device=CPU, **options)


def test_a_step_is_forward_before_after_by_one_clock(videos: Path, tmp_path: Path) -> None:
    method = Recorder()
    assert trainer(videos, tmp_path, method, optim={"accumulation": 2}).fit()
    epochs = [0.0, 0.5, 1.0, 1.5]  # 18 videos are 4 batches are 2 steps an epoch
    assert method.calls == [(name, epoch) for epoch in epochs for name in ("forward", "forward", "before", "after")]


def test_each_step_tells_its_numbers_and_dear_ones_at_times(videos: Path, tmp_path: Path) -> None:
    trainer(videos, tmp_path, Recorder(), run={"monitor_every_steps": 3}).fit()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["epoch"] for line in lines] == [step / 4 for step in range(1, 9)]
    assert [line["step"] for line in lines if "dear" in line] == [3, 6, 8]
    assert all(line["cheap"] == 1.0 and line["grad_norm"] > 0 for line in lines)
    for line in lines:
        assert line["loss"] == pytest.approx(line["near"] + line["far"])


def test_the_learning_rate_warms_up_to_that_of_the_batch_and_decay_grows(videos: Path, tmp_path: Path) -> None:
    run = trainer(videos, tmp_path, Recorder(), optim={"lr": 5e-4, "epochs": 20, "warmup_epochs": 5})
    rates = [run.hyperparameters(step)[0] for step in range(run.total_steps)]
    assert rates[0] == 0
    assert max(rates) == rates[19] == rates[20] == pytest.approx(5e-4 * 4 / 256)
    decays = [run.hyperparameters(step)[1] for step in range(run.total_steps)]
    assert decays[0] == pytest.approx(0.04)
    assert decays[-1] == pytest.approx(0.1, rel=1e-3)


def test_out_of_memory_is_one_line_with_the_batch_its_views_and_what_to_lower(videos: Path, tmp_path: Path) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of ...")

    method = Recorder()
    method.forward = full  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer(videos, tmp_path, method).fit()
    assert str(caught.value) == (
        "out of GPU memory with 4 videos of views 2x16x16, 2x16x16 (frames x pixels): halve data.batch_size and double "
        "optim.accumulation, or set model.options.grad_checkpointing=mlp or true; the same command then continues the "
        "run (CUDA out of memory. Tried to allocate 2.00 GiB)"
    )


def test_two_accumulated_batches_equal_one_of_double_size(videos: Path, tmp_path: Path) -> None:
    finals = []
    for size, accumulation in ((4, 1), (2, 2)):
        output = tmp_path / str(size)
        keys = [f"data.train={videos}", f"run.output={output}", f"data.batch_size={size}", "svt.momentum=0.5"]
        keys += [
            f"optim.accumulation={accumulation}",
            "model.options.drop_path_rate=0",
            "optim.name=sgd",
            "svt.freeze_last_layer=0",
        ]
        assert pretrain(load_recipe(TINY, keys))
        finals.append(load_model(output / "final.safetensors").state_dict())
    assert_close(finals[0], finals[1], rtol=1e-5, atol=1e-6)
    one, two = (lines_of(tmp_path / size) for size in ("4", "2"))
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_videos(videos: Path, tmp_path: Path) -> None:
    run = trainer(videos, tmp_path, Recorder(spoil=5))
    with pytest.raises(NonFiniteLoss, match=r"loss is nan.*nonfinite.json lists the videos.*lower optim.lr"):
        run.fit()
    told = json.loads((tmp_path / "nonfinite.json").read_text())
    assert told["step"] == run.step + 1
    (process,) = told["processes"]
    assert len(process["videos"]) == 4
    assert any(Path(path).name == "v11.mp4" or Path(path).name == "v10.mp4" for path in process["videos"])
    assert process["losses"]["near"] == "nan"
    assert torch.isfinite(run.method.backbone.get_parameter("weight")).all()


class Runaway(Recorder):
    """A loss without an end: its weight grows by the learning rate in each step, and beyond 3.5 the loss is NaN."""

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        weight = self.backbone.get_parameter("weight")
        return {"far": torch.where(weight > 3.5, torch.nan, -weight).mean()}


def test_a_run_whose_loss_was_not_finite_goes_on_with_a_lower_learning_rate(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def attempt(lr: float) -> Trainer:
        optim = {"lr": lr, "scale_lr": False, "epochs": 3, "weight_decay": 0.0, "weight_decay_end": 0.0}
        return trainer(videos, tmp_path, Runaway(), optim=optim)

    for _ in range(2):  # without a change it ends again where it did
        with pytest.raises(NonFiniteLoss, match="step 6: the loss is nan"):
            attempt(1.0).fit()
    saved = attempt(1.0).hyperparameters(3)[0]
    rescued = attempt(0.01)
    assert rescued.fit()
    rates = [line["lr"] for line in lines_of(tmp_path)]
    assert len(rates) == 12
    assert rates[3] == saved == 1.0
    assert rates[4:] == [rescued.hyperparameters(step)[0] for step in range(4, 12)]
    assert max(rates[4:]) == 0.01
    assert "optim.lr (was 1.0, is 0.01)" in caplog.text


def test_a_video_that_changed_since_the_checkpoint_is_named(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    changed = sorted(copy.rglob("*.mp4"))[3]
    for size in (0, 7):
        with open(changed, "ab") as file:
            file.write(bytes(size))
        assert trainer(copy, tmp_path / "run", Recorder()).fit()
    assert f"1 of 18 videos have another size than when the run was saved, such as {changed};" in caplog.text


def test_a_run_that_turns_to_fp16_starts_with_a_new_scaler(videos: Path, tmp_path: Path) -> None:
    assert trainer(videos, tmp_path, Recorder()).fit()
    again = trainer(videos, tmp_path, Recorder())
    again.state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    again.state.resume()
    assert again.step == again.total_steps
    assert again.state.scaler.get_scale() == 8.0


def test_too_few_videos_for_a_step_are_an_error(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 batches, too few for one step of optim.accumulation=5"):
        trainer(videos, tmp_path, Recorder(), optim={"accumulation": 5})


def test_evaluation_comes_every_n_epochs_and_at_the_end(videos: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    def evaluate(backbone: nn.Module) -> dict[str, float]:
        seen.append(backbone.training)
        return {"knn_top1": 50.0}

    trainer(videos, tmp_path, Recorder(), evaluate=evaluate, run={"knn_every_epochs": 2}, optim={"epochs": 3}).fit()
    assert [line["step"] for line in lines_of(tmp_path) if "knn_top1" in line] == [8, 12]
    assert seen == [False, False]


def test_training_goes_on_in_training_mode_behind_an_evaluation(videos: Path, tmp_path: Path) -> None:
    method = Recorder()
    trainer(videos, tmp_path, method, evaluate=lambda _: {}, run={"knn_every_epochs": 1}).fit()
    assert method.backbone.training


@pytest.mark.parametrize("number", [7, 9])
def test_a_checkpoint_of_another_number_of_videos_a_step_is_refused(videos: Path, tmp_path: Path, number: int) -> None:
    trainer(videos, tmp_path, Recorder()).fit()
    told = rf"4 videos per step, this run has {number}; set data.batch_size or optim.accumulation"
    with pytest.raises(RuntimeError, match=told):
        trainer(videos, tmp_path, Recorder(), batch_size=number).fit()


def test_half_precision_trains_too(videos: Path, tmp_path: Path) -> None:
    keys = [f"data.train={videos}", f"run.output={tmp_path}", "run.precision=bf16", "optim.epochs=1"]
    assert pretrain(load_recipe(TINY, keys))
    assert all(0 < line["loss"] < 20 for line in lines_of(tmp_path))


def test_a_run_folder_tells_the_whole_story(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = [f"data.train={videos}", f"data.val={videos}", "data.allow_overlap=true", "run.knn_every_epochs=1"]
    recipe = load_recipe(TINY, [*keys, f"run.output={tmp_path}", "optim.epochs=1"])
    assert pretrain(recipe)
    there = {path.name for path in tmp_path.iterdir() if path.name != ".running.lock"}
    assert there == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "curves.png",
        "final.safetensors",
    }
    assert load_recipe(tmp_path / "config.yaml") == recipe
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert torch.__version__.startswith(start["versions"]["torch"])
    assert 0 <= lines_of(tmp_path)[-1]["knn_top1"] <= 100
    network = load_model(tmp_path / "final.safetensors")
    assert network.meta["model"] == "svt_vitt"
    assert network.meta["clip"]["crop_size"] == 32
    assert "/" not in json.dumps(network.meta["recipe"])  # no path of this machine


def test_compiled_networks_train(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Callable[..., Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    method = Recorder()
    trainer(videos, tmp_path, method, run={"compile": True})
    assert compiled == [method.backbone]
