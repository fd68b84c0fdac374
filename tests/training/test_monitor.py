import json
import logging
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svt_zoo.training.monitor import Monitor, collapse, draw_curves, read_metrics, truncate_metrics
from svt_zoo.training.optim import RunConfig


def line(step: int, **more: float) -> dict[str, float]:
    return {
        "step": step,
        "epoch": step / 4,
        "loss": 1 / step,
        "lr": 0.1,
        "data_seconds": 1,
        "compute_seconds": 3,
        **more,
    }


def monitor(output: Path, **options: Any) -> closing[Monitor]:
    run = RunConfig(
        str(output), **{name: options.pop(name) for name in ("log_every_steps", "tensorboard") if name in options}
    )
    return closing(Monitor(run, **{"step": 0, "total_steps": 10, "terminal": False, **options}))


def test_each_step_is_a_line_of_json(tmp_path: Path) -> None:
    with monitor(tmp_path) as run:
        for step in (1, 2):
            run.record(line(step, grad_norm=2.5))
    assert read_metrics(tmp_path / "metrics.jsonl") == [line(1, grad_norm=2.5), line(2, grad_norm=2.5)]


@given(written=st.integers(0, 6), step=st.integers(0, 8), cut=st.integers(0, 30))
def test_a_run_that_goes_on_takes_back_the_lines_behind_its_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, written: int, step: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    text = "".join(json.dumps(line(i)) + "\n" for i in range(1, written + 2))
    path.write_text(text[: len(text) - cut])
    whole = path.read_text().count("\n")
    truncate_metrics(path, step)
    assert [entry["step"] for entry in read_metrics(path)] == list(range(1, min(whole, step) + 1))
    assert path.read_text() == "".join(json.dumps(line(i)) + "\n" for i in range(1, min(whole, step) + 1))


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with monitor(tmp_path, log_every_steps=2) as run:
        for step in range(1, 5):
            run.record(line(step))
    assert [record.getMessage() for record in caplog.records] == [
        "step 2/10, epoch 0.50: loss 0.5000, lr 0.1, 4.000 s per step (waiting for data 25%), 00:32 left",
        "step 4/10, epoch 1.00: loss 0.2500, lr 0.1, 4.000 s per step (waiting for data 25%), 00:24 left",
    ]


def test_a_slow_first_step_does_not_spoil_the_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with monitor(tmp_path, log_every_steps=1) as run:
        run.record(line(1, compute_seconds=99))
        run.record(line(2))
    assert [record.getMessage()[-10:] for record in caplog.records] == ["15:00 left", "00:32 left"]


def test_the_time_left_follows_the_last_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with monitor(tmp_path, total_steps=103, log_every_steps=102) as run:
        for step in range(1, 103):
            run.record(line(step, data_seconds=0, compute_seconds=60 if step < 50 else 2))
    assert caplog.records[-1].getMessage().endswith("2.000 s per step (waiting for data 0%), 00:02 left")


def test_tensorboard_reads_what_a_run_writes(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    with monitor(tmp_path, tensorboard=True) as run:
        for step in (1, 2, 3):
            run.record(line(step))
    with monitor(tmp_path, step=2, tensorboard=True) as run:  # killed in the third step
        run.record(line(3, loss=0.25))
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {(event.step, event.value) for event in events.Scalars("loss")} == {(1, 1.0), (2, 0.5), (3, 0.25)}
    assert "lr" in events.Tags()["scalars"]


def test_without_tensorboard_the_run_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"run.tensorboard=true.*pip install tensorboard"):
        monitor(tmp_path, tensorboard=True)


def test_on_a_terminal_there_is_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with monitor(tmp_path, terminal=True, step=3) as run:
        run.record(line(4))
    shown = capsys.readouterr().err
    assert "3/10" in shown
    assert "4/10" in shown
    assert "loss 0.2500, data 25%, 00:24 left" in shown


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with monitor(tmp_path / "run", active=False) as run:
        run.record(line(1))
        run.draw(now=True)
    assert not (tmp_path / "run").exists()


def test_curves_are_drawn_as_a_picture(tmp_path: Path) -> None:
    with monitor(tmp_path) as run:
        for step in range(1, 5):
            run.record(line(step, **({"teacher_entropy": 2.0} if step == 2 else {})))
        run.draw()
        assert not (tmp_path / "curves.png").exists()  # too soon
        run.draw(now=True)
    picture = Image.open(tmp_path / "curves.png")
    assert picture.format == "PNG"
    assert picture.width > 500


def test_a_metric_that_was_measured_once_has_no_panel_unless_the_run_has_one_step(tmp_path: Path) -> None:
    once = {"epoch": 0.1, "loss": 0.5, "teacher_entropy": 2.0}

    def height(metrics: list[dict[str, float]]) -> int:
        draw_curves(metrics, tmp_path / "curves.png")
        return Image.open(tmp_path / "curves.png").height

    one_row = height([{"epoch": 0.1, "loss": 0.5}])
    assert height([once, *({"epoch": float(i), "loss": 0.4, "lr": 0.1} for i in (1, 2))]) == one_row  # loss and lr
    assert height([once]) == one_row
    assert height([{**once, "lr": 0.1}] * 2) > one_row


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"teacher_entropy": 0.0}, "all videos get the same prototype"),
        ({"teacher_entropy": math.log(64)}, "its targets are uniform"),
        ({"teacher_entropy": 2.0, "feature_std": 0.0}, "normalized features have standard deviation 0"),
    ],
)
def test_each_collapse_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metrics: dict[str, float], reason: str
) -> None:
    with monitor(tmp_path, max_entropy=math.log(64)) as run:
        run.record(line(1, **metrics))
    assert "step 1: the features may have collapsed" in caplog.text
    assert reason in caplog.text


def test_a_healthy_run_is_left_in_peace() -> None:
    assert collapse({"teacher_entropy": 2.0, "feature_std": 0.02}, max_entropy=math.log(64)) is None
    assert collapse({"loss": 1.0}) is None
