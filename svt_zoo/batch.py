"""The batch that data loaders give to methods and evaluations."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Failure(NamedTuple):
    """A video that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Views of B videos.

    Attributes:
        views: one tensor per view. Training views are uint8 (B, T, H, W, 3) and are augmented on the device; evaluation
            views are float32 (B, 3, T, H, W), ready for a model.
        labels: (B,) int64, -1 for a video without a label.
        video_index: (B,) int64, row of each video in its list.
        names: path of each video.
        params: random parameters of each view, stacked over the batch, or None.
        targets: targets of the first view besides the label, such as flow labels (B, T-1, N).
        failures: videos that could not be read for this batch. In training other videos replace them; in evaluation
            they are missing from the batch.
    """

    views: list[Tensor]
    labels: Tensor
    video_index: Tensor
    names: list[str] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    targets: dict[str, Tensor] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "Batch":
        """The same batch with views, labels and targets on `device`.

        Random parameters stay in host memory: `Augment` branches on them, which would synchronize the device.
        """
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch with views, labels and targets in page-locked memory, for asynchronous copies to a GPU."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        large = {"views": self.views, "labels": self.labels, "targets": self.targets}
        return replace(self, **tree_map_only(Tensor, move, large))

    def __getstate__(self) -> dict[str, Any]:
        # A worker sends each tensor as a file descriptor. Ten views have a hundred small tensors of parameters, and a
        # few prefetched batches exceed the usual limit of 1,024. Everything except views is sent by value, as arrays.
        small = tree_map_only(Tensor, Tensor.numpy, {**vars(self), "views": None})
        return {**small, "views": self.views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in tree_map_only(np.ndarray, torch.from_numpy, state).items():
            object.__setattr__(self, name, value)
