"""Every kind of network computes the same on a GPU and on the CPU, in every number type."""

import copy

import pytest
import torch
from small_models import small
from small_svt import TINY, random_batch, svt_of
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor

from svt_zoo.models import Backbone, list_models
from svt_zoo.models.layers import attend
from svt_zoo.models.timesformer import timesformer
from svt_zoo.training.parallel import compile_networks

KINDS = [name for name in list_models() if name.endswith("_vitt") or name.startswith("cpc_resnet18")]
# Largest relative errors; on the CPU the measured ones are below a third of them.
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found.double().cpu() - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def exact() -> dict[str, tuple[Tensor, ...]]:
    """Features of each network in float64 on the CPU."""
    with torch.no_grad():
        return {name: tuple(small(name).double()(clips().double())) for name in KINDS}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_features_equal_those_of_the_cpu(
    name: str, dtype: torch.dtype, device: torch.device, exact: dict[str, tuple[Tensor, ...]]
) -> None:
    with torch.no_grad():
        found = small(name).to(device, dtype)(clips().to(device, dtype))
    for output, right in zip(found, exact[name], strict=True):
        assert relative_error(output, right) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_half_precision_stays_near_the_exact_features(
    name: str, dtype: torch.dtype, device: torch.device, exact: dict[str, tuple[Tensor, ...]]
) -> None:
    network = small(name).to(device)
    with torch.no_grad():
        with torch.autocast(device.type, dtype):
            mixed = network(clips().to(device))
        pure = network.to(dtype)(clips().to(device, dtype))
    for output, right in zip((*mixed, *pure), exact[name] * 2, strict=True):
        assert relative_error(output, right) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 16, 32, 64])
def test_attention_over_few_tokens_is_the_formula(length: int, dtype: torch.dtype, device: torch.device) -> None:
    """Output and gradient, for queries, keys and values that lie in memory as a layer leaves them."""
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(5, length, 3, 2, 16, generator=generator, dtype=torch.float64)

    def with_gradient(x: Tensor, formula: bool) -> tuple[Tensor, Tensor]:
        x = copy.copy(x).requires_grad_()
        q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)  # each (5, 2, S, 16)
        weights = (q @ k.transpose(-2, -1) / 4).softmax(dim=-1)
        out = weights @ v if formula else attend(q, k, v)
        return out, torch.autograd.grad(out.sum(dim=-1).square().sum(), x)[0]

    expected = with_gradient(qkv, formula=True)
    for found, right in zip(with_gradient(qkv.to(device, dtype), formula=False), expected, strict=True):
        assert relative_error(found, right.detach()) < ERRORS[dtype]


@pytest.mark.parametrize("name", KINDS)
def test_a_gradient_equals_that_of_the_cpu(name: str, device: torch.device) -> None:
    networks = [small(name).double(), small(name).double().to(device)]
    for network in networks:
        features = network(clips().to(network_device(network), torch.float64))
        (features.cls.square().sum() + features.patches.square().sum()).backward()
    for (key, right), found in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        if right.grad is not None and right.grad.norm() > 1e-9:
            assert found.grad is not None
            assert relative_error(found.grad, right.grad) < 1e-9, key


def network_device(network: Backbone) -> torch.device:
    return next(network.parameters()).device


def test_all_views_compile_into_four_graphs_of_a_block(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without drop path, with and without gradient."""
    graphs = CompileCounterWithBackend("inductor" if device.type == "cuda" else "eager")
    plain_compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: plain_compile(self, backend=graphs, **options))
    shapes = [(8, 32), (16, 32), (2, 16), (4, 16)]
    torch.manual_seed(0)
    network = svt_of(timesformer(**TINY, drop_path_rate=0.1)).to(device)
    eager = copy.deepcopy(network)
    torch.compiler.reset()
    compile_networks(network)
    losses = []
    with inductor.patch(fallback_random=True):  # a compiled GPU kernel would draw other numbers
        for method in (network, eager):
            torch.manual_seed(1)
            loss = method(random_batch(shapes).to(device), 1.0)["svt"]
            loss.backward()
            losses.append(loss.item())
    torch.compiler.reset()
    assert graphs.frame_count == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
