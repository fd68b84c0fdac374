"""A network made ready to compute: loaded, on a device, in the type that is fastest there."""

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
    """The model in eval mode on the device and in the type it shall compute in.

    A model handed in is left as it is: unless it is all that already, the result is a copy.

    Raises:
        ValueError: no such device or type.
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
    """The device to compute on; None or "auto" takes the GPU if there is one.

    Raises:
        ValueError: no such device.
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
    """The type to compute in; "auto" is bfloat16 where that is faster on `device`, else float32.

    Raises:
        ValueError: no such type.
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
    """bfloat16 on a GPU that knows it, and on a CPU where a layer of ViT-B runs faster in it, measured here and now."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    seconds = {dtype: _layer_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _layer_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one linear layer 768 -> 768 on 512 tokens, the best of five."""
    tokens = torch.ones(512, 768, device=device, dtype=dtype)
    weight = torch.ones(768, 768, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(tokens, weight)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return best
