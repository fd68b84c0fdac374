"""SVT's loss and training steps equal the original's recorded runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_svt import SmallCNN, make_batch, part, tiny_svt
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.methods import SVT, SVTConfig
from svt_zoo.schedules import cosine, warmup_cosine
from svt_zoo.training.optim import OptimConfig, build_optimizer, clip_gradients, set_hyperparameters

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


@pytest.mark.parametrize("run", ["warmup", "default", "two_views_only"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_loss_gradient_and_center_equal_the_original(
    oracle: Oracle, run: str, dtype: torch.dtype, tolerance: float
) -> None:
    tensors, record = oracle("svt/dino_loss")
    config = record["runs"][run]["cfg"]
    temps = ("warmup_teacher_temp", "teacher_temp", "warmup_teacher_temp_epochs")
    method = SVT(SmallCNN(), SVTConfig(out_dim=64, **{key: config[key] for key in temps}), epochs=config["nepochs"]).to(
        dtype
    )
    given: dict[str, Tensor] = {}
    method.student.forward = lambda views: (given["student"], given["student"])
    method.teacher.forward = lambda views: (given["teacher"], given["teacher"])
    batch = make_batch([torch.zeros(3, 3, 1, 1, 1)] * config["ncrops"])
    for epoch in range(config["nepochs"]):
        case = part(tensors, f"{run}/e{epoch}/")
        assert_close(method.center.double(), case["center_before"], atol=tolerance, rtol=0)
        student = case["student"].to(dtype).requires_grad_()
        given["student"] = student.unflatten(0, (config["ncrops"], 3))
        given["teacher"] = case["teacher"].to(dtype).unflatten(0, (2, 3))
        loss = method(batch, float(epoch))["svt"]
        loss.backward()
        method.after_step(float(epoch))
        assert_close(loss.double(), case["loss"], atol=tolerance, rtol=0)
        assert_close(student.grad.double(), case["grad_student"], atol=tolerance, rtol=0)
        assert_close(method.center.double(), case["center_after"], atol=tolerance, rtol=0)


def recorded_svt(tensors: dict[str, Tensor], dtype: torch.dtype, **options: Any) -> SVT:
    """An SVT in the state before the recorded steps."""
    method = tiny_svt(teacher_mode="replica", **options).to(dtype)
    method.student.load_state_dict(part(tensors, "student_before/"))
    method.teacher.load_state_dict(part(tensors, "teacher_before/"))
    method.center.copy_(tensors["center_before"])
    return method


def assert_states_close(ours: nn.Module, theirs: dict[str, Tensor], tolerance: float) -> None:
    state = ours.state_dict()
    assert state.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert_close(
            state[name].double(),
            expected.double(),
            atol=tolerance,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_one_training_step_equals_the_original(oracle: Oracle, dtype: torch.dtype, tolerance: float) -> None:
    tensors, record = oracle("svt/train_step")
    hyper = record["hyper"]
    epoch = float(hyper["epoch_index"])
    method = recorded_svt(tensors, dtype)
    method.momentum_at = lambda epoch: hyper["ema_momentum"]
    optimizer = build_optimizer(method, OptimConfig(lr=hyper["lr"], weight_decay=hyper["wd_group0"]))
    views = [tensors[f"views/{i}"].to(dtype) for i in range(10)]
    student_out = method.student(views)[1].flatten(0, 1)
    teacher_out = method.teacher(views[:2])[1].flatten(0, 1)
    loss = method(make_batch(views), epoch)["svt"]
    loss.backward()
    named = {name: p for name, p in method.student.named_parameters() if p.grad is not None}
    before = {name: p.grad.clone().double() for name, p in named.items()}
    method.before_step(epoch)
    clip_gradients(method.parameters(), hyper["clip_grad"], mode="per_parameter")
    after = {name: p.grad.double() for name, p in named.items()}
    optimizer.step()
    method.after_step(epoch)

    assert_close(student_out.double(), tensors["student_out"], atol=tolerance, rtol=0)
    assert_close(teacher_out.double(), tensors["teacher_out"], atol=tolerance, rtol=0)
    assert_close(loss.double(), tensors["loss"], atol=tolerance, rtol=0)
    norms = {name: torch.stack((before[name].norm(), after[name].norm())) for name in named}
    assert_close(norms, part(tensors, "grad_norm/"), atol=tolerance, rtol=tolerance)
    for name, gradient in part(tensors, "grad/").items():
        assert_close(before[name], gradient, atol=tolerance, rtol=tolerance)
    assert_close(method.center.double(), tensors["center_after"], atol=tolerance, rtol=0)
    if dtype == torch.float64:  # AdamW's first step is the gradient's sign, which rounding decides near zero
        assert_states_close(method.student, part(tensors, "student_after/"), tolerance)
        assert_states_close(method.teacher, part(tensors, "teacher_after/"), tolerance)


def test_three_training_steps_equal_the_original(oracle: Oracle) -> None:
    dtype, tolerance = torch.float64, 1e-9  # in float32, AdamW makes whole steps of rounding
    initial, _ = oracle("svt/train_step")
    tensors, record = oracle("svt/train_3steps")
    method = recorded_svt(initial, dtype, momentum=0.9, freeze_last_layer=record["freeze_last_layer"])
    optimizer = build_optimizer(method, OptimConfig())
    for step in range(3):
        lr = warmup_cosine(0.64 * 2 / 256, 1e-6, step=step, total_steps=4, warmup_steps=1)
        weight_decay = cosine(0.04, 0.1, step / 4)
        assert_close((lr, weight_decay), (tensors["lr"][step].item(), tensors["wd"][step].item()), atol=1e-12, rtol=0)
        set_hyperparameters(optimizer, lr=lr, weight_decay=weight_decay)
        views = part(tensors, f"step{step}/views/") if step else part(initial, "views/")
        loss = method(make_batch([views[str(i)].to(dtype) for i in range(10)]), float(step))["svt"]
        optimizer.zero_grad()
        loss.backward()
        named = dict(method.student.named_parameters())
        norms = [named[name].grad.norm().double() for name in record["grad_norms_param_order"]]
        method.before_step(float(step))
        missing = [name for name, p in method.student.named_parameters() if p.grad is None]
        assert missing == record["steps"]["params_without_gradient_at_step"][step]
        clip_gradients(method.parameters(), record["clip_grad"], mode="per_parameter")
        optimizer.step()
        method.after_step(float(step))
        assert_close(loss.double(), tensors[f"step{step}/loss"], atol=tolerance, rtol=0)
        assert_close(torch.stack(norms), tensors[f"step{step}/grad_norms"], atol=tolerance, rtol=tolerance)
        assert_close(method.center.double(), tensors[f"step{step}/center_after"], atol=tolerance, rtol=0)
        assert method.momentum_at(float(step)) == pytest.approx(tensors["momentum"][step].item(), abs=1e-12)
    assert_states_close(method.student, part(tensors, "student_final/"), tolerance)
    # The record keeps the teacher in single precision.
    assert_states_close(method.teacher, part(tensors, "teacher_final/"), 2e-7)
