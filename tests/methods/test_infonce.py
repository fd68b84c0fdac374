"""InfoNCE in pieces is the formula written out, in any number of pieces and with any negatives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from svt_zoo.methods.infonce import Negatives, info_nce

CLIPS, ROWS = 4, 6


def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, CLIPS * ROWS, 5, dtype=torch.float64, generator=generator).unbind()
    return queries.requires_grad_(), keys.requires_grad_()


def plain(queries: Tensor, keys: Tensor, negatives: Negatives) -> Tensor:
    scores = queries @ keys.T
    clip = torch.arange(CLIPS * ROWS) // ROWS
    same, own = clip[:, None] == clip, torch.eye(CLIPS * ROWS, dtype=torch.bool)
    candidates = {"all": own | True, "same_clip": same, "other_clips": own | ~same}[negatives]
    return F.cross_entropy(scores.masked_fill(~candidates, -torch.inf), torch.arange(CLIPS * ROWS))


@pytest.mark.parametrize("negatives", ["all", "same_clip", "other_clips"])
@pytest.mark.parametrize("max_scores", [1, 7 * CLIPS * ROWS, 10**6])
def test_loss_and_gradients_are_those_of_the_plain_formula(negatives: Negatives, max_scores: int) -> None:
    queries, keys = vectors()
    found = info_nce(queries, keys, rows_of_clip=ROWS, negatives=negatives, max_scores=max_scores)
    (2 * found.loss).backward()
    gradients = queries.grad, keys.grad
    queries, keys = vectors()
    expected = plain(queries, keys, negatives)
    (2 * expected).backward()
    assert_close(found.loss, expected)
    assert_close(gradients, (queries.grad, keys.grad))


def test_the_nearest_candidate_is_the_one_with_the_largest_score() -> None:
    queries, keys = vectors()
    assert torch.equal(info_nce(queries, keys, rows_of_clip=ROWS).nearest, (queries @ keys.T).argmax(dim=1))
    same_clip = info_nce(queries, keys, rows_of_clip=ROWS, negatives="same_clip").nearest
    assert torch.equal(same_clip // ROWS, torch.arange(CLIPS * ROWS) // ROWS)


def test_loss_and_hits_of_recorded_scores_equal_the_original(
    oracle: Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]],
) -> None:
    scores, said = oracle("cpc/components")[0]["metric.score"], oracle("cpc/oracle")[1]["metrics"]
    found = info_nce(scores, torch.eye(24, dtype=scores.dtype), rows_of_clip=6)
    assert found.loss.item() == pytest.approx(said["ce_loss"], abs=1e-12)
    assert (found.nearest == torch.arange(24)).double().mean().item() == said["top1_3_5"][0]


@pytest.mark.parametrize("batch", [2, 8])
def test_no_tensor_is_larger_than_the_pieces_and_the_vectors(batch: int) -> None:
    rows, limit = batch * 64, 4096
    queries, keys = (torch.randn(rows, 4, requires_grad=True) for _ in range(2))
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor))
            return out

    with Watch():
        info_nce(queries, keys, rows_of_clip=64, max_scores=limit).loss.backward()
    assert max(sizes) <= max(limit, 4 * rows)
    assert max(sizes) < rows * rows


def test_one_clip_has_no_negatives_of_others() -> None:
    queries, keys = vectors()
    with pytest.raises(ValueError, match=r"at least two clips in a batch; raise data\.batch_size"):
        info_nce(queries, keys, rows_of_clip=len(queries), negatives="other_clips")
    with pytest.raises(ValueError, match="negatives must be one of all, same_clip, other_clips, got 'hard'"):
        info_nce(queries, keys, rows_of_clip=ROWS, negatives="hard")  # type: ignore[arg-type]
