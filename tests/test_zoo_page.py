"""MODEL_ZOO.md agrees with the table and the result files, and is current."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from svt_zoo.config import FinetuneRecipe, LinearRecipe, MultiviewRecipe, load_any
from svt_zoo.evaluation.results import Result, write_result
from svt_zoo.hub.sources import UrlFile
from svt_zoo.hub.table import TABLE
from svt_zoo.hub.weights import Number, Weights
from svt_zoo.models import create_model
from tools import zoo_page as page
from tools.zoo_page import command_of, cost, main, zoo_page

ROOT = Path(__file__).resolve().parents[1]
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


def written_page(results: Path, output: Path) -> str:
    """The output of the program."""
    main(["--results", str(results), "--output", str(output)])
    return output.read_text(encoding="utf-8")


def lines(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_the_page_in_the_repository_is_current(tmp_path: Path) -> None:
    written = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    assert written == written_page(ROOT / "results", tmp_path / "page.md"), "run python tools/zoo_page.py"


def test_every_row_of_the_table_is_on_the_page_with_license_and_sha256() -> None:
    text = zoo_page([])
    for name, row in TABLE.items():
        (line,) = lines(text, f"| `{name}` |", f"| {row.license} |", row.paper)
        assert (row.sha256 or "not known yet") in line


def test_published_numbers_without_weights_say_so_and_name_their_command() -> None:
    (line,) = lines(zoo_page([]), "`svt_vitb_k400`", "| UCF-101 | fine-tune")
    assert "trained weights not published" in line
    assert "| 93.7 |" in line
    assert "| not run |" in line
    command = "svt-zoo finetune finetune/ucf101 init=svt"
    assert f"| [`{command}`](configs/finetune/ucf101.yaml) |" in line


def test_a_published_number_whose_weights_exist_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE["svt_vitb_k400"]
    number = next(number for number in row.published if number.protocol == "fine-tune")
    tuned = replace(row, name="tuned", num_classes=101, published=(number,))
    monkeypatch.setattr(page, "TABLE", {row.name: row, tuned.name: tuned})
    text = zoo_page([])
    assert lines(text, "| `svt_vitb_k400`, fine-tune: `tuned` | UCF-101")
    assert lines(text, "| `tuned` | UCF-101 | fine-tune")


COMMANDS = [(row, number) for row in TABLE.values() for number in row.published if number.recipe]


@pytest.mark.parametrize(("row", "number"), COMMANDS, ids=lambda value: getattr(value, "name", None))
def test_the_command_of_a_published_number_parses_and_follows_its_protocol(row: Weights, number: Number) -> None:
    path, *overrides = number.recipe.split()
    recipe: Any = load_any(ROOT / path, overrides)
    command = {LinearRecipe: "evaluate", FinetuneRecipe: "finetune", MultiviewRecipe: "evaluate"}[type(recipe)]
    name = path.removeprefix("configs/").removesuffix(".yaml")
    assert command_of(number).startswith(f"[`svt-zoo {command} {name} ")
    assert recipe.report.dataset == number.dataset
    if isinstance(recipe, MultiviewRecipe):
        assert recipe.init == row.name
        assert f"{recipe.multiview.views} views" == number.protocol
        by_facebook = str(row.source).startswith("https://dl.fbaipublicfiles.com/motionformer")
        assert recipe.multiview.pool == ("softmax" if by_facebook else "mean")  # only Facebook's ends in a softmax
    else:
        assert ("fine-tune" if isinstance(recipe, FinetuneRecipe) else "linear") == number.protocol
        assert recipe.init == ("svt" if isinstance(row.source, UrlFile) else "FILE")
        assert recipe.model.name == row.model


def test_a_number_that_no_recipe_repeats_says_so() -> None:
    text = zoo_page([])
    for words in (("`timesformer_vitb_k600`", "| K600 |"), ("noun top-1 |",), ("| HMDB-51 |", "34.6")):
        assert all(line.endswith("| no recipe of ours |") for line in lines(text, *words))
        assert lines(text, *words)


def test_the_metrics_of_a_protocol_share_a_row_and_a_source_that_needs_care_is_explained_once() -> None:
    text = zoo_page([])
    (line,) = lines(text, "`xvit_vitb_ssv2_time` | SSv2")
    assert "| top-1 / top-5 | 63.5 / 88.1 | README of alinlab/temporal-selfsupervision (see below) | not run |" in line
    assert text.count("its test command shuffles frames") == 1


def test_a_result_file_comes_with_command_commit_and_missing_videos(tmp_path: Path) -> None:
    write_result(RESULT, tmp_path)
    (line,) = lines(written_page(tmp_path, tmp_path / "page.md"), "| `svt_vitb_k400` |", "top1 88.12")
    assert "| 3783 (2 unreadable) | 1234567890ab+changes | cuda: some GPU |" in line
    assert r"configs/linear/ucf101.yaml \| tee log`" in line  # a pipe would end the cell


def test_a_measured_number_stands_beside_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE["svt_vitb_k400"]
    ours = (Number("UCF-101", "linear", "top-1", 90.5, "run 7"), Number("UCF-101", "knn 20", "top-1", 80.0, "run 8"))
    monkeypatch.setattr(page, "TABLE", {row.name: replace(row, measured=ours)})
    text = zoo_page([asdict(RESULT)])
    assert lines(text, "| 90.8 |", "| 90.5 (run 7) |")
    assert lines(text, "knn 20", "|  |  | 80 (run 8) |  |  |")


def test_a_metric_that_we_have_not_measured_is_not_run_beside_one_that_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE["timesformer_vitb_k400"]
    monkeypatch.setattr(page, "TABLE", {row.name: replace(row, measured=(replace(row.published[1], value=92.0),))})
    assert lines(zoo_page([]), "| 77.9 / 93.2 |", f"| not run / 92 ({row.published[1].source}) |")


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
