"""The device and the precision of a computation."""

import pytest
import torch

from svt_zoo import device as devices
from svt_zoo.device import choose_device, choose_precision, fastest_dtype

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
