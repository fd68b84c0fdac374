"""Precision of training."""

from typing import Literal

import torch

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_precision(asked: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> Precision:
    """The precision for `device`; "auto" is bf16 on a GPU that supports it, fp16 on other GPUs, fp32 on a CPU.

    Raises:
        ValueError: fp16 without a GPU.
    """
    if asked == "fp16" and device.type != "cuda":
        raise ValueError(f"run.precision=fp16 needs a GPU, the device is {device}; use bf16 or fp32")
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
