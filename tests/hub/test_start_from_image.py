"""A video network is initialized from an image network, by the rules of the originals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub.convert import convert, start_from_image
from svt_zoo.models import create_model

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_frames": 4, "img_size": 32}


def fresh(name: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return create_model(name, **{**TINY, **options}).state_dict()


@pytest.fixture(scope="module")
def image() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = create_model("timesformer_vitt", **TINY).state_dict()
    return {key: value for key, value in state.items() if "temporal" not in key and key != "time_embed"}


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_an_image_network_lends_time_a_copy_of_its_spatial_attention(image: dict[str, Tensor], prefix: str) -> None:
    file = {f"{prefix}{key}": value for key, value in image.items()}
    state = fresh("timesformer_vitt")
    video = start_from_image(convert(file).state, state)
    assert set(video) == set(state)
    for key, value in video.items():
        if "temporal_fc" in key or key == "time_embed":
            assert value.abs().max() == 0, key
        else:
            assert_close(value, image[key.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")])


def test_the_copy_is_the_originals(oracle: Oracle) -> None:
    tensors, record = oracle("svt/dino_init")
    image = {key.removeprefix("image_sd/"): value for key, value in tensors.items() if key.startswith("image_sd/")}
    network = create_model("svt_vitt", embed_dim=48, depth=3, num_heads=4, num_frames=4, img_size=64)
    video = start_from_image(convert(image).state, network.state_dict())
    assert set(video) == set(record["mapping"])
    for key, rule in record["mapping"].items():
        if rule.startswith("copied from "):
            assert_close(video[key], image[rule.removeprefix("copied from ")])
        else:
            assert video[key].abs().max() == 0


MOTIONFORMERS = {
    "imagenet_init_trajectory_separate": {},
    "imagenet_init_trajectory_joint_pos": {"positions": "joint"},
    "imagenet_init_divided": {"attention": "divided"},
}


@pytest.mark.parametrize("rules", MOTIONFORMERS)
def test_motionformer_starts_as_the_original_does(oracle: Oracle, image: dict[str, Tensor], rules: str) -> None:
    record = {name: table for name, table in oracle("time/motionformer_fb")[1].items() if name.startswith(rules)}
    options = MOTIONFORMERS[rules]
    state = fresh("motionformer_vitt", tubelet_frames=2, **options)
    video = start_from_image(image, state)
    assert set(video) == set(state)
    (table,) = record.values()
    for key, value in video.items():
        rule = table[key]
        if rule == "copied":
            assert_close(value, image[key], msg=key)
        elif rule == "zero":
            assert value.abs().max() == 0, key
        elif rule == "constant 1.0":
            assert_close(value, torch.ones_like(value))
        elif rule.startswith("fresh init"):
            assert_close(value, state[key], msg=key)
    kernel, table_2d = video["patch_embed_3d.proj.weight"], image["patch_embed.proj.weight"]
    assert_close(kernel[:, :, 1], table_2d)  # frame 2 // 2
    assert kernel[:, :, 0].abs().max() == 0
    assert_close(video["patch_embed_3d.proj.bias"], image["patch_embed.proj.bias"])
    if options.get("positions") == "joint":
        assert_close(video["st_embed"][:, :5], image["pos_embed"])
        assert_close(video["st_embed"][:, 5:], image["pos_embed"][:, 1:])


@pytest.mark.parametrize("name", ["timesformer", "motionformer", "xvit"])
def test_times_networks_start_as_the_original_does(oracle: Oracle, image: dict[str, Tensor], name: str) -> None:
    rules = oracle("time/full_size_time")[1]["time"][name]["init"]
    state = fresh(f"{name}_vitt")
    video = start_from_image(image, state)
    assert set(video) == set(state)
    for key, value in video.items():
        (rule,) = rules[key.replace("blocks.0", "blocks.*").replace("blocks.1", "blocks.*")]
        if rule == "copied from ViT":
            assert_close(value, image[key.removeprefix("base_model.")], msg=key)
        elif rule == "copy of spatial twin":
            assert_close(value, image[key.replace("temporal_", "")], msg=key)
        else:
            assert_close(value, state[key], msg=key)
            constant = {"zero": 0.0, "one": 1.0}.get(rule)
            assert constant is None or bool((value == constant).all()), key


def test_what_an_image_file_lacks_or_has_too_much_is_left_to_the_strict_load(image: dict[str, Tensor]) -> None:
    for name in ("timesformer_vitt", "motionformer_vitt", "xvit_vitt"):
        state = fresh(name)
        lacking = start_from_image({key: image[key] for key in image if key != "norm.weight"}, state)
        assert {key.removeprefix("base_model.") for key in set(state) - set(lacking)} == {"norm.weight"}
        too_much = start_from_image({**image, "blocks.0.extra": torch.zeros(1)}, state)
        assert {key.removeprefix("base_model.") for key in set(too_much) - set(state)} == {"blocks.0.extra"}
