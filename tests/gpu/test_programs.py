"""Whole programs on a GPU: train, kill and resume, several processes, evaluate, extract, export."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import command
from training_runs import TINY, lines_of, make_training_videos, run, start, wait_for

from svt_zoo import embed, load_model
from svt_zoo.config import load_recipe
from svt_zoo.training.run import pretrain


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """On a CPU, faster tests elsewhere check the same."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return str(request.param)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training_videos(tmp_path_factory.mktemp("videos"))


def keys(videos: Path, output: Path, device: str, *more: str) -> list[str]:
    return [f"data.train={videos}", f"run.output={output}", f"run.device={device}", "optim.epochs=3", *more]


def losses_of(output: Path) -> list[float]:
    return [line["loss"] for line in lines_of(output)]


def test_a_run_that_is_killed_continues_with_the_same_losses(videos: Path, tmp_path: Path, device: str) -> None:
    """On a GPU, sums in another order may change the last bits."""
    more = ["run.checkpoint_every_steps=2", "run.precision=fp32"]
    straight = [str(TINY), *keys(videos, tmp_path / "straight", device, *more)]
    killed = [str(TINY), *keys(videos, tmp_path / "killed", device, *more)]
    assert run(straight) == [0]
    process = start(killed)
    wait_for(5, tmp_path / "killed", process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run(killed) == [0]
    assert losses_of(tmp_path / "killed") == pytest.approx(losses_of(tmp_path / "straight"), rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(videos: Path, tmp_path: Path, device: str, precision: str) -> None:
    if device == "cpu" and precision == "fp16":
        pytest.skip("a run on a CPU refuses fp16")
    assert pretrain(load_recipe(TINY, keys(videos, tmp_path, device, f"run.precision={precision}")))
    assert all(0 < loss < 20 for loss in losses_of(tmp_path))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_of_a_group_equals_a_process_alone(videos: Path, tmp_path: Path, device: str, kind: str) -> None:
    more = ["run.precision=fp32", f"run.parallel={kind}", "model.options.drop_path_rate=0"]
    assert pretrain(load_recipe(TINY, keys(videos, tmp_path / "alone", device, *more)))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    assert pretrain(load_recipe(TINY, keys(videos, tmp_path / "group", device, *more)))  # it leaves the group
    assert losses_of(tmp_path / "group") == pytest.approx(losses_of(tmp_path / "alone"), rel=1e-3)
    weights = [load_model(tmp_path / name / "final.safetensors").state_dict() for name in ("alone", "group")]
    torch.testing.assert_close(weights[1]["pos_embed"], weights[0]["pos_embed"], rtol=1e-2, atol=1e-4)


def test_a_compiled_run_is_near_the_eager_one(videos: Path, tmp_path: Path, device: str) -> None:
    more = ["run.precision=fp32", "model.options.drop_path_rate=0"]
    for name in ("true", "false"):
        assert pretrain(load_recipe(TINY, keys(videos, tmp_path / name, device, *more, f"run.compile={name}")))
    assert losses_of(tmp_path / "true") == pytest.approx(losses_of(tmp_path / "false"), rel=1e-2)


@pytest.mark.parametrize("method", ["time", "cpc"])
def test_the_other_methods_train(videos: Path, tmp_path: Path, device: str, method: str) -> None:
    pytest.importorskip("cv2")
    name, more = ("pretrain", ["debug/cpc_tiny"]) if method == "cpc" else ("finetune", ["debug/time_tiny"])
    others = [] if method == "cpc" else [f"data.val={videos}", "data.allow_overlap=true"]
    assert command(name)([*more, *keys(videos, tmp_path, device, "optim.epochs=2", *others)]) == 0
    assert all(np.isfinite(losses_of(tmp_path)))


def test_trained_weights_are_evaluated_extracted_and_exported(videos: Path, tmp_path: Path, device: str) -> None:
    assert pretrain(load_recipe(TINY, keys(videos, tmp_path / "run", device)))
    weights = tmp_path / "run" / "final.safetensors"
    for kind in ("knn", "linear"):
        arguments = [f"debug/{kind}_tiny", f"init={weights}", f"data.train={videos}", f"data.val={videos}"]
        arguments += ["data.allow_overlap=true", f"run.device={device}", f"run.output={tmp_path / kind}"]
        assert command("evaluate")([*arguments, f"report.folder={tmp_path / 'results'}"]) == 0
    assert all(json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json"))
    table = tmp_path / "features.parquet"
    extract = [str(videos), "-o", str(table), "--model", str(weights), "--device", device, "--workers", "2"]
    assert command("extract")([*extract, "--batch-size", "4"]) == 0
    pyarrow = pytest.importorskip("pyarrow.parquet")
    rows = np.stack(pyarrow.read_table(table)["embedding"].to_numpy())
    expected = embed(videos, model=str(weights), device="cpu", dtype="float32", progress=False)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert (
        command("export")(
            ["--model", str(weights), "--format", "torch_export", "--output", str(tmp_path / "network.pt2")]
        )
        == 0
    )
