"""Files of results and predictions: a written file is read back equal, and is never incomplete."""

import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from svt_zoo.evaluation.results import (
    Result,
    provenance,
    read_results,
    write_predictions,
    write_result,
)
from svt_zoo.files import write_whole

SCORES = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])


def result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "name": "svt_vitt demo",
        "protocol": "linear, 3x1 views",
        "dataset": "UCF-101",
        "split": "test 1",
        "list_sha256": "ab12",
        "metrics": {"top1": 90.8},
        "n": 27,
        "n_missing": 1,
        "recipe": {"epochs": 20},
    }
    return Result(**(fields | changes))


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = result(**provenance("cpu"))
    path = write_result(written, tmp_path / "results")
    assert path.name == "svt_vitt_demo-linear_3x1_views-UCF_101-test_1.json"
    assert read_results(path) == [written]
    assert list(json.loads(path.read_text())) == [
        *("name", "protocol", "dataset", "split", "list_sha256", "metrics", "n", "n_missing"),
        *("command", "recipe", "commit", "device", "versions"),
    ]


def test_a_result_states_its_origin() -> None:
    found = provenance("cpu")
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["device"].startswith("cpu: ")
    assert found["command"].startswith("python ")
    assert len(found["commit"].removesuffix("+changes")) in (0, 40)


def test_a_metric_that_is_nan_is_refused_and_the_older_result_stays(tmp_path: Path) -> None:
    path = write_result(result(), tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(result(metrics={"top1": float("nan")}), tmp_path)
    assert read_results(path) == [result()]


def test_a_file_that_is_not_a_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"name": "x", "accuracy": 3}')
    with pytest.raises(ValueError, match=r"odd\.json is no result .*accuracy.*list_sha256"):
        read_results(tmp_path / "odd.json")


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_predictions_are_a_parquet_table_with_one_row_per_video(tmp_path: Path) -> None:
    path = write_predictions(
        tmp_path / "p.parquet", ["a.mp4", "b.mp4"], torch.tensor([1, -1]), SCORES, classes=["x", "y", "z"], top=2
    )
    table = pyarrow.parquet.read_table(path).to_pydict()
    assert table["file"] == ["a.mp4", "b.mp4"]
    assert (table["label"], table["class"]) == ([1, -1], ["y", ""])
    assert (table["top1"], table["top1_class"]) == ([1, 0], ["y", "x"])
    assert (table["top2"], table["top2_class"]) == ([2, 2], ["z", "z"])
    assert table["top1_score"] == pytest.approx([0.6, 0.5])
    assert "top3" not in table


def test_without_pyarrow_predictions_become_a_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with caplog.at_level(logging.WARNING):
        path = write_predictions(tmp_path / "p.parquet", ["a, b.mp4", "c.mp4"], torch.tensor([1, 0]), SCORES)
    assert path == tmp_path / "p.csv"
    assert "pip install pyarrow" in caplog.text
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a, b.mp4", "c.mp4"]
    assert [row["top1"] for row in rows] == ["1", "0"]
