import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from small_models import small
from torch import nn

from svt_zoo.models import create_model
from svt_zoo.models.int8 import (
    Int8Linear,
    int8_layers,
    int8_state,
    largest_row,
    quantize_weight,
    to_float,
    to_int8,
)

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="int8 needs a torch with oneDNN")

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
    step = ((x.amax(dim=-1, keepdim=True) - least) / largest_row()).clamp_min(1e-12)
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


def test_the_class_token_has_only_the_error_of_the_weights() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 40), torch.randn(3, 5, 64)
    weight, scale = quantize_weight(linear.weight)
    expected = nn.functional.linear(x, weight * scale[:, None], linear.bias)
    with torch.inference_mode():
        out = Int8Linear(linear, class_token=True)(x)
        torch.testing.assert_close(out[:, 1:], Int8Linear(linear)(x)[:, 1:])
        flat = Int8Linear(linear, class_token=True)(x[:, 0])  # rows without a sequence are all treated alike
    errors = (out - expected).square().mean(dim=(0, 2)).sqrt()  # (5,)
    assert errors[0] < 0.02 * errors[1:].min()
    torch.testing.assert_close(flat, Int8Linear(linear)(x[:, 0]))


def test_only_layers_along_time_have_no_class_token() -> None:
    for name, without in (("svt_vitt", 3), ("motionformer_vitt", 1), ("xvit_vitt", 0)):
        layers = [module for module in to_int8(small(name)).modules() if isinstance(module, Int8Linear)]
        depth = len(small(name).blocks)
        assert sum(not layer.class_token for layer in layers) == without * depth


def test_without_vnni_no_product_overflows() -> None:
    program = """
import torch
from svt_zoo.models.int8 import Int8Linear, largest_row
for sign in (1, -1):
    linear = torch.nn.Linear(64, 8)
    linear.weight.data.fill_(sign)
    with torch.inference_mode():
        x = torch.ones(4, 64)
        x[:, 0] = 0  # the least value of a row; all others are the largest
        torch.testing.assert_close(Int8Linear(linear)(x), linear(x), rtol=1e-4, atol=1e-3)
print(largest_row())
"""
    switches = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, env={**os.environ, **switches}, capture_output=True, text=True, check=True).stdout
    assert int(out) in ((129,) if sys.platform == "linux" and os.uname().machine == "x86_64" else (129, 255))


def test_a_torch_without_the_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    largest_row.cache_clear()
    with pytest.raises(ValueError, match="needs oneDNN with exact int8 products"):
        to_int8(small("svt_vitt"))


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
