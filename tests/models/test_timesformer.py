"""TimeSformer and SVT's backbone: equal to the originals' recorded runs, and right where those were wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub.convert import convert, start_from_image
from svt_zoo.models import Classifier, Features, create_model
from svt_zoo.models.timesformer import DividedBlock, TimeSformer, timesformer

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
TINY = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_frames": 4}
BUG = "nonsq_same_count_32x128"  # as many patches as the trained grid, in another shape
SIZES = ["small32", "small48", "large96", "nonsq_64x96", "nonsq_80x48", "notmult_70x59"]
CASES = ["native", "T1", "T2", "T3", "T8", "T6_32", "local_T16_32", *SIZES]


def tiny(state: dict[str, Tensor], dtype: torch.dtype = torch.float64, **options: Any) -> TimeSformer:
    model = timesformer(**{**TINY, **options}).to(dtype).eval()
    model.load_state_dict({key: state[key].to(dtype) for key in model.state_dict()})
    return model


def original_order(features: Features) -> Tensor:
    """[class, (h w t)] with t fastest, as the original keeps its tokens."""
    return torch.cat((features.cls[:, None], features.patches.transpose(1, 2).flatten(1, 2)), dim=1)


@pytest.mark.parametrize("case", CASES)
def test_divided_attention_equals_the_original(oracle: Oracle, case: str) -> None:
    state, cases = oracle("svt/tiny_model_weights")[0], oracle("svt/tiny_model_cases")[0]
    features = tiny(state)(cases[f"{case}/input"].double())
    assert_close(features.cls, cases[f"{case}/cls"], atol=1e-9, rtol=0)
    assert_close(original_order(features), cases[f"{case}/tokens"], atol=1e-9, rtol=0)
    single = tiny(state, torch.float32)(cases[f"{case}/input"].float())
    assert_close(single.cls.double(), cases[f"{case}/cls"], atol=1e-4, rtol=0)


def test_joint_attention_equals_the_original(oracle: Oracle) -> None:
    state, cases = oracle("svt/tiny_model_weights")[0], oracle("svt/tiny_model_cases")[0]
    features = tiny(state, attention="joint_space_time")(cases["native/input"].double())
    assert_close(features.cls, cases["joint_space_time/cls"], atol=1e-9, rtol=0)
    assert_close(original_order(features), cases["joint_space_time/tokens"], atol=1e-9, rtol=0)


def test_space_only_attention_equals_the_original(oracle: Oracle) -> None:
    state, cases = oracle("svt/tiny_model_weights")[0], oracle("svt/tiny_model_cases")[0]
    model = tiny(state, attention="space_only")
    clip = cases["native/input"].double()
    assert_close(model(clip).cls, cases["space_only/cls"], atol=1e-9, rtol=0)
    norm, model.norm = model.norm, torch.nn.Identity()  # the original averages frames before the norm, patches too
    assert_close(norm(model(clip).patches.mean(dim=1)), cases["space_only/tokens"][:, 1:], atol=1e-9, rtol=0)


def test_a_grid_of_the_same_count_but_another_shape_is_resized_in_two_dimensions(oracle: Oracle) -> None:
    state, cases = oracle("svt/tiny_model_weights")[0], oracle("svt/tiny_model_cases")[0]
    clip = cases[f"{BUG}/input"].double()
    ours = tiny(state)(clip)
    assert (ours.cls - cases[f"{BUG}/cls"]).abs().max() > 0.1  # the original takes the 4x4 table for 2x8 unchanged
    grid = state["pos_embed"][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(2, 8), mode="nearest").flatten(2).transpose(1, 2)
    made_for_it = tiny({**state, "pos_embed": torch.cat((state["pos_embed"][:, :1], resized), 1)}, img_size=(32, 128))
    assert_close(ours, made_for_it(clip), atol=1e-12, rtol=0)


def test_a_clip_one_patch_wide_works(oracle: Oracle) -> None:
    features = tiny(oracle("svt/tiny_model_weights")[0])(torch.zeros(1, 3, 4, 64, 16, dtype=torch.float64))
    assert features.patches.shape == (1, 4, 4, 48)


@pytest.mark.parametrize(
    ("suffix", "options", "clip"),
    [
        ("", {}, "in/x_u8"),
        ("_joint_space_time", {"attention": "joint_space_time"}, "in/x_u8"),
        ("_space_only", {"attention": "space_only"}, "in/x_u8"),
        ("_other_T", {}, "in/x_other_T_u8"),
    ],
)
def test_facebooks_timesformer_is_reproduced(oracle: Oracle, suffix: str, options: dict[str, str], clip: str) -> None:
    tensors, _ = oracle("time/timesformer_fb")
    logits = fb_logits(tensors, clip, torch.float64, **options)
    assert_close(logits, tensors[f"eval/logits{suffix}64"], atol=1e-9, rtol=0)
    single = fb_logits(tensors, clip, torch.float32, **options)
    assert_close(single, tensors[f"eval/logits{suffix}"], atol=1e-4, rtol=0)


def fb_model(tensors: dict[str, Tensor], dtype: torch.dtype, **options: Any) -> Classifier:
    state = convert({k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}).state
    backbone = tiny(state, dtype, **{"depth": 2, **options})
    model = Classifier(backbone, 7).to(dtype).eval()
    model.head.load_state_dict({"weight": state["head.weight"].to(dtype), "bias": state["head.bias"].to(dtype)})
    return model


def fb_logits(tensors: dict[str, Tensor], clip: str, dtype: torch.dtype, **options: Any) -> Tensor:
    return fb_model(tensors, dtype, **options)((tensors[clip].float() / 127.5 - 1).to(dtype))


def test_facebooks_timesformer_at_another_size_is_reproduced(oracle: Oracle) -> None:
    tensors, _ = oracle("time/timesformer_fb")
    logits = fb_logits(tensors, "in/x_other_img_u8", torch.float64)
    assert_close(logits, tensors["eval/logits_other_img64"], atol=1e-9, rtol=0)


def test_gradients_equal_facebooks(oracle: Oracle) -> None:
    tensors, record = oracle("time/timesformer_fb")
    model = fb_model(tensors, torch.float32)
    logits = model(tensors["in/x_u8"].float() / 127.5 - 1)
    loss = F.cross_entropy(logits, torch.tensor(record["train"]["labels"]))
    loss.backward()
    assert_close(loss.item(), record["train"]["loss"], atol=1e-5, rtol=0)
    for name, norm in record["train"]["grad_norms"].items():
        parameter = model.get_parameter(name if name.startswith("head.") else f"backbone.{name}")
        assert_close(parameter.grad.norm().item(), norm, atol=1e-4, rtol=1e-4, msg=name)


def test_hugging_faces_timesformer_is_reproduced(oracle: Oracle) -> None:
    fb, _ = oracle("time/timesformer_fb")
    hf, record = oracle("time/timesformer_hf")
    theirs = {k: record["key_map"][k.removeprefix("weights/")] for k in fb if k.startswith("weights/")}
    state = convert({theirs[k]: fb[k] for k in theirs}).state
    clip = fb["in/x_u8"].float() / 127.5 - 1
    for attention in ("divided_space_time", "joint_space_time"):
        model = Classifier(tiny(state, torch.float32, depth=2, attention=attention), 7).eval()
        model.head.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
        assert_close(model(clip), hf[f"hf/logits_{attention}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["T1", "T4", "T8_32"])
def test_an_image_network_starts_a_video_network(oracle: Oracle, case: str) -> None:
    tensors, _ = oracle("svt/dino_init")
    image = {k.removeprefix("image_sd/"): v for k, v in tensors.items() if k.startswith("image_sd/")}
    model = tiny(start_from_image(image, timesformer(**TINY).double().state_dict()))
    feature = model(tensors[f"{case}/input"].double()).cls
    assert_close(feature, tensors[f"{case}/cls_video_model"], atol=1e-9, rtol=0)
    if case == "T1":
        assert_close(feature, tensors["T1/cls_image_model"], atol=1e-9, rtol=0)


def test_at_first_the_order_of_frames_does_not_matter() -> None:
    torch.manual_seed(0)
    model = timesformer(**TINY).double().eval()
    clip = torch.randn(1, 3, 4, 64, 64, dtype=torch.float64)
    assert_close(model(clip).cls, model(clip[:, :, [2, 0, 3, 1]]).cls, atol=1e-12, rtol=0)


def test_temporal_fc_starts_at_zero_in_every_block() -> None:
    model = timesformer(**TINY)
    for block in model.blocks:
        assert isinstance(block, DividedBlock)
        assert block.temporal_fc.weight.abs().max() == 0
        assert block.temporal_fc.bias.abs().max() == 0
    assert model.time_embed.abs().max() == 0


def test_vitb_has_the_originals_parameters_in_the_originals_order() -> None:
    with torch.device("meta"):
        model = create_model("svt_vitb")
    assert sum(p.numel() for p in model.parameters()) == 121_258_752
    names = list(model.state_dict())
    assert len(names) == 247
    assert names[:5] == ["cls_token", "pos_embed", "time_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert names[-2:] == ["norm.weight", "norm.bias"]


def test_drop_path_decides_per_tube_per_frame_and_per_clip() -> None:
    torch.manual_seed(0)
    block = DividedBlock(48, 4, 4.0, True, 0.5)
    torch.nn.init.eye_(block.temporal_fc.weight)
    patches = torch.randn(2, 4, 9, 48)
    block.eval()
    full = block._along_time(patches) - block.temporal_fc.bias
    block.train()
    ratio = (block._along_time(patches) - block.temporal_fc.bias).norm(dim=-1) / full.norm(dim=-1)  # (B, T, N)
    assert_close(ratio, ratio[:, :1].expand_as(ratio))  # one decision per position, for all its frames
    assert {round(v, 3) for v in ratio.flatten().tolist()} == {0.0, 2.0}
    block.eval()
    full = block._inside_frames(patches[:, 0, :1], patches)
    block.train()
    ratio = block._inside_frames(patches[:, 0, :1], patches).norm(dim=-1) / full.norm(dim=-1)  # (B, T, 1+N)
    assert_close(ratio, ratio[:, :, :1].expand_as(ratio))  # one decision per frame, for all its tokens
    assert {round(v, 3) for v in ratio.flatten().tolist()} == {0.0, 2.0}


@pytest.mark.parametrize(("mode", "torch_mode"), [("linear", "bilinear"), ("cubic", "bicubic"), ("nearest", "nearest")])
def test_positions_are_stretched_by_the_mode_asked_for(mode: str, torch_mode: str) -> None:
    model = timesformer(**{**TINY, "pos_mode": mode})
    grid = model.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 3), mode=torch_mode).flatten(2).transpose(1, 2)
    assert_close(model.positions((6, 3))[1], expected)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(3, 4, 64, 64), r"must be \(B, C=3, T, H, W\), got shape \(3, 4, 64, 64\)"),
        (torch.zeros(1, 4, 3, 64, 64), r"must be \(B, C=3, T, H, W\)"),
        (torch.zeros(1, 3, 4, 64, 15), r"at least 1 frame of 16 x 16 pixels, got \(T, H, W\) = \(4, 64, 15\)"),
    ],
)
def test_a_wrong_clip_is_refused_with_its_shape(clip: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timesformer(**TINY)(clip)


def test_an_unknown_attention_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="divided_space_time, joint_space_time, space_only, got 'divided'"):
        timesformer(attention="divided")


def test_a_removed_table_is_refused_by_name_and_the_one_that_remains_is_accepted() -> None:
    timesformer(**TINY, table="per_view")
    with pytest.raises(ValueError, match="table='shared_max' was removed"):
        timesformer(**TINY, table="shared_max")
