"""Computes the features of clips with one network on one device; all engines use it."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..data.transforms import EvalTransform
from ..evaluation.features import view_features
from ..evaluation.prepare import prepare
from ..models import ZooModel
from .clips import Chunk, Piece
from .feature_table import Store

Pooling = Literal["cls", "frames", "patches"]


class Computed(NamedTuple):
    """A chunk with one flattened feature per piece; None for a piece with an error."""

    part: int
    pieces: list[Piece]
    embeddings: list[np.ndarray[Any, Any] | None]
    last: bool


class Compute:
    """Applies a network to chunks and pools its outputs.

    Args:
        network: a backbone in eval mode.
        pooling: "cls" keeps the class feature, averaged over views (D numbers); "frames" the mean of the patches of
            each frame (T x D); "patches" all patches (T x N x D).
        store: number type of the stored features.
        device, dtype: device and number type of the computation.

    Raises:
        ValueError: unknown `pooling` or `store`.
    """

    def __init__(
        self, network: ZooModel, pooling: Pooling, store: Store, device: torch.device, dtype: torch.dtype
    ) -> None:
        for name, value, allowed in (("pooling", pooling, get_args(Pooling)), ("store", store, get_args(Store))):
            if value not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, got {value!r}")
        self.network = prepare(network, device, dtype)[0]  # the caller's network is not changed
        self.pooling = pooling
        self.store = store
        self.device = device
        self.dtype = dtype

    def to(self, device: torch.device | str) -> "Compute":
        """Returns a copy on another device."""
        return Compute(self.network, self.pooling, self.store, torch.device(device), self.dtype)

    def shape(self, transform: EvalTransform) -> torch.Size:
        """Shape of one feature: (D,), (T, D) or (T, N, D)."""
        return self._features([torch.zeros(1, 3, transform.num_frames, *transform.crop_size)]).shape[1:]

    def __call__(self, chunk: Chunk) -> Computed:
        """Computes the features of a chunk; a feature that is not finite in the stored type becomes an error."""
        rows: Iterable[np.ndarray[Any, Any]] = ()
        if chunk.views:
            rows = self._features(chunk.views).flatten(1).to(getattr(torch, self.store)).numpy()  # (n, width)
        left = iter(rows)
        pieces, embeddings = [], []
        for piece in chunk.pieces:
            row = None if piece.error else next(left)
            if row is not None and not np.isfinite(row).all():
                piece, row = piece._replace(error=f"the feature has numbers that are not finite in {self.store}"), None
            pieces.append(piece)
            embeddings.append(row)
        return Computed(chunk.part, pieces, embeddings, chunk.last)

    @torch.inference_mode()
    def _features(self, views: list[Tensor]) -> Tensor:
        given = [view.to(device=self.device, dtype=self.dtype) for view in views]
        if self.pooling == "cls":
            return view_features(self.network, given).float().cpu()  # (n, D)
        (clip,) = given
        patches: Tensor = self.network(clip).patches.float().cpu()  # (n, T, N, D)
        return patches.mean(dim=2) if self.pooling == "frames" else patches  # (n, T, D) or (n, T, N, D)
