"""The projection head equals the original's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_svt import part
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.methods import DINOHead, SVTConfig

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
VARIANTS = {"norm_last_layer_true": {}, "norm_last_layer_false": {"norm_last_layer": False}, "nlayers1": {}}


def small_head(out_dim: int = 64, *, num_layers: int = 3, **options: Any) -> DINOHead:
    config = SVTConfig(out_dim=out_dim, hidden_dim=32, bottleneck_dim=16, **options)
    return DINOHead(48, config, num_layers=num_layers)


def recorded_head(variant: str) -> DINOHead:
    return small_head(num_layers=1 if variant == "nlayers1" else 3, **VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_outputs_and_gradients_equal_the_original(
    oracle: Oracle, variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    tensors = part(oracle("svt/dino_head")[0], f"{variant}/")
    head = recorded_head(variant).to(dtype)
    head.load_state_dict(part(tensors, "sd/"))
    x = tensors["in"].to(dtype).requires_grad_()
    out = head(x)
    (out * tensors["R"].to(dtype)).sum().backward()
    assert_close(out.double(), tensors["out"], atol=tolerance, rtol=0)
    assert_close(F.normalize(head.mlp(x), dim=-1).double(), tensors["bottleneck"], atol=tolerance, rtol=0)
    assert_close(x.grad.double(), tensors["grad_in"], atol=tolerance, rtol=tolerance)
    gradients = {name: p.grad.double() for name, p in head.named_parameters() if p.grad is not None}
    assert_close(gradients, part(tensors, "grad/"), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_trained_is_what_the_original_trains(oracle: Oracle, variant: str) -> None:
    expected = oracle("svt/dino_head")[1]["variants"][variant]["requires_grad"]
    head = recorded_head(variant)
    assert {name: parameter.requires_grad for name, parameter in head.named_parameters()} == expected


def test_a_fresh_head_has_the_originals_distribution() -> None:
    torch.manual_seed(0)
    head = small_head(512)
    assert head.last_layer.weight_v.abs().max().item() == pytest.approx(0.25, abs=1e-3)  # uniform up to 1 / sqrt(16)
    assert head.last_layer.weight_g.unique().tolist() == [1.0]
    assert head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.mlp[0].bias.abs().max() == 0


def test_the_papers_head_has_the_originals_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DINOHead(768).parameters()) == 23_138_560


def test_batch_normalization_shifts_the_names_as_in_the_original() -> None:
    names = {key.rsplit(".", 1)[0] for key in small_head(use_bn_in_head=True).state_dict()}
    assert names == {"mlp.0", "mlp.1", "mlp.3", "mlp.4", "mlp.6", "last_layer"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_feature_that_gives_zeros_has_finite_logits(dtype: torch.dtype) -> None:
    head = small_head().to(dtype)
    assert head(torch.zeros(2, 48, dtype=dtype)).isfinite().all()


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be >= 1, got 0"):
        small_head(num_layers=0)
