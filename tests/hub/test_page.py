"""MODEL_ZOO.md says what the table and the result files say, and is current."""

import runpy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from svt_zoo.evaluation.results import Result, write_result
from svt_zoo.hub import page
from svt_zoo.hub.page import cost, zoo_page
from svt_zoo.hub.table import TABLE
from svt_zoo.hub.weights import Number
from svt_zoo.models import create_model

ROOT = Path(__file__).resolve().parents[2]
RESULT = Result(
    name="svt_vitb_k400",
    protocol="linear, 3x1 views",
    dataset="UCF-101",
    split="split 1",
    list_sha256="0" * 64,
    metrics={"top1": 88.125},
    n=3783,
    n_missing=2,
    command="python tools/eval_linear.py configs/linear/ucf101.yaml | tee log",
    commit="1234567890abcdef+changes",
    device="cuda: some GPU",
)


@pytest.fixture(scope="module")
def current_page() -> Callable[..., str]:
    return runpy.run_path(str(ROOT / "tools" / "zoo_page.py"))["current_page"]


def lines(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_the_page_in_the_repository_is_current(current_page: Callable[..., str]) -> None:
    written = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    assert written == current_page(), "run python tools/zoo_page.py"


def test_every_row_of_the_table_is_on_the_page_with_licence_and_sha256() -> None:
    text = zoo_page([], [])
    for name, row in TABLE.items():
        (line,) = lines(text, f"| `{name}` |", row.license, row.paper)
        assert (row.sha256 or "not known yet") in line


def test_published_numbers_without_weights_say_so_and_name_their_recipe() -> None:
    (line,) = lines(zoo_page([], ["configs/finetune/ucf101.yaml"]), "`svt_vitb_k400`", "| UCF-101 | fine-tune")
    assert "no weights published" in line
    assert "| 93.7 |" in line
    assert "| not run |" in line
    assert "[configs/finetune/ucf101.yaml](configs/finetune/ucf101.yaml)" in line


def test_a_published_number_whose_weights_exist_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE["svt_vitb_k400"]
    number = next(number for number in row.published if number.protocol == "fine-tune")
    tuned = replace(row, name="tuned", num_classes=101, published=(number,))
    monkeypatch.setattr(page, "TABLE", {row.name: row, tuned.name: tuned})
    text = zoo_page([], [])
    assert lines(text, "| `svt_vitb_k400`, fine-tune: `tuned` | UCF-101")
    assert lines(text, "| `tuned` | UCF-101 | fine-tune")


def test_a_recipe_that_does_not_exist_is_not_linked() -> None:
    assert "](configs/" not in zoo_page([], [])


def test_a_result_file_comes_with_command_commit_and_missing_videos(
    tmp_path: Path, current_page: Callable[..., str]
) -> None:
    write_result(RESULT, tmp_path)
    (line,) = lines(current_page(tmp_path), "| `svt_vitb_k400` |", "top1 88.12")
    assert "| 3783 (2 unreadable) | 1234567890ab+changes | cuda: some GPU |" in line
    assert r"configs/linear/ucf101.yaml \| tee log`" in line  # a pipe would end the cell


def test_a_measured_number_stands_beside_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE["svt_vitb_k400"]
    ours = (Number("UCF-101", "linear", "top-1", 90.5, "run 7"), Number("UCF-101", "knn 20", "top-1", 80.0, "run 8"))
    monkeypatch.setattr(page, "TABLE", {row.name: replace(row, measured=ours)})
    text = zoo_page([asdict(RESULT)], [])
    assert lines(text, "| 90.8 |", "| 90.5 (run 7) |")
    assert lines(text, "knn 20", "|  |  | 80 (run 8) |")


@pytest.mark.parametrize(("name", "options"), [("timesformer_vitt", {"depth": 1}), ("xvit_vitt", {"depth": 1})])
def test_the_cost_counts_attention_as_the_written_out_formula_does(name: str, options: dict[str, Any]) -> None:
    network = create_model(name, **options).eval()
    kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # two matrix products, both counted
    with torch.no_grad(), kernel, FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 2, 32, 32))
    gflops, millions = cost(name, options, 2, 32)
    assert gflops == pytest.approx(counter.get_total_flops() / 2e9)
    assert millions == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6)


def test_timesformers_cost_is_the_papers() -> None:
    gflops, millions = cost("timesformer_vitb", {}, 8, 224)
    assert 3 * gflops == pytest.approx(590, abs=5)  # 0.59 TFLOPs for 3 crops, 121.4 M parameters
    assert millions == pytest.approx(121.4, abs=0.2)
