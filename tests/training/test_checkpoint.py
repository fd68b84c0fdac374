import errno
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from svt_zoo.config import DataConfig, FinetuneRecipe, ModelConfig, OptimConfig, Recipe, RunConfig
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.training import checkpoint
from svt_zoo.training.checkpoint import (
    CheckpointError,
    check_same_run,
    checkpoints,
    load_newest,
    random_state,
    save_checkpoint,
    seed_all,
    set_random_state,
    video_sizes,
)

CPU = torch.device("cpu")


def payload(number: float) -> dict[str, Any]:
    return {"weights": torch.full((1000,), number), "lr": 1e-3, "names": ["a", None], "nested": {1: (2.0, True)}}


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:14]) for path in checkpoints(folder)]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, payload(0.5))
    found = load_newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert found.payload["step"] == 7
    assert_close(found.payload["weights"], torch.full((1000,), 0.5))
    assert found.payload["nested"] == {1: (2.0, True)}


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def test_the_newest_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 100):
        save_checkpoint(tmp_path, step, payload(step))
    assert steps(tmp_path) == [100, 10]


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed_and_the_one_before_is_taken(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    save_checkpoint(folder, 1, payload(1))
    newest = save_checkpoint(folder, 2, payload(2))
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    newest.write_bytes(content)
    found = load_newest(folder)
    assert found is not None
    assert found.payload["step"] == 1


@pytest.mark.parametrize("fraction", [0, 0.3, 0.999])
def test_a_file_that_was_cut_off_is_skipped_with_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fraction: float
) -> None:
    save_checkpoint(tmp_path, 1, payload(1))
    newest = save_checkpoint(tmp_path, 2, payload(2))
    newest.write_bytes(newest.read_bytes()[: int(fraction * newest.stat().st_size)])
    found = load_newest(tmp_path)
    assert found is not None
    assert found.payload["step"] == 1
    assert f"{newest} is damaged" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew_by_itself(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, payload(1)).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints in .* can be read; delete the folder"):
        load_newest(tmp_path)


@pytest.mark.parametrize("stage", ["save", "fsync", "replace"])
def test_a_crash_at_any_stage_of_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    save_checkpoint(tmp_path, 1, payload(1))

    def crash(*args: object) -> None:
        if stage == "save":
            args[1].write(b"half of a fi")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((torch, "save") if stage == "save" else (os, stage)), crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, payload(2))
    found = load_newest(tmp_path)
    assert found is not None
    assert found.payload["step"] == 1
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 9")])
def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    old = save_checkpoint(tmp_path, 1, payload(1))

    def fill(content: object, file: IO[bytes]) -> None:
        file.write(b"half of a fi")
        raise error

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be written to .*, where \d+ MB are free \(.*make room"):
        save_checkpoint(tmp_path, 2, payload(2))
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_that_is_named_like_a_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_checkpoint(tmp_path, 1, payload(1))
    (tmp_path / path.name.replace("01-", "02-")).mkdir()
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.path == path
    assert "is a folder, not a checkpoint" in caplog.text
    save_checkpoint(tmp_path, 3, payload(3))


def test_up_to_a_thousand_sizes_are_compared_and_the_seed_draws_them(tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_bytes(b"12345")
    videos = VideoList((*(Row(f"{tmp_path}/{row}.mp4") for row in range(5)), Row("https://a.b/c.mp4")))
    assert video_sizes(videos, seed=0) == {0: 5}
    for row in range(5):
        (tmp_path / f"{row}.mp4").write_bytes(bytes(row))
    drawn = [video_sizes(videos, seed, most=3) for seed in range(8)]
    assert all(size == row for sizes in drawn for row, size in sizes.items())
    assert all(len(sizes) <= 3 for sizes in drawn)
    assert len({tuple(sizes) for sizes in drawn}) > 1


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.system, ("touch " + str(tmp_path / "ran"),)

    save_checkpoint(tmp_path, 1, {"code": Code()})
    with pytest.raises(CheckpointError, match="none of the 1"):
        load_newest(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        path = save_checkpoint(tmp_path, 1, {})
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        checkpoint.read_checkpoint(path)


def test_another_recipe_is_refused_and_the_keys_are_named() -> None:
    saved = {"init": "dino", "optim": {"lr": 1e-3, "epochs": 20}, "model": {"options": {}}}
    recipe = Recipe(optim=OptimConfig(lr=2e-3, epochs=30), model=ModelConfig(options={"depth": 2}))
    named = r"optim.lr \(was 0.001, is 0.002\), optim.epochs \(was 20, is 30\), model.options.depth \(was None, is 2\)"
    with pytest.raises(CheckpointError, match=f"recipe: {named}; undo"):
        check_same_run(Path("x.pt"), saved, recipe)


def test_another_folder_and_number_of_workers_are_no_other_recipe(caplog: pytest.LogCaptureFixture) -> None:
    saved = {"run": {"output": "a"}, "data": {"num_workers": 2}}
    check_same_run(Path("x.pt"), saved, Recipe(run=RunConfig(output="b"), data=DataConfig(num_workers=8)))
    saved_finetuning = {"report": {"folder": "a"}, "repeat": {"num_seeds": 3}}
    check_same_run(Path("x.pt"), saved_finetuning, FinetuneRecipe())
    assert not caplog.text


def test_the_rescue_of_a_run_is_allowed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    saved = {"optim": {"lr": 1e-3, "clip_grad": None}, "run": {"precision": "bf16"}}
    recipe = Recipe(optim=OptimConfig(lr=1e-4, clip_grad=1.0), run=RunConfig(precision="fp32"))
    check_same_run(Path("x.pt"), saved, recipe, rescue=True)
    assert "optim.lr (was 0.001, is 0.0001), optim.clip_grad (was None, is 1.0), run.precision" in caplog.text
    assert "the recipe has changed since the run started" in caplog.text
    with pytest.raises(CheckpointError, match=r"by another recipe: optim.lr"):
        check_same_run(Path("x.pt"), {}, Recipe(optim=OptimConfig(lr=1e-4)))


def test_a_removed_option_with_the_value_that_remains_does_not_stop_a_run() -> None:
    check_same_run(Path("x.pt"), {"data": {"backend": "pyav"}}, Recipe())
    with pytest.raises(CheckpointError, match=r"x\.pt: data\.backend='torchcodec' was removed: PyAV reads all videos"):
        check_same_run(Path("x.pt"), {"data": {"backend": "torchcodec"}}, Recipe())


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_an_old_name_and_an_absent_option_do_not_stop_a_run() -> None:
    check_same_run(
        Path("x.pt"), {"data": {"validation_share": 0.25}}, Recipe(data=DataConfig(validation_fraction=0.25))
    )


def draw() -> list[float]:
    rng = np.random
    return [torch.rand(()).item(), torch.randn(()).item(), rng.rand(), rng.randn(), random.random(), random.gauss(0, 1)]


def test_all_generators_go_on_from_a_state_that_went_through_a_file() -> None:
    seed_all(3)
    draw()  # leaves the second half of a Gaussian pair in numpy and Python
    file = io.BytesIO()
    torch.save(random_state(CPU), file)
    expected = draw()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True), CPU)
    assert draw() == expected


def test_each_seed_and_process_draws_its_own_numbers() -> None:
    drawn = []
    for seed, process in ((0, 0), (0, 1), (1, 0)):
        seed_all(seed, process)
        drawn.append(draw())
    assert all(len(set(values)) == 3 for values in zip(*drawn, strict=True))
    seed_all(0, 0)
    assert draw() == drawn[0]
