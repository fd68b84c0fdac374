"""Which parameters are decayed, what a schedule reaches, how gradients are clipped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.methods import SVT, SVTConfig
from svt_zoo.models import create_model
from svt_zoo.models.timesformer import timesformer
from svt_zoo.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    param_groups,
    scaled_lr,
    set_hyperparameters,
)

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
TINY = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_frames": 4}
HEAD = {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16}


def names(groups: list[dict[str, Any]], decayed: bool) -> list[str]:
    return [name for group in groups if group["decayed"] is decayed for name, _ in group["params"]]


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_groups_equal_the_originals(oracle: Oracle, norm_last_layer: bool) -> None:
    expected = oracle("svt/param_groups")[1][f"norm_last_layer_{str(norm_last_layer).lower()}"]
    method = SVT(timesformer(**TINY), SVTConfig(norm_last_layer=norm_last_layer, **HEAD), epochs=1)
    groups = param_groups(method.student, OptimConfig())
    assert sorted(names(groups, True)) == sorted(expected["regularised"])
    assert sorted(names(groups, False)) == sorted(expected["not_regularised"])
    assert not set(expected["frozen"]) & {*names(groups, True), *names(groups, False)}


def test_the_teacher_is_in_no_group() -> None:
    groups = param_groups(SVT(timesformer(**TINY), SVTConfig(**HEAD), epochs=1), OptimConfig())
    assert {name.split(".")[0] for group in groups for name, _ in group["params"]} == {"student"}


def test_the_tables_of_places_are_decayed() -> None:
    assert {"cls_token", "pos_embed", "time_embed"} <= set(
        names(param_groups(timesformer(**TINY), OptimConfig()), True)
    )


def test_layer_decay_slows_the_early_blocks() -> None:
    model = create_model("timesformer_vitt", depth=3, num_classes=5)
    scale = {
        name: group["lr_scale"]
        for group in param_groups(model, OptimConfig(layer_decay=0.5))
        for name, _ in group["params"]
    }
    assert {scale[f"backbone.{name}"] for name in ("cls_token", "time_embed", "patch_embed.proj.bias")} == {0.5**4}
    assert [scale[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert {scale[name] for name in ("backbone.norm.weight", "head.weight", "head.bias")} == {1.0}


def test_a_schedule_reaches_each_group_by_its_own_factor() -> None:
    model = create_model("timesformer_vitt", depth=3, num_classes=5)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3, layer_decay=0.5))
    assert {group["weight_decay"] for group in optimizer.param_groups if group["decayed"]} == {0.3}
    set_hyperparameters(optimizer, lr=0.8, weight_decay=0.05)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.05, 0.1, 0.2, 0.4, 0.8]
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.05 if group["decayed"] else 0.0)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_an_optimizer_steps_as_the_plain_one(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    ours, theirs = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, OptimConfig(name=name, lr=0.1, weight_decay=0.2))
    assert isinstance(optimizer, kind)
    assert bool(optimizer.param_groups[0]["fused"]) == (name == "adamw")
    options = {"momentum": 0.9} if name == "sgd" else {}
    groups = [{"params": [theirs.weight], "weight_decay": 0.2}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = kind(groups, lr=0.1, foreach=False, fused=False, **options)
    for step in range(3):
        x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for model, optim in ((ours, optimizer), (theirs, reference)):
            optim.zero_grad()
            model(x).square().sum().backward()
            optim.step()
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_nesterov_and_the_decay_of_vectors_are_torchs() -> None:
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(name="sgd", lr=0.1, weight_decay=0.2, nesterov=True, decay_vectors=True)
    optimizer = build_optimizer(ours, config)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2)
    for _ in range(3):
        for model, optim in ((ours, optimizer), (theirs, reference)):
            optim.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optim.step()
    assert_close(ours.state_dict(), theirs.state_dict())
    with pytest.raises(ValueError, match="nesterov=true needs momentum > 0"):
        OptimConfig(nesterov=True, momentum=0.0)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_parameter_whose_first_gradient_comes_late_is_trained(name: Any) -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.1, weight_decay=0.0))
    before = model.weight.detach().clone()
    for frozen in (True, False):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        if frozen:
            model.weight.grad = None
        optimizer.step()
        assert torch.equal(model.weight, before) == frozen


def test_the_names_of_parameters_are_saved_with_the_optimizer() -> None:
    state = build_optimizer(nn.Linear(2, 2), OptimConfig()).state_dict()
    assert [group["param_names"] for group in state["param_groups"]] == [["weight"], ["bias"]]


def with_gradients(*values: list[float]) -> list[Tensor]:
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def test_per_parameter_clipping_shortens_only_what_is_too_long() -> None:
    long, short = with_gradients([3.0, 4.0], [0.3, 0.4])
    total = clip_gradients([long, short, nn.Parameter(torch.zeros(1))], 1.0, mode="per_parameter")
    assert_close(long.grad, torch.tensor([0.6, 0.8]))
    assert_close(short.grad, torch.tensor([0.3, 0.4]), atol=0, rtol=0)
    assert total.item() == pytest.approx(25.25**0.5)


def test_global_clipping_is_torchs() -> None:
    values = [3.0, 4.0], [0.3, 0.4], [5.0]
    ours, theirs = with_gradients(*values), with_gradients(*values)
    assert_close(clip_gradients(ours, 2.0), nn.utils.clip_grad_norm_(theirs, 2.0))
    assert_close([p.grad for p in ours], [p.grad for p in theirs])


def test_without_a_limit_the_norm_is_only_told() -> None:
    (parameter,) = with_gradients([3.0, 4.0])
    assert clip_gradients([parameter], None).item() == 5.0
    assert parameter.grad.tolist() == [3.0, 4.0]


def test_a_learning_rate_is_scaled_from_a_batch_of_256() -> None:
    assert scaled_lr(5e-4, 32) == 6.25e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: param_groups(nn.Linear(2, 2), OptimConfig(layer_decay=0.5)),
            r"layer_decay=0.5 needs parameters named blocks.0",
        ),
        (
            lambda: param_groups(nn.Linear(2, 2).requires_grad_(False), OptimConfig()),
            "no parameter of Linear can be trained",
        ),
        (
            lambda: build_optimizer(nn.Linear(2, 2), OptimConfig(name="lamb")),
            '"adam" or "sgd", got \'lamb\'',
        ),
        (lambda: clip_gradients([], 1.0, mode="each"), '"per_parameter" or "global", got \'each\''),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_adams_decay_is_part_of_the_gradient() -> None:
    module, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    ours = build_optimizer(module, OptimConfig(name="adam", lr=0.1, weight_decay=0.5))
    theirs = torch.optim.Adam([{"params": twin.weight, "weight_decay": 0.5}, {"params": twin.bias}], lr=0.1)
    for network, optimizer in ((module, ours), (twin, theirs)):
        for _ in range(3):
            network.zero_grad()
            network(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    assert_close(module.state_dict(), twin.state_dict())


def test_amsgrad_divides_by_the_largest_second_moment_so_far() -> None:
    module, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    ours = build_optimizer(module, OptimConfig(lr=0.1, weight_decay=0.0, amsgrad=True))
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.0, amsgrad=True)
    for network, optimizer in ((module, ours), (twin, theirs)):
        for scale in (10.0, 1.0, 0.1):
            network.zero_grad()
            network(scale * torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    assert_close(module.state_dict(), twin.state_dict())


def test_learning_rates_can_be_scaled_by_names() -> None:
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = param_groups(network, OptimConfig(lr_factors={"body.weight": 0.5, "body.*": 0.1}))
    assert {name: group["lr_scale"] for group in groups for name, _ in group["params"]} == {
        "body.weight": 0.5,  # the first glob that fits
        "body.bias": 0.1,
        "head.weight": 1.0,
        "head.bias": 1.0,
    }
    with pytest.raises(ValueError, match=r"tail\.\* matches no parameter of ModuleDict"):
        param_groups(network, OptimConfig(lr_factors={"tail.*": 0.1}))
