"""Checkpoints of the original CPC code convert in both directions, and its classifier gives the same output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_cpc import CLASSIFIER, original_classifier, original_cpc, rule_clip, rule_weights
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from svt_zoo.hub import entrypoints
from svt_zoo.hub.convert import CPC_DEAD, convert, from_cpc, to_cpc
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.sources import WeightsError
from svt_zoo.hub.state_dicts import without
from svt_zoo.models import create_model

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
CASES = ["lc_r18_s64_n7_b3_k101", "lc_r18_s96_n5_b2_k51"]


@pytest.fixture(scope="module")
def record(oracle: Oracle) -> dict[str, Any]:
    return oracle("cpc/oracle")[1]


@pytest.fixture(scope="module")
def recorded(oracle: Oracle) -> dict[str, Tensor]:
    return oracle("cpc/model_lc")[0]


def weights(record: dict[str, Any], layout: str) -> dict[str, Tensor]:
    return rule_weights(record["state_dict"][layout], record["salt"])


def classifier_weights(record: dict[str, Any], num_classes: int) -> dict[str, Tensor]:
    layout = [
        [name, [num_classes if size == 101 else size for size in shape], dtype]
        for name, shape, dtype in record["state_dict"]["LC_resnet18_k101"]
    ]
    return rule_weights(layout, record["salt"])


def layout_of(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("net", ["resnet18", "resnet34"])
def test_a_method_goes_out_in_the_originals_layout_and_comes_back(record: dict[str, Any], net: str) -> None:
    weights_file = weights(record, f"CPC_Trans_{net}")
    method = original_cpc(weights_file, net, torch.float32)
    back = to_cpc(method.state_dict())
    assert layout_of(back) == layout_of(weights_file)
    used = without(weights_file, CPC_DEAD)
    assert_close({name: back[name] for name in used}, used, atol=0, rtol=0)
    alias = {name.replace("cell_list.0", "ConvGRUCell_00"): back[name] for name in back if "cell_list" in name}
    assert_close(alias, {name: back[name] for name in alias}, atol=0, rtol=0)
    again = from_cpc(back, predictor=True)
    assert_close(again, from_cpc(weights_file, predictor=True), atol=0, rtol=0)


@pytest.mark.parametrize(("layout", "net"), [("LC_resnet18_k101", "resnet18"), ("LC_resnet34_k51", "resnet34")])
def test_a_classifiers_layout_is_known_key_by_key(record: dict[str, Any], layout: str, net: str) -> None:
    weights_file = weights(record, layout)
    ours = convert({f"module.{name}": value for name, value in weights_file.items()}).state
    head = {name: ours.pop(f"head.{name}") for name in ("weight", "bias")}
    assert layout_of(ours) == layout_of(create_model(f"cpc_{net}", **CLASSIFIER).state_dict())
    back = to_cpc({**{f"backbone.{name}": value for name, value in ours.items()}, "head.weight": head["weight"]})
    assert layout_of({**back, "final_fc.1.bias": head["bias"]}) == layout_of(weights_file)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_classifier_equals_the_original(
    record: dict[str, Any], recorded: dict[str, Tensor], case: str, dtype: torch.dtype
) -> None:
    expected = record["lc"][case]
    config = expected["config"]
    network: Any = original_classifier(classifier_weights(record, config["K"]), config["K"], dtype).eval()
    shape = (config["B"], config["N"], 3, config["S"], config["S"])
    clip, digest = rule_clip(case, shape, record["salt"])
    assert digest == expected["input_sha256_16"]
    clip = clip.to(dtype)
    tolerances = dict.fromkeys(expected["fp32_max_abs_dev"], 1e-9)
    if dtype == torch.float32:
        tolerances = {name: 4 * value + 1e-6 for name, value in expected["fp32_max_abs_dev"].items()}
    with torch.no_grad():
        context = F.relu(network.backbone.tokens(network.backbone.frame_features(clip), network.backbone.grid(clip)))
        logits = network(clip)
    assert context.shape[:2] == clip.shape[:1] + clip.shape[2:3]
    assert_close(logits[:, None].double(), recorded[f"{case}.logits"], atol=tolerances["logits"], rtol=0)
    embedding = network.backbone.context(clip).double()
    assert_close(embedding, recorded[f"{case}.embedding"], atol=tolerances["embedding"], rtol=0)
    loss = F.cross_entropy(logits, torch.tensor(expected["labels"]))
    assert loss.item() == pytest.approx(expected["eval_loss"], abs=tolerances["logits"])


@pytest.mark.parametrize("case", [pytest.param(CASES[0], marks=pytest.mark.slow), CASES[1]])
def test_five_steps_of_the_originals_fine_tuning_are_equal(
    record: dict[str, Any], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = record["lc"][case]
    config = expected["config"]
    network: Any = original_classifier(classifier_weights(record, config["K"]), config["K"], torch.float64).train()
    monkeypatch.setattr("svt_zoo.models.cpc.F.dropout", lambda x, p, training: x)
    clip = rule_clip(case, (config["B"], config["N"], 3, config["S"], config["S"]), record["salt"])[0].double()
    slow = ("backbone.resnet.", "backbone.blocks.", "backbone.norm.")  # a tenth of the learning rate
    named = list(network.named_parameters())
    groups = [
        {"params": [p for name, p in named if name.startswith(slow)], "lr": 1e-4},
        {"params": [p for name, p in named if not name.startswith(slow)], "lr": 1e-3},
    ]
    assert len(groups[1]["params"]) == 10
    optimizer = torch.optim.Adam(groups, weight_decay=1e-3)
    losses = []
    for step in range(5):
        loss = F.cross_entropy(network(clip), torch.tensor(expected["labels"]))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = {name: g.norm().item() for name, g in to_cpc({n: p.grad for n, p in named}).items()}
            for name, norm in expected["grad_norms"].items():
                assert norm is None or norms[name] == pytest.approx(norm, rel=1e-7, abs=1e-9), name
        optimizer.step()
        losses.append(loss.item())
    assert_close(losses, expected["adam5_losses"], rtol=1e-7, atol=1e-7)


def test_a_videos_score_is_the_mean_over_its_clips(record: dict[str, Any], recorded: dict[str, Tensor]) -> None:
    expected = record["test_protocol"]
    network = original_classifier(classifier_weights(record, 101), 101, torch.float64).eval()
    probabilities = []
    for i, num_clips in enumerate(expected["clips_per_video"]):
        clips = rule_clip(f"video{i}", (num_clips, 7, 3, 64, 64), record["salt"])[0].double()
        with torch.no_grad():
            logits = network(clips)
        assert_close(logits[:, None], recorded[f"test.video{i}_clip_logits"], atol=1e-9, rtol=0)
        probabilities.append(logits.softmax(dim=1).mean(dim=0))
    classes = torch.stack(probabilities).argmax(dim=1)
    assert classes.tolist() == expected["prob_mean_argmax"]
    assert (classes == torch.tensor(expected["targets"])).double().mean().item() == expected["top1"]


def test_a_training_checkpoint_is_recognized_and_loads(record: dict[str, Any], tmp_path: Path) -> None:
    weights_file = weights(record, "CPC_Trans_resnet18")
    checkpoint = {
        "epoch": 3,
        "net": "resnet18",
        "state_dict": weights_file,
        "best_acc": np.float64(0.5),
        "iteration": 7,
    }
    assert convert(checkpoint).kind == "original_cpc"
    path = tmp_path / "epoch3.pth.tar"
    torch.save(checkpoint, path)
    network: Any = load_model(path, model="cpc_resnet18")
    assert_close(network.resnet.conv1.weight, weights_file["backbone.conv1.weight"], atol=0, rtol=0)
    with pytest.raises(WeightsError, match="does not fit CPCNetwork"):
        load_model(path, model="cpc_resnet34")


def test_a_fine_tuned_checkpoint_brings_its_classifier(record: dict[str, Any], tmp_path: Path) -> None:
    weights_file = {f"module.{name}": value for name, value in weights(record, "LC_resnet18_k101").items()}
    path = tmp_path / "model_best_epoch9.pth.tar"
    torch.save({"epoch": 9, "state_dict": weights_file, "best_acc": 0.6}, path)
    for network in (
        load_model(path, model="cpc_resnet18", num_classes=None),
        entrypoints.cpc_resnet18_ucf101_finetuned(weights=path, num_classes=101),
    ):
        assert_close(network.head.weight, weights_file["module.final_fc.1.weight"], atol=0, rtol=0)
        assert_close(network.backbone.final_bn.weight, weights_file["module.final_bn.weight"], atol=0, rtol=0)
    clip = network.transforms()(torch.zeros(7, 240, 320, 3, dtype=torch.uint8))
    assert network(clip[None]).shape == (1, 101)


def test_files_that_lie_behind_a_page_are_asked_for() -> None:
    with pytest.raises(
        WeightsError, match=r"https://drive.google.com/file/d/\w+: no program can fetch.*weights=/path/to/file"
    ):
        entrypoints.cpc_resnet18_ucf101()
