"""Schedules equal the originals', step by step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.schedules import cosine, linear, multi_step, warmup_cosine, warmup_epochs

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
PER_STEP = [
    "lr_paper_small",
    "lr_code_default_small",
    "lr_nowarmup",
    "lr_startwarm",
    "wd_paper",
    "wd_code_default",
    "momentum",
]


@pytest.mark.parametrize("name", PER_STEP)
def test_warmup_and_cosine_equal_the_original_at_every_step(oracle: Oracle, name: str) -> None:
    tensors, record = oracle("svt/schedules")
    args = record["arrays"][name]["args"]
    per_epoch = args["niter_per_ep"]
    values = [
        warmup_cosine(
            args["base_value"],
            args["final_value"],
            step=step,
            total_steps=args["epochs"] * per_epoch,
            warmup_steps=args.get("warmup_epochs", 0) * per_epoch,
            start=args.get("start_warmup_value", 0.0),
        )
        for step in range(args["epochs"] * per_epoch)
    ]
    assert_close(torch.tensor(values, dtype=torch.float64), tensors[name], atol=1e-15, rtol=0)


def test_momentum_follows_from_the_epoch_alone(oracle: Oracle) -> None:
    expected = oracle("svt/schedules")[0]["momentum"]
    values = [cosine(0.996, 1.0, (step / 5) / 20) for step in range(100)]
    assert_close(torch.tensor(values, dtype=torch.float64), expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", ["teacher_temp_code_default", "teacher_temp_warmup"])
def test_teacher_temperature_equals_the_original_in_every_epoch(oracle: Oracle, name: str) -> None:
    tensors, record = oracle("svt/schedules")
    args = record["arrays"][name]["args"]
    start, end, warmup = args["warmup_teacher_temp"], args["teacher_temp"], args["warmup_teacher_temp_epochs"]
    for moment in (0.0, 0.5, 0.999):  # the same all through an epoch
        values = [warmup_epochs(start, end, epoch=epoch + moment, warmup=warmup) for epoch in range(args["nepochs"])]
        assert_close(torch.tensor(values, dtype=torch.float64), tensors[name], atol=1e-15, rtol=0)


def test_the_end_of_the_warmup_and_the_start_of_the_cosine_are_both_the_peak() -> None:
    values = [warmup_cosine(2.0, 0.0, step=step, total_steps=10, warmup_steps=3) for step in range(10)]
    assert values[:4] == [0.0, 1.0, 2.0, 2.0]
    assert values[4] < 2.0


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 3))
def test_no_value_leaves_the_range_between_start_and_end(start: float, end: float, progress: float) -> None:
    low, high = min(start, end), max(start, end)
    for schedule in (linear, cosine):
        assert low - 1e-12 <= schedule(start, end, progress) <= high + 1e-12
        assert schedule(start, end, 1.0) == pytest.approx(end)


def test_a_rate_drops_at_its_milestones() -> None:
    rates = [multi_step(5e-3, epoch=epoch, milestones=(11, 14)) for epoch in (0.0, 10.99, 11.0, 14.0)]
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5])


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must be >= 0 and <= total_steps=5, got 6"):
        warmup_cosine(1.0, 0.0, step=0, total_steps=5, warmup_steps=6)
