"""A GPU without memory: tensors on "cuda" have shapes and no values, tensors on the CPU are real.

Torch then refuses to compute with tensors of both devices, as with a GPU, and each wait for the GPU is recorded.
There is no backward pass: gradients are made up.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGE = Path(__file__).resolve().parents[1] / "svt_zoo"
GPU = torch.device("cuda")


class FakeGPU(TorchDispatchMode):
    """Runs what concerns the CPU alone, and records where the CPU waits for the GPU.

    A number or tensor that is read from the GPU is 0.

    Attributes:
        waits: what is read, and the line of the package that reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def wait(self, what: str) -> None:
        """Record a wait and the line of the package that caused it."""
        lines = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
        place = f"{Path(lines[-1].filename).relative_to(PACKAGE)}:{lines[-1].lineno}" if lines else "the test"
        self.waits.append(f"{what} in {place}")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        from_gpu = any(isinstance(tensor, FakeTensor) for tensor in inputs)
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not (from_gpu or to_gpu):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        if function.namespace == "prim":
            return function(*args, **kwargs)
        with self:  # in inference mode, torch does not take operators apart
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name = function.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.wait("a number is read")
            return 0.0 if inputs[0].is_floating_point() else 0
        if name in ("nonzero", "masked_select"):
            self.wait("a number of elements is read")
        if name == "_to_copy" and target is not None and from_gpu != to_gpu:
            if not kwargs.get("non_blocking"):
                self.wait("a copy")
            if not to_gpu:
                return zeros_like(inputs[0], kwargs.get("dtype"))
        if name == "index" and any(not isinstance(index, FakeTensor) for index in args[1] if index is not None):
            self.wait("an index is copied")
        return function(*args, **kwargs)


def zeros_like(fake: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A real tensor on the CPU."""
    with unset_fake_temporarily():
        return torch.zeros(fake.shape, dtype=dtype or fake.dtype)


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Context in which "cuda" works, without gradients."""
    gpu = FakeGPU()

    def numbers(tensor: Tensor) -> Any:
        gpu.wait("numbers are read")
        return zeros_like(tensor).tolist()

    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("svt_zoo.evaluation.features.choose_device", torch.device),
        mock.patch.object(nn.Module, "to", move),
        mock.patch.object(Tensor, "backward", made_up_backward),
        mock.patch.object(FakeTensor, "tolist", numbers),
        FakeTensorMode(allow_non_fake_inputs=True),
        gpu,
    ):
        yield gpu


def move(module: nn.Module, device: Any = None, dtype: torch.dtype | None = None) -> nn.Module:
    """`module.to(...)`, which torch cannot do from real tensors to fake ones."""
    for part in module.modules():
        for values in (part._parameters, part._buffers):
            for name, old in values.items():
                if old is not None:
                    new = torch.empty_like(old, device=device, dtype=dtype if old.is_floating_point() else None)
                    values[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    return module


def made_up_backward(loss: Tensor) -> None:
    """Give each trained parameter of the graph of `loss` a gradient."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)
        nodes += [other for other, _ in node.next_functions]
