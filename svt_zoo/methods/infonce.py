"""InfoNCE: find each query's key among many candidates."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Negatives = Literal["all", "same_clip", "other_clips"]


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

    Raises:
        ValueError: an unknown choice of negatives, or "other_clips" with one clip.
    """
    if negatives not in ("all", "same_clip", "other_clips"):
        raise ValueError(f"negatives must be one of all, same_clip, other_clips, got {negatives!r}")
    if negatives == "other_clips" and len(queries) <= rows_of_clip:
        raise ValueError("negatives=other_clips needs at least two clips in a batch; raise data.batch_size")
    scores = queries @ keys.T  # (M, M)
    row = torch.arange(len(scores), device=scores.device)
    if negatives != "all":
        same_clip = row[:, None] // rows_of_clip == row // rows_of_clip
        excluded = ~same_clip if negatives == "same_clip" else same_clip & (row[:, None] != row)
        scores = scores.masked_fill(excluded, -torch.inf)
    return Scores(F.cross_entropy(scores, row), scores.argmax(dim=1))
