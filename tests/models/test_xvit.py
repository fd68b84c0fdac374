"""X-ViT: equal to the originals' recorded runs, for any clip, and right where those were wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import svt_zoo
from svt_zoo.models import Classifier, create_model
from svt_zoo.models.attention import record_attention
from svt_zoo.models.xvit import XViT, shift_frames

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
# The recorded networks keep the 14 x 14 grid of 224 pixels, and see frames of 64.
TINY: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4, "consensus_dim": 40}


def tiny(oracle: Oracle, name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Classifier, Tensor]:
    """The recorded network `name` and its input clip."""
    tensors, _ = oracle(f"time/{name}")
    state = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    backbone = XViT(**{**TINY, "temporal_table": "tile", **options})
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()}, strict=True)
    model = Classifier(backbone, 7)
    head = "consensus.mlp_head.4" if name == "xvit_orig" else "consensus.head"
    model.head.load_state_dict({part: state[f"{head}.{part}"] for part in ("weight", "bias")})
    clip = clip_of(tensors["in/x_u8"], dtype)
    return model.to(dtype).eval(), clip if name == "xvit_orig" else clip.transpose(1, 2)


def clip_of(u8: Tensor, dtype: torch.dtype) -> Tensor:
    return (u8.float() / 127.5 - 1).to(dtype)


def near(actual: Tensor, recorded: Tensor) -> None:
    """Equal up to float32 precision, the precision of the record."""
    assert_close(actual.double(), recorded.double(), atol=3e-5 * max(1.0, recorded.abs().max().item()), rtol=0)


@pytest.mark.parametrize("name", ["xvit_time", "xvit_orig"])
def test_logits_equal_the_originals(oracle: Oracle, name: str) -> None:
    recorded = oracle(f"time/{name}")[0]
    model, clip = tiny(oracle, name)
    assert_close(model(clip), recorded["eval/logits64"], atol=1e-9, rtol=0)
    model, clip = tiny(oracle, name, torch.float32)
    near(model(clip), recorded["eval/logits"])


def test_tokens_inside_the_network_equal_the_originals(oracle: Oracle) -> None:
    recorded = oracle("time/xvit_time")[0]
    model, clip = tiny(oracle, "xvit_time", torch.float32)
    seen: dict[str, Tensor] = {}
    encoder = model.backbone.base_model
    for name, module in [("block0", encoder.blocks[0]), ("block1", encoder.blocks[1]), ("norm", encoder.norm)]:
        module.register_forward_hook(lambda _module, _inputs, out, name=name: seen.__setitem__(name, out.flatten(0, 1)))
    features = model.backbone(clip)
    for name, tokens in seen.items():
        near(tokens, recorded[f"feat/{name}"])
    near(features.patches.flatten(0, 1), recorded["feat/norm"][:, 1:])
    near(features.patches.mean(dim=2), recorded["feat/frame_mean"])
    near(features.cls, recorded["feat/consensus_mlp"])


def test_a_block_alone_equals_the_original(oracle: Oracle) -> None:
    recorded = oracle("time/xvit_time")[0]
    model, _ = tiny(oracle, "xvit_time", torch.float32)
    tokens = recorded["block_last/in"].unflatten(0, (2, 4))
    near(model.backbone.base_model.blocks[-1](tokens, 4).flatten(0, 1), recorded["block_last/out"])


@pytest.mark.parametrize(("div", "name"), [(4, "shift/out"), (8, "shift/out_div8")])
def test_the_shift_equals_the_original(oracle: Oracle, div: int, name: str) -> None:
    recorded = oracle("time/xvit_time")[0]
    by_head = recorded["shift/in"].unflatten(0, (2, 4))  # (B, T, h, S, d)
    flat = by_head.transpose(2, 3).flatten(3)  # (B, T, S, D)
    out = shift_frames(flat, div).unflatten(3, (4, 12)).transpose(2, 3).flatten(0, 1)
    assert_close(out, recorded[name], atol=0, rtol=0)


def test_a_network_that_shifts_nowhere_equals_the_original(oracle: Oracle) -> None:
    model, clip = tiny(oracle, "xvit_time", locations=())
    near(model(clip), oracle("time/xvit_time")[0]["eval/logits_no_shift"])


def test_shuffled_frames_in_training_mode_equal_the_original(oracle: Oracle) -> None:
    recorded = oracle("time/xvit_time")[0]
    model, clip = tiny(oracle, "xvit_time")
    model.train()
    logits = model(clip[:, :, recorded["train/perm0"]])
    assert_close(logits, recorded["train/out64/logits_shuffled"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("segments", "name"), [(None, "logits_double_T"), (4, "logits_double_T_segments_T")])
def test_a_clip_twice_as_long_as_the_time_table_equals_the_original(
    oracle: Oracle, segments: int | None, name: str
) -> None:
    recorded = oracle("time/xvit_orig")[0]
    model, _ = tiny(oracle, "xvit_orig", segments=segments)
    near(model(clip_of(recorded["in/x_double_T_u8"], torch.float64)), recorded[f"eval/{name}"])


def test_gradients_equal_the_originals(oracle: Oracle) -> None:
    _, record = oracle("time/xvit_orig")
    model, clip = tiny(oracle, "xvit_orig", torch.float32)
    loss = F.cross_entropy(model(clip), torch.tensor(record["train"]["labels"]))
    loss.backward()
    assert_close(loss.item(), record["train"]["loss"], atol=1e-5, rtol=0)
    for name, norm in record["train"]["grad_norms"].items():
        if name.startswith("new_fc"):  # the original's left-over layer has none
            continue
        ours = f"backbone.{name}".replace("backbone.consensus.mlp_head.4", "head")
        assert_close(model.get_parameter(ours).grad.norm().item(), norm, atol=1e-4, rtol=1e-4, msg=name)


def test_vitb_has_the_originals_parameters(oracle: Oracle) -> None:
    record = oracle("time/full_size_time")[1]
    with torch.device("meta"):
        model = create_model("xvit_vitb", num_classes=174)
    count = sum(p.numel() for p in model.parameters())
    ours = record["time"]["xvit"]
    assert count == ours["params_without_aux"] == 93_617_070
    original = record["other_models"]["X-ViT original SSv2 16x16, 174 classes"]
    assert count == original["params"] - original["unused_new_fc"]
    for name, tensor in model.backbone.state_dict().items():
        parts = name.split(".")
        generic = ".".join("*" if parts[i - 1] == "blocks" else part for i, part in enumerate(parts))
        assert list(tensor.shape) == ours["shapes"][generic], name


def test_vitb_needs_the_originals_work(oracle: Oracle) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    by_op = oracle("time/full_size_time")[1]["time"]["xvit"]["gmacs_by_op"]
    with torch.device("meta"):
        model, clip = create_model("xvit_vitb", num_classes=174).eval(), torch.empty(1, 3, 8, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    recorded = by_op["conv"] + by_op["linear"] + by_op["matmul"]
    assert_close(counter.get_total_flops() / 2e9, recorded, rtol=1e-3, atol=0)


def test_channels_come_from_the_next_the_previous_and_the_own_frame() -> None:
    frames = torch.arange(1.0, 4.0).view(1, 3, 1).expand(1, 3, 4)  # frame t has value t everywhere
    assert shift_frames(frames, 4)[0].tolist() == [[2, 0, 1, 1], [3, 1, 2, 2], [0, 2, 3, 3]]
    assert shift_frames(frames, 4, 2)[0].tolist() == [[2, 0, 1, 1], [0, 1, 2, 2], [0, 0, 3, 3]]
    assert shift_frames(frames[:, :1], 4)[0].tolist() == [[0, 0, 1, 1]]


def test_a_frame_sees_one_neighbour_further_with_every_block() -> None:
    torch.manual_seed(0)
    model = XViT(**{**TINY, "num_frames": 8, "img_size": 32}).double().eval()
    clip = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    other = clip.clone()
    other[:, :, 0] = 0
    moved = (model(clip).patches - model(other).patches).abs().amax(dim=(0, 2, 3))  # (T,)
    assert (moved > 1e-9).tolist() == [True] * 3 + [False] * 5  # two blocks


def test_a_tiled_time_table_begins_anew_and_a_stretched_one_does_not() -> None:
    table = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 1, 48)
    for mode, expected in (("tile", [0, 1, 2, 3, 0, 1]), ("nearest", [0, 0, 1, 2, 2, 3])):
        encoder = XViT(**TINY, temporal_table=mode).base_model
        encoder.temp_embed.data.copy_(table)
        assert encoder.times(6)[0, :, 0, 0].tolist() == expected
        assert_close(encoder.times(4), table)


def test_crop_976_works_where_a_scale_factor_would_lose_a_row() -> None:
    model = XViT(embed_dim=8, depth=1, num_heads=2, num_frames=1).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 1, 976, 32)).patches.shape == (1, 1, 61 * 2, 8)
    table = torch.zeros(1, 8, 14, 14)
    assert F.interpolate(table, scale_factor=(976 // 16) / 14, mode="bicubic").shape[-1] == 60


def test_no_graph_is_built_under_no_grad() -> None:
    model = XViT(**TINY)
    kept: list[bool] = []
    model.base_model.blocks[0].register_forward_hook(lambda _module, _inputs, out: kept.append(out.requires_grad))
    with torch.no_grad():
        features = model(torch.zeros(1, 3, 4, 32, 32))
    assert kept == [False]
    assert not features.cls.requires_grad


def test_dropout_falls_on_the_class_feature_and_on_every_frames() -> None:
    torch.manual_seed(0)
    model, clip = XViT(**TINY, dropout=0.5), torch.randn(8, 3, 2, 32, 32)
    whole = model.eval()(clip)
    dropped = model.train()(clip)
    ratio = (dropped.cls / whole.cls).round(decimals=3)
    assert set(ratio.flatten().tolist()) == {0.0, 2.0}
    assert_close(dropped.patches, whole.patches)

    model = XViT(**TINY, frame_dropout=0.5)
    seen: list[Tensor] = []
    model.consensus.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.eval()(clip)
    model.train()(clip)
    assert set((seen[1] / seen[0]).round(decimals=3).flatten().tolist()) == {0.0, 2.0}


def test_a_new_network_has_no_time_and_the_consensus_pytorchs_default_weights() -> None:
    torch.manual_seed(0)
    model = create_model("xvit_vits", depth=1)
    assert model.base_model.temp_embed.abs().max() == 0
    assert model.consensus.cls_token.abs().max() == 0
    assert 0.015 < model.base_model.blocks[0].attn.qkv.weight.std() < 0.025
    bound = 384**-0.5  # uniform in +-1/sqrt(fan_in)
    assert 0.99 * bound < model.consensus.temporal_encoder[0].attn.qkv.weight.abs().max() <= bound
    assert model.consensus.temporal_encoder[0].attn.qkv.bias is None
    assert {m.eps for m in model.consensus.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in model.base_model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


def test_the_consensus_can_have_heads_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, clip = XViT(**TINY, consensus_heads=3).eval(), torch.randn(2, 3, 4, 32, 32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    other = XViT(**TINY).eval()
    other.load_state_dict(model.state_dict())  # a state dict does not tell the number of heads
    assert_close(other(clip).patches, model(clip).patches)
    assert (other(clip).cls - model(clip).cls).abs().max() > 1e-4
    with record_attention(model) as maps:
        model(clip)
    assert maps["consensus.temporal_encoder.0.attn"].shape == (2, 3, 5, 5)

    saved = create_model("xvit_vitt", **TINY, consensus_heads=3)
    saved.load_state_dict(model.state_dict())
    again = svt_zoo.from_pretrained(saved.save_pretrained(tmp_path))
    assert_close(again(clip).cls, model(clip).cls, atol=0, rtol=0)


def test_attention_inside_frames_can_be_recorded() -> None:
    model = XViT(**TINY).eval()
    with record_attention(model) as maps:
        model(torch.randn(2, 3, 4, 32, 48))
    assert maps["base_model.blocks.1.attn"].shape == (2 * 4, 4, 7, 7)
    assert maps["consensus.temporal_encoder.0.attn"].shape == (2, 4, 5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temporal_table": "linear"}, "temporal_table must be one of nearest, tile, got 'linear'"),
        ({"shift_div": 1}, "shift_div must be >= 2"),
        ({"segments": 0}, r"segments \(frames per run\) must be >= 1, or None"),
        ({"locations": [1, 2]}, r"locations must name blocks 0 to 1, got \[2\]"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XViT(**TINY, **options)
