"""The interface between an objective and the training loop, and what all objectives share."""

from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone
from ..models.layers import check_choice

Negatives = Literal["all", "same_clip", "other_clips"]


class Method(nn.Module):
    """An objective that owns its networks: `forward` returns the losses, one state dict resumes everything.

    One step of the loop: `forward` and backward for each accumulated batch, `before_step`, gradient clipping, the
    optimizer, `after_step`. All of them get the same `epoch`, the only clock: completed steps / steps per epoch, which
    is 0.0 at the first step of a run.

    Attributes:
        backbone: the network that is exported and evaluated.
    """

    backbone: Backbone

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, float | Tensor] = {}

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The losses of `batch` by name; the loop adds them.

        The views are floating point (B, 3, T, H, W), normalized, on the device of the networks.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch, epoch) -> losses")

    def before_step(self, epoch: float) -> None:
        """Called after backward and before gradient clipping; does nothing by default."""

    def after_step(self, epoch: float) -> None:
        """Called after the optimizer, for example to update a teacher; does nothing by default."""

    def metrics(self) -> dict[str, float | Tensor]:
        """Numbers of the last step for the monitor, without gradient; tensors stay on the device."""
        return dict(self._metrics)


def check_views(batch: Batch, method: str, minimum: int) -> list[Tensor]:
    """The views of `batch`, after a check that a method can use them.

    Raises:
        ValueError: fewer than `minimum` views, or views that are not floating point (B, 3, T, H, W) with the same B.
    """
    if len(batch.views) < minimum:
        raise ValueError(f"{method} needs at least {minimum} views of a video, got {len(batch.views)}")
    for index, view in enumerate(batch.views):
        if view.ndim != 5 or not view.is_floating_point() or len(view) != len(batch.views[0]):
            raise ValueError(
                f"{method}: view {index} must be floating point (B, C, T, H, W) with B = {len(batch.views[0])} videos, "
                f"got {tuple(view.shape)} of {view.dtype}; uint8 frames go through data.augment first"
            )
    return batch.views


def check_choices(options: Any) -> None:
    """Raise a ValueError unless each `Literal` field of a dataclass of options holds an allowed value."""
    for name, kind in get_type_hints(type(options)).items():
        if get_origin(kind) is Literal:
            check_choice(name, getattr(options, name), kind)


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32 or wider, because a cross entropy needs more than 16 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Scores(NamedTuple):
    """The mean loss, and for each row the candidate with the largest score, (M,)."""

    loss: Tensor
    nearest: Tensor


def info_nce(queries: Tensor, keys: Tensor, *, rows_of_clip: int, negatives: Negatives = "all") -> Scores:
    """Cross entropy of classifying each query as its own key; the score of a pair is the dot product.

    Van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), equation 4. Memory grows
    with M * M.

    Args:
        queries, keys: (M, D), clip by clip; query i belongs to key i.
        rows_of_clip: number of consecutive rows that belong to one clip.
        negatives: the candidates besides a row's own key: "all" other keys, the keys of the "same_clip" (other times
            and places), or those of "other_clips".
    """
    check_choice("negatives", negatives, Negatives)
    if negatives == "other_clips" and len(queries) <= rows_of_clip:
        raise ValueError("negatives=other_clips needs at least two clips in a batch; raise data.batch_size")
    scores = queries @ keys.T  # (M, M)
    row = torch.arange(len(scores), device=scores.device)
    if negatives != "all":
        same_clip = row[:, None] // rows_of_clip == row // rows_of_clip
        excluded = ~same_clip if negatives == "same_clip" else same_clip & (row[:, None] != row)
        scores = scores.masked_fill(excluded, -torch.inf)
    return Scores(F.cross_entropy(scores, row), scores.argmax(dim=1))
