"""InfoNCE over many candidates, in pieces: the matrix of all scores is never there as a whole."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Negatives = Literal["all", "same_clip", "other_clips"]
MAX_SCORES = 2**24  # scores in memory at a time, 64 MiB in float32; at most two such pieces are


class Scores(NamedTuple):
    """The mean loss, and for each row the candidate with the largest score, (M,)."""

    loss: Tensor
    nearest: Tensor


def info_nce(
    queries: Tensor, keys: Tensor, *, rows_of_clip: int, negatives: Negatives = "all", max_scores: int = MAX_SCORES
) -> Scores:
    """Cross entropy of finding each query's key among the candidates, the score being their dot product.

    Van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), equation 4. Rows are
    scored a few at a time, and what backward needs is computed on the way: no score is computed twice.

    Args:
        queries, keys: (M, D), clip by clip; the key of a query has its number.
        rows_of_clip: how many rows in a row are of one clip.
        negatives: the candidates beside a row's own key: "all" other keys, those of the "same_clip" (other times and
            places), or those of "other_clips".
        max_scores: scores computed at a time, at least one row of them.

    Raises:
        ValueError: no such choice of negatives, or one clip alone whose negatives are of other clips.
    """
    if negatives not in ("all", "same_clip", "other_clips"):
        raise ValueError(f"negatives must be one of all, same_clip, other_clips, got {negatives!r}")
    if negatives == "other_clips" and len(queries) <= rows_of_clip:
        raise ValueError("negatives=other_clips needs at least two clips in a batch; raise data.batch_size")
    loss, nearest = _InfoNCE.apply(queries, keys, rows_of_clip, negatives, max(1, max_scores // max(1, len(keys))))
    return Scores(loss, nearest)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, rows_of_clip: int, negatives: Negatives, step: int
    ) -> tuple[Tensor, Tensor]:
        size = len(queries)
        index = torch.arange(size, device=queries.device)
        clip = index // rows_of_clip
        nearest = torch.empty_like(index)
        total = queries.new_zeros(())
        wanted = any(ctx.needs_input_grad)
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        for rows in index.split(step):
            scores = queries[rows] @ keys.T  # (R, M): a piece
            if negatives == "same_clip":
                scores.masked_fill_(clip[rows, None] != clip, -torch.inf)
            elif negatives == "other_clips":
                scores.masked_fill_((clip[rows, None] == clip) & (rows[:, None] != index), -torch.inf)
            nearest[rows] = scores.argmax(dim=1)
            norm = scores.logsumexp(dim=1, keepdim=True)  # (R, 1)
            total += (norm - scores.gather(1, rows[:, None])).sum()
            if wanted:  # of the loss by a score: its share of the softmax, less 1 for the right one
                shares = scores.sub_(norm).exp_().scatter_add_(1, rows[:, None], torch.full_like(norm, -1.0))
                grad_queries[rows] = shares @ keys
                grad_keys.addmm_(shares.T, queries[rows])
        ctx.save_for_backward(grad_queries.div_(size), grad_keys.div_(size))
        ctx.mark_non_differentiable(nearest)
        return total / size, nearest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_queries, grad_keys = ctx.saved_tensors
        return grad_loss * grad_queries, grad_loss * grad_keys, None, None, None
