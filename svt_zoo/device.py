"""The device and the precision of a computation."""

import functools
import logging
import platform
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

_log = logging.getLogger(__name__)

DType = Literal["auto", "bfloat16", "float16", "float32", "int8"] | torch.dtype
Precision = Literal["auto", "bf16", "fp16", "fp32"]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "int8": torch.int8}
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device to compute on; None or "auto" selects the GPU if there is one.

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
        raise ValueError(f"device={str(device)!r}, but torch sees no GPU; use auto or cpu, or install torch with CUDA")
    return device


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The type of a network in inference; "auto" is bfloat16 where that is faster on `device`, else float32.

    Raises:
        ValueError: the type does not exist, or int8 without a CPU.
    """
    if dtype in ("int8", torch.int8) and device.type != "cpu":
        raise ValueError(f"dtype=int8 needs device=cpu, the device is {device}; use bfloat16 there")
    if dtype == "auto":
        return fastest_dtype(device)
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ValueError(f"dtype must be auto, {', '.join(_DTYPES)}, got {dtype!r}")
    return _warned(chosen, device)


def clip_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the clips for a network of type `dtype`: int8 layers take float32."""
    return torch.float32 if dtype == torch.int8 else dtype


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of autocast in training; "auto" is bf16 on a GPU that supports it, fp16 on other GPUs, fp32 on a CPU.

    Raises:
        ValueError: fp16 without a GPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"run.precision=fp16 needs a GPU, the device is {device}; use bf16 or fp32")
    if precision != "auto":
        return _warned(_PRECISIONS[precision], device)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if _gpu_has_bfloat16() else torch.float16


@contextmanager
def memory_advice(work: str, advice: str) -> Iterator[None]:
    """Context in which an out-of-memory error of the GPU becomes one line: what was computed, and what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0].partition(". GPU")[0]
        raise torch.OutOfMemoryError(f"out of GPU memory with {work}: {advice} ({reason})") from error


def device_name(device: torch.device | str) -> str:
    """The kind of a device and the name of the GPU or processor, such as "cuda: NVIDIA H200"."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that supports it, and on a CPU where a timed ViT-B layer runs faster in it; else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if _gpu_has_bfloat16() else torch.float32
    seconds = {dtype: _layer_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _warned(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The same type; warns of bfloat16 on a processor that has no instructions for it."""
    if dtype == torch.bfloat16 and device.type == "cpu":
        _warn_if_slow(device)
    return dtype


@functools.cache  # one warning per process
def _warn_if_slow(device: torch.device) -> None:
    cost = _layer_seconds(device, torch.bfloat16) / _layer_seconds(device, torch.float32)
    if cost > 1.5:
        _log.warning("bfloat16 takes %.1f times as long as float32 on this processor; use float32 (fp32)", cost)


def _gpu_has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _layer_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Time of one linear layer 768 -> 768 on 512 tokens, in seconds; minimum of five runs."""
    tokens = torch.ones(512, 768, device=device, dtype=dtype)
    weight = torch.ones(768, 768, device=device, dtype=dtype)
    return min(timeit.repeat(lambda: torch.nn.functional.linear(tokens, weight)[0, 0].item(), number=1, repeat=5))
