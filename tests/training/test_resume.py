"""A run that is killed or stopped, and started again by the same command, ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training_runs import ROOT, TINY, file_of, lines_of, lines_so_far, run, start, wait_for, weights_of

STEPS = 16  # 4 epochs of 4 steps


def command(videos: Path, output: Path, *more: str) -> list[str]:
    keys = ["optim.epochs=4", "run.checkpoint_every_steps=2", "run.knn_every_epochs=2", f"data.val={videos}"]
    return [str(TINY), f"data.train={videos}", f"run.output={output}", "data.allow_overlap=true", *keys, *more]


@pytest.fixture(scope="module")
def straight(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("straight")
    assert run(command(videos, output)) == [0]
    return output


def kill_and_resume(arguments: list[str], output: Path, kills: int) -> None:
    """Kill the run `kills` times, each time shortly after a random later step, then let it end."""
    rng = np.random.default_rng(kills)
    for _ in range(kills):
        process = start(arguments)
        first = lines_so_far(output)
        wait_for(first + int(rng.integers(1, 4)), output, process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it ended before the kill came
            break
        assert process.exitcode == -signal.SIGKILL
    assert run(arguments) == [0]


def assert_same_run(output: Path, straight: Path) -> None:
    assert [line["step"] for line in lines_of(output)] == list(range(1, STEPS + 1))
    assert lines_of(output) == lines_of(straight)
    assert file_of(output) == file_of(straight)


def test_a_run_that_is_killed_three_times_equals_the_straight_run(videos, straight, tmp_path) -> None:
    kill_and_resume(command(videos, tmp_path / "run"), tmp_path / "run", kills=3)
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_equals_the_straight_run(videos, tmp_path) -> None:
    more = ["optim.epochs=12", "run.checkpoint_every_steps=1", "data.num_workers=1"]
    assert run(command(videos, tmp_path / "straight", *more)) == [0]
    kill_and_resume(command(videos, tmp_path / "run", *more), tmp_path / "run", kills=20)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "straight")
    assert file_of(tmp_path / "run") == file_of(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_saves_itself_and_leaves_with_75(videos, straight, tmp_path, number) -> None:
    arguments = command(videos, tmp_path / "run", "run.checkpoint_every_steps=1000")
    process = start(arguments)
    wait_for(2, tmp_path / "run", process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 75
    done = lines_so_far(tmp_path / "run")
    assert 2 <= done < STEPS
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert any(name.startswith(f"step_{done:09d}-") for name in saved)
    assert run(arguments) == [0]
    assert_same_run(tmp_path / "run", straight)


def test_a_run_that_is_out_of_memory_goes_on_with_less_of_it_and_the_same_numbers(videos, straight, tmp_path) -> None:
    process = start(command(videos, tmp_path / "run"))
    wait_for(2, tmp_path / "run", process)
    process.terminate()
    process.join()
    assert process.exitcode == 75
    assert run(command(videos, tmp_path / "run", "model.options.grad_checkpointing=true")) == [0]
    assert lines_of(tmp_path / "run") == lines_of(straight)
    tensors, expected = weights_of(tmp_path / "run"), weights_of(straight)
    assert tensors.pop("metadata") != expected["metadata"]  # it says how it was trained
    assert tensors == {name: value for name, value in expected.items() if name != "metadata"}


def test_a_damaged_newest_checkpoint_is_skipped_and_said(videos, straight, tmp_path) -> None:
    arguments = command(videos, tmp_path / "run")
    process = start(arguments)
    wait_for(7, tmp_path / "run", process)
    process.kill()
    process.join()
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    with open(newest, "r+b") as file:
        file.seek(newest.stat().st_size // 2)
        file.write(b"flipped")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "pretrain.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged" in done.stderr
    assert "resuming from" in done.stderr
    assert_same_run(tmp_path / "run", straight)


def test_measuring_neighbors_on_the_way_does_not_change_the_training(videos, straight, tmp_path) -> None:
    assert run(command(videos, tmp_path / "run", "run.knn_every_epochs=0")) == [0]
    assert weights_of(tmp_path / "run") == weights_of(straight)


def test_a_finished_run_has_nothing_to_do(videos, straight) -> None:
    before = (straight / "metrics.jsonl").read_bytes()
    assert run(command(videos, straight)) == [0]
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_of_another_recipe_is_refused_by_the_keys_that_differ(videos, straight) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "pretrain.py"), *command(videos, straight, "optim.lr=0.5")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "optim.lr (was 0.02, is 0.5)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "lr: 0.02" in (straight / "config.yaml").read_text()  # what describes the run is left alone
