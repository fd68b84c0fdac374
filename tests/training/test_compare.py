"""At its end, a pre-training states whether it helped on the user's own videos."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import TINY

from svt_zoo.config import ConfigError, load_recipe
from svt_zoo.data.lists import VideoList, read_list
from svt_zoo.evaluation.features import Extracted
from svt_zoo.training.compare import NAME, Change, Comparison
from svt_zoo.training.run import pretrain


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (0.1, 9.0, "yes, better"),
        (-9.0, -0.1, "no, worse"),
        (-1.0, 1.0, "no difference that these videos can show"),
        (0.0, 0.0, "no difference that these videos can show"),
    ],
)
def test_the_answer_follows_the_interval_of_the_difference(low: float, high: float, answer: str) -> None:
    assert Change("knn", (50, 40, 60), (55, 45, 65), (5, low, high)).answer == answer


def outcome(correct: list[bool]) -> tuple[Tensor, Extracted]:
    labels = torch.zeros(len(correct), dtype=torch.long)
    scores = torch.tensor([[1.0, 0.0] if right else [0.0, 1.0] for right in correct])
    videos = Extracted(torch.zeros(len(correct), 1), labels, ["v"] * len(correct), torch.arange(len(correct)), [])
    return scores, videos


def test_the_difference_is_paired(videos: Path) -> None:
    test = read_list(videos)
    half = [number % 2 == 0 for number in range(len(test))]
    change = Comparison(test, test).change("knn", outcome(half), outcome(half))
    assert change.before == change.after
    assert change.before[1] < change.before[2]
    assert change.difference == (0.0, 0.0, 0.0)
    change = Comparison(test, test).change("knn", outcome(half), outcome([True] * len(test)))
    assert change.answer == "yes, better"
    assert "yes, better" in Comparison(test, test).describe([change])


def unlabeled(videos: Path, tmp_path: Path) -> Path:
    path = tmp_path / "unlabeled.txt"
    path.write_text("".join(f"{row.path}\n" for row in read_list(videos).rows[::2]))
    return path


def labeled(videos: Path, tmp_path: Path) -> Path:
    rows = read_list(videos)
    path = tmp_path / "labeled.csv"
    VideoList(rows.rows[1::2], rows.classes).save(path)
    return path


@pytest.mark.parametrize("labels", ["of the training videos", "of other videos"])
def test_a_run_ends_with_the_table(labels: str, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = [f"data.train={videos}", "data.validation_fraction=0.3"]
    if labels == "of other videos":
        data = [f"data.train={unlabeled(videos, tmp_path)}", f"data.val={labeled(videos, tmp_path)}"]
    output = tmp_path / "run"
    changes = [*data, f"run.output={output}", "run.compare=true", "optim.epochs=1", "optim.warmup_epochs=0"]
    assert pretrain(load_recipe(TINY, changes))
    rows = json.loads((output / NAME).read_text())
    assert [row["protocol"] for row in rows] == ["knn", "linear"]
    assert "is it better on these videos?" in caplog.text
    assert rows[0]["answer"] in caplog.text


def test_a_training_without_effect_is_no_difference(videos: Path, tmp_path: Path) -> None:
    still = ["optim.lr=0", "optim.lr_end=0", "optim.weight_decay=0", "optim.weight_decay_end=0", "optim.epochs=1"]
    places = [f"data.train={videos}", "data.validation_fraction=0.3", f"run.output={tmp_path}", "run.compare=true"]
    assert pretrain(load_recipe(TINY, [*places, *still, "optim.warmup_epochs=0"]))
    for row in json.loads((tmp_path / NAME).read_text()):
        assert row["difference"] == [0.0, 0.0, 0.0]
        assert row["answer"] == "no difference that these videos can show"


def test_videos_without_labels_are_refused_before_the_training(videos: Path, tmp_path: Path) -> None:
    changes = [f"data.train={unlabeled(videos, tmp_path)}", "data.validation_fraction=0.3", "run.compare=true"]
    with pytest.raises(ConfigError, match=r"run\.compare needs labeled videos .* set data\.val"):
        pretrain(load_recipe(TINY, [*changes, f"run.output={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
