"""Prepares a network for inference: loads it, chooses the device and the fastest type there."""

import copy
import functools
import time
from typing import Literal

import torch

from ..hub.loading import load_model
from ..models import ZooModel

DType = Literal["auto", "bfloat16", "float16", "float32"] | torch.dtype
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def prepare(
    model: str | ZooModel,
    device: str | torch.device | None,
    dtype: DType,
    *,
    num_classes: int | None = 0,
) -> tuple[ZooModel, torch.device, torch.dtype]:
    """Return the model in eval mode, on the chosen device and in the chosen type.

    A given model is not changed. The result is a copy, unless the model is already in that state.

    Raises:
        ValueError: the device or the type does not exist.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    if isinstance(model, str):
        network = load_model(model, num_classes=num_classes)
    else:
        network = model if _is_ready(model, device, dtype) else copy.deepcopy(model)
    return network.to(device=device, dtype=dtype).eval(), device, dtype


def _is_ready(model: ZooModel, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    here = all(tensor.device.type == device.type and tensor.dtype == dtype for tensor in tensors)
    here = here and all(device.index in (None, tensor.device.index) for tensor in tensors)
    return here and not any(module.training for module in model.modules())


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device to compute on; None or "auto" selects the GPU if there is one.

    Raises:
        ValueError: the device does not exist.
    """
    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a device of torch; use a name such as cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but torch sees no GPU here; leave it out to compute on the CPU")
    return device


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the type to compute in; "auto" is bfloat16 where that is faster on `device`, else float32.

    Raises:
        ValueError: the type does not exist.
    """
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if dtype == "auto":
        return fastest_dtype(device)
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    raise ValueError(f"dtype must be auto, {', '.join(_DTYPES)}, got {dtype!r}")


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that supports it, and on a CPU where a timed ViT-B layer runs faster in it; else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    seconds = {dtype: _layer_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _layer_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Time of one linear layer 768 -> 768 on 512 tokens, in seconds; minimum of five runs."""
    tokens = torch.ones(512, 768, device=device, dtype=dtype)
    weight = torch.ones(768, 768, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(tokens, weight)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return best
