"""Prepares a network for inference."""

import copy

import torch

from ..device import DType, choose_device, choose_dtype
from ..hub.loading import load_model
from ..models import ZooModel


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
