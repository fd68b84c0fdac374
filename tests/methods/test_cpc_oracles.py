"""CPC's networks, loss and training steps equal the original's recorded runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_cpc import clip_batch, original_cpc, rule_clip, rule_weights
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from svt_zoo.hub.convert import to_cpc
from svt_zoo.methods import CPC

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
CASES = ["cpc_r18_s64_n5p3_b3", "cpc_r18_s96_n7p3_b2", "cpc_r34_s32_n4p1_b4"]


@pytest.fixture(scope="module")
def record(oracle: Oracle) -> dict[str, Any]:
    return oracle("cpc/oracle")[1]


@pytest.fixture(scope="module")
def networks(oracle: Oracle) -> dict[str, Tensor]:
    return oracle("cpc/model_cpc")[0]


def recorded(record: dict[str, Any], case: str, dtype: torch.dtype) -> tuple[CPC, Tensor]:
    """The method and the clips of a recorded run."""
    said = record["cpc"][case]
    config = said["config"]
    state = rule_weights(record["state_dict"][f"CPC_Trans_{config['net']}"], record["salt"])
    shape = (config["B"], config["N"], 3, config["S"], config["S"])
    clip, digest = rule_clip(case, shape, record["salt"])
    assert digest == said["input_sha256_16"]
    frames = {"context_frames": config["N"] - config["P"], "pred_frames": config["P"]}
    return original_cpc(state, config["net"], dtype, **frames), clip.to(dtype)


def score_matrix(method: CPC, clip: Tensor) -> Tensor:
    context, targets = method.encode(clip)
    return torch.einsum("bpqd,xyzd->bpqxyz", method.predict(context), targets)


def test_weights_and_inputs_follow_the_rule(record: dict[str, Any]) -> None:
    state = rule_weights(record["state_dict"]["CPC_Trans_resnet18"], record["salt"])
    for name, said in record["rule_spot_checks"].items():
        if name in state:
            assert_close(state[name].flatten()[:3].tolist(), said["first3"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_stage_equals_the_original(
    record: dict[str, Any], networks: dict[str, Tensor], case: str, dtype: torch.dtype
) -> None:
    method, clip = recorded(record, case, dtype)
    method.eval()
    said = record["cpc"][case]
    network: Any = method.backbone
    frames = network.frame_features(clip)
    grid = network.grid(clip)
    with torch.no_grad():
        tokens = network.tokens(frames, grid)
        context, _ = method.encode(clip)
        maps = F.relu(context).transpose(2, 3).unflatten(3, grid)
        found = {
            "backbone": frames.transpose(2, 3).unflatten(3, grid).flatten(0, 1),
            "trans": tokens.flatten(1, 2),
            "hidden": network.gru(maps)[:, -1:],
            "pred": method.predict(context).transpose(2, 3).unflatten(3, grid),
            "score": score_matrix(method, clip),
        }
        loss = method(clip_batch(clip), 0.0)["cpc"]
    for name, value in found.items():
        tolerance = 1e-9 if dtype == torch.float64 else 4 * said["fp32_max_abs_dev"][name]
        assert_close(value.double(), networks[f"{case}.{name}"], atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)
    assert loss.item() == pytest.approx(said["eval_loss"], abs=1e-9 if dtype == torch.float64 else 1e-5)
    assert method.metrics()["top1"].item() == pytest.approx(100 * said["eval_top1_3_5"][0], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_batch_statistics_and_gradients_equal_the_original(
    record: dict[str, Any], networks: dict[str, Tensor], case: str
) -> None:
    method, clip = recorded(record, case, torch.float64)
    said = record["cpc"][case]
    method.train()
    assert_close(score_matrix(method, clip), networks[f"{case}.train_score"], atol=1e-9, rtol=1e-9)
    state = to_cpc(method.state_dict())
    for name in ("bn1.running_mean", "bn1.running_var"):
        key = f"{case}.train_{name.replace('.', '_')}"
        assert_close(state[f"backbone.{name}"], networks[key], atol=1e-9, rtol=0)
    method, clip = recorded(record, case, torch.float64)
    method.train()
    method(clip_batch(clip), 0.0)["cpc"].backward()
    gradients = to_cpc({name: parameter.grad for name, parameter in method.named_parameters()})
    for name, norm in said["grad_norms"].items():
        if norm is not None:
            assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-8, abs=1e-9), name
    assert sorted(said["params_without_grad"]) == sorted(name for name, n in said["grad_norms"].items() if n is None)


@pytest.mark.parametrize("case", CASES)
def test_every_prediction_depends_on_every_frame_as_much_as_in_the_original(record: dict[str, Any], case: str) -> None:
    method, clip = recorded(record, case, torch.float64)
    method.eval()
    clip.requires_grad_()
    predicted = method.predict(method.encode(clip)[0])
    for step, said in enumerate(record["cpc"][case]["dpred_dframe_l2"]):
        (gradient,) = torch.autograd.grad(predicted[:, step].sum(), clip, retain_graph=True)
        assert_close(gradient.square().sum(dim=(0, 1, 3, 4)).sqrt().tolist(), said, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])])
def test_five_steps_of_adam_equal_the_original(record: dict[str, Any], case: str) -> None:
    method, clip = recorded(record, case, torch.float64)
    said = record["cpc"][case]
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    for _ in range(5):
        loss = method.train()(clip_batch(clip), 0.0)["cpc"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_close(losses, said["adam5_losses"], rtol=1e-8, atol=1e-8)
    state = to_cpc(method.state_dict())
    for name, norm in said["adam5_param_norms"].items():
        if said["grad_norms"].get(name) is not None and not name.endswith("linears.1.bias"):
            assert state[name].norm().item() == pytest.approx(norm, rel=1e-7), name
    loss = method.eval()(clip_batch(clip), 0.0)["cpc"]
    assert loss.item() == pytest.approx(said["adam5_eval_loss"], abs=1e-7)
