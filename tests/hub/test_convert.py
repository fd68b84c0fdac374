"""Checkpoints of other code: recognized, renamed key by key, and converted back."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub.convert import convert, to_hf_timesformer, to_svt, to_timesformer
from svt_zoo.hub.state_dicts import from_classifier, rename, unwrap
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


def assert_converts(checkpoint: dict[str, Any], kind: str, state: dict[str, Tensor]) -> None:
    converted = convert(checkpoint)
    assert converted.kind == kind
    assert_close(converted.state, state, atol=0, rtol=0)


def test_svts_released_file_is_converted(state: dict[str, Tensor]) -> None:
    file = svt_file(state)
    assert_converts(file, "timesformer", state)
    assert convert(file).unused == sorted(key for key in file if key.startswith("head."))


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
    assert_converts(checkpoint, "timesformer", state)
    assert {"args", "dino_loss", "epoch", "motion_teacher", "optimizer", "student"} < set(convert(checkpoint).unused)
    del checkpoint["teacher"]
    assert_close(convert(checkpoint).state["cls_token"], state["cls_token"] + 1)


def test_svts_names_come_back(state: dict[str, Tensor]) -> None:
    back = to_svt(state)
    assert set(back) == {key for key in svt_file(state) if key.startswith("backbone.")}
    assert_converts(back, "timesformer", state)


@pytest.mark.parametrize("container", ["model_state", "model", "state_dict", None])
def test_facebooks_timesformer_is_converted(
    state: dict[str, Tensor], head: dict[str, Tensor], container: str | None
) -> None:
    flat = {f"model.{key}": value for key, value in {**state, **head}.items()}
    assert_converts(
        {container: flat, "epoch": 14, "cfg": "TRAIN:"} if container else flat, "timesformer", {**state, **head}
    )


def test_facebooks_names_come_back(state: dict[str, Tensor], head: dict[str, Tensor], oracle: Oracle) -> None:
    back = to_timesformer({**state, **head})
    assert_converts(back, "timesformer", {**state, **head})
    recorded = oracle("time/timesformer_fb")[1]["weight_keys"]
    assert set(back["model_state"]) == set(recorded)  # two blocks there, two here


def test_times_own_heads_are_dropped_by_name(oracle: Oracle) -> None:
    tensors, _ = oracle("time/timesformer_time")
    file = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    converted = convert({"model_state": file})
    assert converted.kind == convert(file).kind == "timesformer"
    left_out = set(file) - set(converted.state)
    assert {key.partition(".")[0] for key in left_out} == {
        "temp_head", "mlp_q", "mlp_k", "mlp_v", "mlp_proj", "mlp_norm", "flow_head"
    }  # fmt: skip
    assert sorted(left_out) == converted.unused


def test_hugging_faces_names_are_mapped_both_ways(
    state: dict[str, Tensor], head: dict[str, Tensor], oracle: Oracle
) -> None:
    theirs = to_hf_timesformer({**state, **head})
    key_map = oracle("time/timesformer_hf")[1]["key_map"]
    assert {key_map[f"model.{key}"] for key in {**state, **head}} == set(theirs)
    for key, value in {**state, **head}.items():
        assert theirs[key_map[f"model.{key}"]] is value
    assert_converts(theirs, "hf_timesformer", {**state, **head})


def test_hugging_faces_model_without_a_classifier_is_converted_too(state: dict[str, Tensor]) -> None:
    bare = {key.removeprefix("timesformer."): value for key, value in to_hf_timesformer(state).items()}
    assert_converts(bare, "hf_timesformer", state)


def test_an_image_networks_projection_head_is_dropped(state: dict[str, Tensor]) -> None:
    converted = convert({**image_vit(state), "head.mlp.0.weight": torch.zeros(2), "fc_norm.bias": torch.zeros(2)})
    assert converted.kind == "vit"
    assert converted.unused == ["fc_norm.bias", "head.mlp.0.weight"]
    assert set(converted.state) == set(image_vit(state))


def test_a_classifiers_names_are_turned_back_too(state: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    classifier = {f"backbone.{key}": value for key, value in state.items()} | head
    both = {**state, **head}
    assert_close(from_classifier(classifier), both)
    assert_close(from_classifier(state), state)
    assert set(to_hf_timesformer(classifier)) == set(to_hf_timesformer(both))
    assert set(to_timesformer(classifier)["model_state"]) == set(to_timesformer(both)["model_state"])
    assert set(to_svt(classifier)) == set(to_svt(state))  # SVT's file has no such head


def test_unknown_keys_pass_through_so_that_the_strict_load_sees_them(state: dict[str, Tensor]) -> None:
    extra = {"blocks.0.extra": torch.zeros(1)}
    for file in (to_svt({**state, **extra}), {**state, **extra}, {**image_vit(state), **extra}):
        assert "blocks.0.extra" in convert(file).state
    assert "blocks.0.extra" in convert({**to_hf_timesformer(state), **extra}).state


def test_something_else_is_not_recognized() -> None:
    assert convert({"conv1.weight": torch.zeros(1)}).kind == convert({}).kind == ""


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ({b"a": torch.zeros(1)}, r"a key is b'a', which is no text"),
        ({"a": torch.zeros(1).to_sparse()}, "a is a sparse or quantized tensor"),
    ],
)
def test_what_is_no_dense_tensor_with_a_name_is_refused(file: dict[Any, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        convert(file)


def test_containers_are_taken_off_however_deep() -> None:
    value = torch.ones(1)
    assert unwrap({"model": {"state_dict": {"module.a": value}}, "epoch": 1}) == ({"a": value}, ["epoch"])


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "model.", "net.", "_fsdp_wrapped_module.", "net.module.backbone."]
)
def test_prefixes_of_wrappers_are_removed(state: dict[str, Tensor], prefix: str) -> None:
    file = {prefix + key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): value for key, value in state.items()}
    assert_converts(file, "timesformer", state)


def test_any_other_prefix_can_be_named(state: dict[str, Tensor]) -> None:
    file = {"nets": {"encoder": state, "decoder": {"a": torch.zeros(1)}}, "epoch": 3}
    assert convert(file).kind == ""
    converted = convert(file, "nets.encoder.")
    assert_close(converted.state, state)
    assert converted.unused == ["epoch", "nets.decoder.a"]
    with pytest.raises(ValueError, match=r"no entry has the prefix 'nest\.'; the first is 'nets\.encoder\.cls_token'"):
        convert(file, "nest.")


def test_a_rule_renames_the_start_of_a_key_up_to_a_dot() -> None:
    value = torch.ones(1)
    rules = [("layer.{i}.norm", "blocks.{i}.norm1"), ("head", "classifier")]
    state = {"layer.12.norm.bias": value, "header.bias": value, "head": value}
    renamed = rename(state, rules)
    assert set(renamed) == {"blocks.12.norm1.bias", "header.bias", "classifier"}
    assert rename(renamed, rules, back=True) == state
