"""Checkpoints of other code: recognized, renamed key by key, and converted back."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub.convert import (
    FORMATS,
    dropped_keys,
    from_classifier,
    from_hf_timesformer,
    from_svt,
    from_timesformer,
    recognise,
    to_hf_timesformer,
    to_svt,
    to_timesformer,
    unwrap,
)
from svt_zoo.models import create_model

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create_model("svt_vitt", embed_dim=24, depth=2, num_heads=2, img_size=32, num_frames=4).state_dict()


@pytest.fixture(scope="module")
def head() -> dict[str, Tensor]:
    return {"head.weight": torch.randn(7, 24), "head.bias": torch.randn(7)}


def svt_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the form of SVT's released file: in the teacher's wrapper, with the projection head."""
    projection = {"head.mlp.0.weight": torch.zeros(8, 24), "head.mlp.0.bias": torch.zeros(8)}
    projection |= {"head.last_layer.weight_g": torch.ones(9, 1), "head.last_layer.weight_v": torch.zeros(9, 8)}
    return {f"backbone.{key}": value for key, value in state.items()} | projection


def image_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if "temporal" not in key and key != "time_embed"}


def test_svts_released_file_is_recognised_and_converted(state: dict[str, Tensor]) -> None:
    file = svt_file(state)
    assert recognise(file) == "svt"
    assert_close(from_svt(file), state)
    assert dropped_keys(file, "svt") == sorted(key for key in file if key.startswith("head."))


def test_of_svts_training_checkpoint_the_teacher_is_taken(state: dict[str, Tensor]) -> None:
    student = {f"module.{key}": value + 1 for key, value in svt_file(state).items()}
    checkpoint = {
        "student": student,
        "teacher": svt_file(state),
        "motion_teacher": 0,
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": argparse.Namespace(arch="timesformer"),
        "dino_loss": {"center": torch.zeros(1, 9)},
    }
    assert recognise(checkpoint) == "svt"
    assert_close(from_svt(checkpoint), state)
    around = {"args", "dino_loss", "epoch", "motion_teacher", "optimizer", "student"}
    assert around < set(dropped_keys(checkpoint, "svt"))
    del checkpoint["teacher"]
    assert_close(from_svt(checkpoint)["cls_token"], state["cls_token"] + 1)


def test_svts_names_come_back(state: dict[str, Tensor]) -> None:
    back = to_svt(state)
    assert set(back) == {key for key in svt_file(state) if key.startswith("backbone.")}
    assert_close(from_svt(back), state)


@pytest.mark.parametrize("container", ["model_state", "model", "state_dict", None])
def test_facebooks_timesformer_is_recognised_and_converted(
    state: dict[str, Tensor], head: dict[str, Tensor], container: str | None
) -> None:
    flat = {f"model.{key}": value for key, value in {**state, **head}.items()}
    checkpoint: dict[str, Any] = {container: flat, "epoch": 14, "cfg": "TRAIN:"} if container else flat
    assert recognise(checkpoint) == "timesformer"
    assert_close(from_timesformer(checkpoint), {**state, **head})


def test_facebooks_names_come_back(state: dict[str, Tensor], head: dict[str, Tensor], oracle: Oracle) -> None:
    back = to_timesformer({**state, **head})
    assert_close(from_timesformer(back), {**state, **head})
    recorded = oracle("time/timesformer_fb")[1]["weight_keys"]
    assert set(back["model_state"]) == set(recorded)  # two blocks there, two here


def test_times_own_heads_are_dropped_by_name(oracle: Oracle) -> None:
    tensors, _ = oracle("time/timesformer_time")
    file = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    assert recognise(file) == recognise({"model_state": file}) == "timesformer"
    converted = from_timesformer(file)
    left_out = set(file) - set(converted)
    assert {key.partition(".")[0] for key in left_out} == {
        "temp_head", "mlp_q", "mlp_k", "mlp_v", "mlp_proj", "mlp_norm", "flow_head"
    }  # fmt: skip
    assert sorted(left_out) == dropped_keys(file, "timesformer")


def test_hugging_faces_names_are_mapped_both_ways(
    state: dict[str, Tensor], head: dict[str, Tensor], oracle: Oracle
) -> None:
    theirs = to_hf_timesformer({**state, **head})
    key_map = oracle("time/timesformer_hf")[1]["key_map"]
    assert {key_map[f"model.{key}"] for key in {**state, **head}} == set(theirs)
    for key, value in {**state, **head}.items():
        assert theirs[key_map[f"model.{key}"]] is value
    assert recognise(theirs) == "hf_timesformer"
    assert_close(from_hf_timesformer(theirs), {**state, **head})


def test_hugging_faces_model_without_a_classifier_is_recognised_too(state: dict[str, Tensor]) -> None:
    bare = {key.removeprefix("timesformer."): value for key, value in to_hf_timesformer(state).items()}
    assert recognise(bare) == "hf_timesformer"
    assert_close(from_hf_timesformer(bare), state)


def test_an_image_networks_head_is_dropped(state: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    assert "head.weight" not in FORMATS["vit"].from_({**image_vit(state), **head})
    assert dropped_keys({**image_vit(state), **head}, "vit") == ["head.bias", "head.weight"]


def test_a_classifier_of_ours_gives_its_head(state: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    file = {f"backbone.{key}": value for key, value in state.items()} | head
    assert_close(from_classifier(file), {**state, **head})
    assert_close(from_classifier(state), state)


def test_a_classifiers_names_are_turned_back_too(state: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    classifier = {f"backbone.{key}": value for key, value in state.items()} | head
    both = {**state, **head}
    assert set(to_hf_timesformer(classifier)) == set(to_hf_timesformer(both))
    assert set(to_timesformer(classifier)["model_state"]) == set(to_timesformer(both)["model_state"])
    assert set(to_svt(classifier)) == set(to_svt(state))  # SVT's file has no such head


def test_unknown_keys_pass_through_so_that_the_strict_load_sees_them(state: dict[str, Tensor]) -> None:
    for name in ("svt", "timesformer", "hf_timesformer", "vit"):
        assert "blocks.0.extra" in FORMATS[name].from_({**state, "blocks.0.extra": torch.zeros(1)}), name


def test_something_else_is_refused_by_what_it_holds() -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint format of the zoo \(it holds conv1\.weight, "):
        recognise({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="it holds nothing"):
        recognise({})


def test_containers_are_taken_off_however_deep() -> None:
    value = torch.ones(1)
    assert unwrap({"model": {"state_dict": {"module.a": value}}, "epoch": 1}) == {"a": value}
