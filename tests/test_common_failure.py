"""A fault that every video shares, such as a decoder of another version, ends every kind of run with one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from commands import command
from training_runs import ROOT

from svt_zoo.config import FinetuneRecipe, KNNRecipe, LinearRecipe, MultiviewRecipe, load_recipe, read_recipe
from svt_zoo.data.check import check_videos
from svt_zoo.data.lists import VideoList, read_list
from svt_zoo.data.pool import CommonFailure
from svt_zoo.data.prepare import prepare_videos
from svt_zoo.evaluation.run import evaluate
from svt_zoo.inference.extract import extract_features
from svt_zoo.models import ZooModel, create_model
from svt_zoo.training.run import finetune, pretrain

DEBUG = ROOT / "configs" / "debug"
CLIP = {"num_frames": 2, "sampling_rate": 2, "resize_size": 36, "crop_size": 32, "mean": (0.45,) * 3, "std": (0.2,) * 3}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """Folders `train` and `val` of two classes: 34 and 2 copies of one sound video."""
    root = tmp_path_factory.mktemp("videos")
    sound = make_video(root / "sound.mp4", np.full((6, 36, 48, 3), 120, np.uint8)).read_bytes()
    for split, size in (("train", 34), ("val", 2)):
        for i in range(size):
            path = root / split / "ab"[i % 2] / f"{split}{i:02d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sound + bytes(i))
    return root


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], bool]], None]:
    """`refuse(which)`: from now on PyAV raises TypeError for the files whose name `which` accepts."""
    real = av.open

    def install(which: Callable[[str], bool]) -> None:
        def opened(file: Any, *args: Any, **options: Any) -> Any:
            name = Path(getattr(file, "name", file)).name
            if which(name):
                raise TypeError(f"open() has no argument 'mode' for {name}")
            return real(file, *args, **options)

        monkeypatch.setattr(av, "open", opened)

    return install


def network(num_classes: int = 0) -> ZooModel:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32, "num_frames": 2}
    model = create_model("svt_vitt", num_classes=num_classes, **options).eval()
    model.meta["clip"] = CLIP
    return model


def overrides(videos: Path, output: Path, *more: str) -> list[str]:
    return [f"data.train={videos / 'train'}", f"data.val={videos / 'val'}", f"run.output={output / 'run'}", *more]


def run_pretrain(videos: Path, output: Path) -> object:
    options = ["optim.epochs=1", "optim.warmup_epochs=0", "data.max_failure_fraction=1"]
    return pretrain(load_recipe(DEBUG / "svt_tiny.yaml", overrides(videos, output, *options)))


def run_finetune(videos: Path, output: Path) -> object:
    options = ["optim.epochs=1", "optim.milestones=[]", "data.max_failure_fraction=1"]
    return finetune(read_recipe(FinetuneRecipe, DEBUG / "finetune_tiny.yaml", overrides(videos, output, *options)))


def run_knn(videos: Path, output: Path) -> object:
    return evaluate(read_recipe(KNNRecipe, DEBUG / "knn_tiny.yaml", overrides(videos, output)))


def run_linear(videos: Path, output: Path) -> object:
    return evaluate(read_recipe(LinearRecipe, DEBUG / "linear_tiny.yaml", overrides(videos, output)))


def run_test(videos: Path, output: Path) -> object:
    network(num_classes=2).save_pretrained(output / "classifier")
    places = [f"data.val={videos / 'train'}", f"run.output={output / 'run'}", f"init={output / 'classifier'}"]
    return evaluate(read_recipe(MultiviewRecipe, DEBUG / "evaluate_tiny.yaml", places))


def run_extract(videos: Path, output: Path, **options: Any) -> Any:
    options = {"num_workers": 0, "device": "cpu", "batch_size": 4, **options}
    return extract_features(network(), listed(videos), output / "features.parquet", **options)


def run_check(videos: Path, output: Path) -> object:
    return check_videos(listed(videos), output / "report.csv", workers=0)


def run_prepare(videos: Path, output: Path) -> object:
    return prepare_videos(listed(videos), output / "prepared", workers=0)


def listed(videos: Path) -> VideoList:
    return read_list(videos / "train")


RUNS = [run_pretrain, run_finetune, run_knn, run_linear, run_test, run_extract, run_check, run_prepare]
ONE_BY_ONE = [run_knn, run_test, run_extract, run_check, run_prepare]  # read the list in its order


@pytest.mark.parametrize("run", RUNS)
def test_a_fault_that_all_videos_share_ends_the_run(
    run: Callable[[Path, Path], object], videos: Path, tmp_path: Path, refuse: Any
) -> None:
    refuse(lambda name: True)
    with pytest.raises(CommonFailure, match="videos fail, all for this reason: TypeError: open") as caught:
        run(videos, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("run", ONE_BY_ONE)
def test_a_good_video_after_32_equal_failures_does_not_save_the_run(
    run: Callable[[Path, Path], object], videos: Path, tmp_path: Path, refuse: Any
) -> None:
    order = [Path(row.path).name for row in listed(videos).rows]
    refuse(lambda name: name in order[:32])
    with pytest.raises(CommonFailure, match="first 32 videos fail"):
        run(videos, tmp_path)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_reads_one_of_the_first_videos_goes_on(
    run: Callable[[Path, Path], object], videos: Path, tmp_path: Path, refuse: Any
) -> None:
    order = [Path(row.path).name for row in listed(videos).rows]
    if run in (run_pretrain, run_finetune):  # which need a good video for each sample
        bad = {order[i] for i in (0, 3, 4, 9, 17, 30)}
    else:
        bad = set(order) - {order[2]}
    refuse(lambda name: name in bad)
    run(videos, tmp_path)


def test_an_exotic_error_of_one_video_does_not_end_training(videos: Path, tmp_path: Path, refuse: Any) -> None:
    refuse(lambda name: name == "train03.mp4")
    assert run_pretrain(videos, tmp_path)
    failures = (tmp_path / "run" / "failures.csv").read_text()
    assert "train03.mp4,TypeError: open() has no argument 'mode'" in failures


def test_commands_end_with_status_2_and_one_line(
    videos: Path, tmp_path: Path, refuse: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(lambda name: True)
    report, output = str(tmp_path / "report.csv"), str(tmp_path / "prepared")
    for name, arguments in (
        ("pretrain", [str(DEBUG / "svt_tiny.yaml"), *overrides(videos, tmp_path)]),
        ("check", [str(videos / "train"), "--report", report, "--workers", "0"]),
        ("prepare", [str(videos / "train"), "--output", output, "--workers", "0"]),
        ("index", [str(videos / "train"), "--workers", "0"]),
    ):
        assert command(name)(arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: the first ")


@pytest.mark.parametrize("run", [run_extract, run_knn, run_check, run_prepare])
def test_once_the_fault_is_gone_the_same_run_reads_every_video(
    run: Callable[[Path, Path], object], videos: Path, tmp_path: Path, refuse: Any
) -> None:
    refuse(lambda name: True)
    with pytest.raises(CommonFailure):
        run(videos, tmp_path)
    refuse(lambda name: False)
    done: Any = run(videos, tmp_path)
    failed = {run_extract: "failed", run_check: "bad", run_prepare: "failures"}
    found = done[0].n_missing if run is run_knn else getattr(done, failed[run])
    assert found in (0, [], ())


def test_failures_in_shards_that_are_there_already_are_read_again(videos: Path, tmp_path: Path, refuse: Any) -> None:
    refuse(lambda name: True)
    with pytest.raises(CommonFailure):
        run_extract(videos, tmp_path, shard_size=8)
    assert list((tmp_path / "features.parquet.parts").glob("shard_*.safetensors"))
    refuse(lambda name: False)
    summary = run_extract(videos, tmp_path, shard_size=8)
    assert (summary.videos, summary.failed) == (34, 0)


def test_processes_that_each_read_too_few_videos_for_the_rule_end_together(
    videos: Path, tmp_path: Path, refuse: Any
) -> None:
    refuse(lambda name: True)
    assert not run_extract(videos, tmp_path, shard_size=8, rank=0, world_size=2).complete
    with pytest.raises(CommonFailure, match="first 32 videos"):
        run_extract(videos, tmp_path, shard_size=8, rank=1, world_size=2)
    assert not (tmp_path / "features.parquet").exists()
