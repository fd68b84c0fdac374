"""CPC's network and its parts equal the original's and torchvision's, and meet the zoo's backbone contract."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_cpc import SMALL
from small_svt import part
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.models import Backbone, create_model
from svt_zoo.models.attention import record_attention
from svt_zoo.models.cpc import (
    RESNETS,
    ConvGRU,
    FrameResNet,
    MaskedAttention,
    ResidualBlock,
    StdNorm,
    sinusoids,
    space_time_sinusoids,
)

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


def component(oracle: Oracle, name: str, module: nn.Module) -> tuple[dict[str, Tensor], nn.Module]:
    """The record of a part, and `module` with its weights."""
    recorded = part(oracle("cpc/components")[0], f"comp.{name}.")
    module.double().load_state_dict(part(recorded, "w."), strict=True)
    return recorded, module


def close(found: Tensor, expected: Tensor) -> None:
    assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("relu", [0, 1])
def test_a_basic_block_equals_the_original(oracle: Oracle, relu: int) -> None:
    block = ResidualBlock(4, 6, stride=2, bottleneck=False, final_relu=bool(relu))
    recorded, block = component(oracle, f"basicblock_relu{relu}", block)
    close(block.train()(recorded["x"]), recorded["y_train"])
    recorded, block = component(oracle, f"basicblock_relu{relu}", block)
    close(block.eval()(recorded["x"]), recorded["y_eval"])


def test_a_bottleneck_equals_the_original(oracle: Oracle) -> None:
    recorded, block = component(oracle, "bottleneck", ResidualBlock(8, 2, stride=1, bottleneck=True, final_relu=True))
    found = [block.eval()(recorded["x"]), component(oracle, "bottleneck", block)[1].train()(recorded["x"])]
    assert min((value - recorded["y"]).abs().max() for value in found) < 1e-12


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_step_of_the_recurrent_network_equals_the_original(oracle: Oracle, kernel_size: int) -> None:
    recorded, gru = component(oracle, f"convgru_cell_k{kernel_size}", ConvGRU(4, 6, kernel_size=kernel_size))
    close(gru.step(recorded["x"], recorded["h"]), recorded["y"])
    close(gru.step(recorded["x"], None), recorded["y_h_none"])


def test_two_recurrent_layers_equal_the_original(oracle: Oracle) -> None:
    recorded = part(oracle("cpc/components")[0], "comp.convgru_2layer.")
    layers = [ConvGRU(4, 6).double(), ConvGRU(6, 6).double()]
    for i, layer in enumerate(layers):
        layer.load_state_dict(part(recorded, f"w.ConvGRUCell_0{i}."), strict=True)
    first = layers[0](recorded["x"])
    second = layers[1](first)
    close(second, recorded["outputs"])
    close(torch.stack((first[:, -1], second[:, -1]), dim=1), recorded["last_states"])


def test_the_norm_equals_the_original(oracle: Oracle) -> None:
    recorded = part(oracle("cpc/components")[0], "comp.layernorm.")
    norm = StdNorm(6).double()
    norm.load_state_dict({"weight": recorded["w.a_2"], "bias": recorded["w.b_2"]})
    close(norm(recorded["x"]), recorded["y"])


def test_the_norm_of_equal_values_has_a_finite_gradient() -> None:
    x = torch.ones(2, 6, requires_grad=True)
    StdNorm(6)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_attention_equals_the_original_with_and_without_a_mask(oracle: Oracle) -> None:
    recorded = part(oracle("cpc/components")[0], "comp.mha.")
    attention = MaskedAttention(8, 2, dropout=0.0).double()
    state = {"proj.weight": recorded["w.linears.3.weight"], "proj.bias": recorded["w.linears.3.bias"]}
    for kind in ("weight", "bias"):
        state[f"qkv.{kind}"] = torch.cat([recorded[f"w.linears.{i}.{kind}"] for i in range(3)])
    attention.load_state_dict(state)
    close(attention(recorded["x"]), recorded["y"])
    close(attention(recorded["x"], recorded["mask"][:1, None].bool()), recorded["y_masked"])
    close(attention.weights(recorded["x"]), recorded["attn"])


def test_sinusoids_equal_the_originals_unused_table(oracle: Oracle) -> None:
    expected = oracle("cpc/components")[0]["comp.positional_encoding_unused.first12"]
    assert_close(sinusoids(12, 16), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_first_three_stages_are_torchvisions(name: str) -> None:
    from torchvision.models import get_model

    depths, bottleneck, embed_dim = RESNETS[name]
    theirs, ours = get_model(name).eval(), FrameResNet(depths, embed_dim, bottleneck=bottleneck).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("layer4", "fc"))}
    assert set(state) == {key for key in ours.state_dict() if not key.startswith("layer4")}
    ours.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 70, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    expected = theirs.layer3(theirs.layer2(theirs.layer1(x)))
    ours.layer4 = nn.Identity()
    assert_close(ours(images), expected)


def test_features_may_be_negative_and_odd_edges_count() -> None:
    maps = FrameResNet((1, 1, 1, 1), 16, bottleneck=False)(torch.randn(2, 3, 196, 100))
    assert maps.shape == (2, 16, 7, 4)
    assert maps.min() < 0


def small(**options: Any) -> Any:
    torch.manual_seed(0)
    network = create_model("cpc_resnet18", **{**SMALL, **options})
    assert isinstance(network, Backbone)
    return network.eval()


def test_cls_is_the_mean_of_the_tokens_or_of_the_context() -> None:
    clip = torch.randn(2, 3, 5, 64, 64)
    features = small()(clip)
    assert_close(features.cls, features.patches.mean(dim=(1, 2)))
    network = small(pool="context")
    assert network.context(clip).shape == (2, 16, 2, 2)
    assert_close(network(clip).cls, network.context(clip).mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="pool must be one of tokens, context, got 'last'"):
        small(pool="last")


def test_what_waits_for_a_gradient_gets_one_whatever_the_features_are_made_of() -> None:
    for pool in ("tokens", "context"):
        network = small(pool=pool)
        network(torch.randn(2, 3, 3, 64, 64)).cls.square().sum().backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
        assert all(p.requires_grad == (pool == "context") for p in network.gru.parameters())


def test_without_positions_the_transformer_does_not_know_the_order_of_frames() -> None:
    clip, order = torch.randn(1, 3, 5, 64, 64), [3, 1, 4, 0, 2]
    assert_close(small()(clip[:, :, order]).patches, small()(clip).patches[:, order])
    placed = small(positions=True)
    assert not torch.allclose(placed(clip[:, :, order]).patches, placed(clip).patches[:, order], atol=1e-3)
    assert space_time_sinusoids(3, (2, 4), 16).shape == (3, 8, 16)


def test_a_causal_transformer_sees_no_later_frame() -> None:
    network, clip = small(), torch.randn(1, 3, 5, 64, 64)
    frames, grid = network.frame_features(clip), network.grid(clip)
    shorter = network.tokens(frames[:, :3], grid, causal=True)
    assert_close(network.tokens(frames, grid, causal=True)[:, :3], shorter)


def test_attention_can_be_recorded() -> None:
    network = small(depth=2)
    with record_attention(network) as maps:
        network(torch.randn(2, 3, 5, 64, 64))
    assert list(maps) == ["blocks.0.attn", "blocks.1.attn"]
    assert_close(maps["blocks.1.attn"].sum(dim=-1), torch.ones(2, 2, 20, 20)[..., 0])


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a clip must be \(B, C=3, T, H, W\), got shape \(3, 5, 64, 64\)"):
        small()(torch.randn(3, 5, 64, 64))
    with pytest.raises(ValueError, match="embed_dim of this ResNet must be a multiple of 16, got 40"):
        create_model("cpc_resnet50", embed_dim=40)
