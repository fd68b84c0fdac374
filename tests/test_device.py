"""The device and the precision of a computation."""

import logging

import pytest
import torch

from svt_zoo import device as devices
from svt_zoo.device import choose_device, choose_dtype, choose_precision, fastest_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_the_faster_type_is_chosen(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype) -> None:
    monkeypatch.setattr(devices, "_layer_seconds", lambda _, dtype: 1.0 if dtype is faster else 2.0)
    fastest_dtype.cache_clear()
    assert fastest_dtype(CPU) is faster
    fastest_dtype.cache_clear()


def test_a_missing_gpu_is_an_error_only_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device(None) == CPU
    with pytest.raises(ValueError, match=r"device='cuda', but torch sees no GPU; use auto or cpu"):
        choose_device("cuda")


def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run.precision=fp16 needs a GPU, the device is cpu"):
        choose_precision("fp16", CPU)
    assert choose_precision("auto", CPU) is torch.float32


@pytest.mark.parametrize(("cost", "warnings"), [(8.0, 1), (0.5, 0)])
def test_bfloat16_on_a_processor_without_it_warns_once(
    cost: float, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_layer_seconds", lambda _, dtype: cost if dtype is torch.bfloat16 else 1.0)
    devices._warn_if_slow.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_precision("bf16", CPU) is choose_dtype("bfloat16", CPU) is torch.bfloat16
        assert choose_dtype("float32", CPU) is torch.float32
    devices._warn_if_slow.cache_clear()
    assert caplog.text.count("bfloat16 takes 8.0 times as long as float32 on this processor") == warnings
