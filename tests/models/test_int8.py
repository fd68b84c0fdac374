import copy
import pickle

import pytest
import torch
from small_models import small
from torch import nn

from svt_zoo.models import create_model
from svt_zoo.models.int8 import (
    Int8Linear,
    has_exact_products,
    int8_layers,
    int8_state,
    quantize_weight,
    to_float,
    to_int8,
)

pytestmark = pytest.mark.skipif(
    not has_exact_products(), reason="the processor has no exact int8 products, and int8 is refused"
)


CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_formula_with_rounded_weights_and_rounded_rows(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 40, bias=bias)
    x = torch.randn(3, 5, 64) * torch.tensor([1e-3, 1, 10, 1e3, 0.0])[:, None]  # each row has a scale of its own
    weight, scale = quantize_weight(linear.weight)
    assert scale.shape == (40,)
    assert weight.abs().amax(dim=1).eq(127).all()
    least = x.amin(dim=-1, keepdim=True)
    step = ((x.amax(dim=-1, keepdim=True) - least) / 255).clamp_min(1e-12)
    rows = torch.floor((x - least) / step + 0.5) * step + least
    expected = nn.functional.linear(rows, weight * scale[:, None], linear.bias)
    with torch.inference_mode():
        out = Int8Linear(linear)(x)
    assert out.shape == (3, 5, 40)
    # A value next to a half may round the other way, which moves an output by one step of its row.
    torch.testing.assert_close(out / (1 + step), expected / (1 + step), rtol=1e-4, atol=2e-2)
    assert nn.functional.cosine_similarity(out[:, :4], linear(x)[:, :4], dim=-1).min() > 0.999


def test_a_row_does_not_depend_on_large_values_of_other_rows() -> None:
    layer = Int8Linear(nn.Linear(64, 40))
    x = torch.randn(2, 64)
    with torch.inference_mode():
        alone, beside = layer(x[:1]), layer(torch.stack((x[0], 1e4 * x[1])))[:1]
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("name", ["svt_vitt", "timesformer_vitt", "motionformer_vitt", "xvit_vitt"])
def test_every_family_is_close_to_its_float32_network(name: str) -> None:
    model = small(name)
    converted = to_int8(model)
    assert any(isinstance(module, Int8Linear) for module in converted.modules())
    assert {key.rpartition(".")[2] for key in int8_layers(converted)} <= {"proj_kv"}  # read as a tensor
    assert not any(isinstance(module, Int8Linear) for module in model.modules()), "the caller's network is unchanged"
    with torch.inference_mode():
        out, expected = converted(CLIP), model(CLIP)
    assert nn.functional.cosine_similarity(out.cls, expected.cls).min() > 0.999
    assert not torch.equal(out.cls, expected.cls)


def test_convolutions_of_cpc_stay_float32() -> None:
    converted = to_int8(create_model("cpc_resnet18"))
    convolutions = [module for module in converted.modules() if isinstance(module, nn.Conv3d | nn.Conv2d)]
    assert convolutions
    assert all(module.weight.dtype == torch.float32 for module in convolutions)


def test_copies_and_pickles_compute_the_same() -> None:
    converted = to_int8(small("svt_vitt"))
    with torch.inference_mode():
        expected = converted(CLIP).cls
        for again in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), to_int8(converted)):
            torch.testing.assert_close(again(CLIP).cls, expected, rtol=0, atol=0)


def test_the_state_in_float32_gives_the_same_8_bits_again() -> None:
    model = small("motionformer_vitt")
    state = int8_state(model)
    model.load_state_dict(to_float(state))  # strict: the same names as before
    again = int8_state(model)
    assert again.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=0)


def test_a_network_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Conv3d has no linear layers; use float32"):
        to_int8(nn.Conv3d(3, 8, 3))
