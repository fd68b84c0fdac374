"""Processes that train together, on a CPU with gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from training_runs import ROOT, TINY, lines_of, lines_so_far, run, start_group, wait_for

from svt_zoo.hub.loading import load_model
from svt_zoo.training.checkpoint import load_newest
from svt_zoo.training.parallel import full_state

NUMBERS = ["loss", "grad_norm", "teacher_temp", "momentum", "lr"]


def command(videos: Path, output: Path, *more: str) -> list[str]:
    """Drop path is off, so that two half batches differ from the full batch only by rounding."""
    keys = ["model.options.drop_path_rate=0", "svt.momentum=0.9", "run.knn_every_epochs=3", *more]
    keys += [f"data.val={videos}", "data.allow_overlap=true"]
    return [str(TINY), f"data.train={videos}", f"run.output={output}", *keys]


@pytest.fixture(scope="module")
def one(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with batches of four."""
    output = tmp_path_factory.mktemp("one")
    assert run(command(videos, output, "data.batch_size=4")) == [0]
    return output


def assert_like(output: Path, other: Path) -> None:
    """Equal up to rounding: numbers of each step, and everything that the last checkpoint holds of the networks."""
    for line, twin in zip(lines_of(output), lines_of(other), strict=True):
        assert [line[name] for name in NUMBERS] == pytest.approx([twin[name] for name in NUMBERS], rel=1e-3)
    assert lines_of(output)[-1]["knn_top1"] == pytest.approx(lines_of(other)[-1]["knn_top1"], abs=12)  # 2 of 18 videos
    found, expected = load_newest(output / "checkpoints"), load_newest(other / "checkpoints")
    assert found is not None
    assert expected is not None
    for name, value in found.payload["method"].items():
        if not name.endswith("qkv.bias"):  # the keys' have no gradient, and Adam makes steps of its rounding
            assert_close(
                value, expected.payload["method"][name], rtol=1e-3, atol=3e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    networks = [load_model(folder / "final.safetensors").state_dict() for folder in (output, other)]
    assert_close(networks[0]["pos_embed"], networks[1]["pos_embed"], rtol=1e-3, atol=3e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_of_the_same_global_batch(videos: Path, one: Path, tmp_path: Path, kind: str) -> None:
    assert run(command(videos, tmp_path, "data.batch_size=2", f"run.parallel={kind}"), world_size=2) == [0, 0]
    assert_like(tmp_path, one)


def test_a_signal_to_one_process_stops_all_and_a_sharded_run_goes_on_whole(
    videos: Path, one: Path, tmp_path: Path
) -> None:
    both = command(videos, tmp_path, "data.batch_size=2", "run.parallel=fsdp")
    group = start_group(both, 2)
    wait_for(5, tmp_path, group[0])
    os.kill(group[1].pid or 0, signal.SIGTERM)
    for process in group:
        process.join()
    assert [process.exitcode for process in group] == [75, 75]
    assert 5 <= lines_so_far(tmp_path) < 12
    # One process does the rest of the run: the checkpoint holds full tensors.
    assert run(command(videos, tmp_path, "data.batch_size=4")) == [0]
    assert_like(tmp_path, one)


@pytest.mark.slow
def test_torchrun_restarts_a_group_of_which_a_process_was_killed(videos: Path, one: Path, tmp_path: Path) -> None:
    arguments = command(videos, tmp_path, "data.batch_size=2", "run.checkpoint_every_steps=2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2"]
    group = subprocess.Popen([*torchrun, str(ROOT / "tools" / "pretrain.py"), *arguments])
    while lines_so_far(tmp_path) < 5 and group.poll() is None:
        time.sleep(0.02)
    children = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert group.wait() == 0
    assert_like(tmp_path, one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_group_that_is_stopped_equals_one_that_is_not_bit_for_bit(videos: Path, tmp_path: Path, kind: str) -> None:
    def both(name: str) -> list[str]:
        keys = ["data.batch_size=2", f"run.parallel={kind}", "model.options.drop_path_rate=0.2"]
        return command(videos, tmp_path / name, *keys)

    assert run(both("straight"), world_size=2) == [0, 0]
    group = start_group(both("stopped"), 2)
    wait_for(6, tmp_path / "stopped", group[0])
    for process in group:
        os.kill(process.pid or 0, signal.SIGUSR1)
    for process in group:
        process.join()
    assert [process.exitcode for process in group] == [75, 75]
    assert run(both("stopped"), world_size=2) == [0, 0]
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "straight")
    ends = [load_newest(tmp_path / name / "checkpoints") for name in ("stopped", "straight")]
    states = [end.payload["method"] for end in ends if end is not None]
    assert_close(states[0], states[1], rtol=0, atol=0)


def test_a_whole_state_does_not_change_with_the_network() -> None:
    weight = torch.ones(3)
    state = full_state({"weight": weight, "nested": [{"step": weight, "lr": 0.1}]})
    weight.zero_()
    assert_close(state["weight"], torch.ones(3))
    assert_close(state["nested"][0]["step"], torch.ones(3))
