"""InfoNCE is the formula of the paper, for each choice of negatives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.methods.method import Negatives, info_nce

CLIPS, ROWS = 4, 6


def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, CLIPS * ROWS, 5, dtype=torch.float64, generator=generator).unbind()
    return queries.requires_grad_(), keys.requires_grad_()


@pytest.mark.parametrize("negatives", ["all", "same_clip", "other_clips"])
def test_the_loss_is_the_formula_of_the_paper(negatives: Negatives) -> None:
    queries, keys = vectors()
    clip = torch.arange(CLIPS * ROWS) // ROWS
    terms = []
    for i, query in enumerate(queries):
        chosen = {"all": clip >= 0, "same_clip": clip == clip[i], "other_clips": clip != clip[i]}[negatives].clone()
        chosen[i] = True
        terms.append(-((query @ keys[i]).exp() / (keys[chosen] @ query).exp().sum()).log())
    expected = torch.stack(terms).mean()
    loss = info_nce(queries, keys, rows_of_clip=ROWS, negatives=negatives).loss
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, [queries, keys]), torch.autograd.grad(expected, [queries, keys]))


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


def test_one_clip_has_no_negatives_of_others() -> None:
    queries, keys = vectors()
    with pytest.raises(ValueError, match=r"at least two clips in a batch; raise data\.batch_size"):
        info_nce(queries, keys, rows_of_clip=len(queries), negatives="other_clips")
    with pytest.raises(ValueError, match="negatives must be one of all, same_clip, other_clips, got 'hard'"):
        info_nce(queries, keys, rows_of_clip=ROWS, negatives="hard")  # type: ignore[arg-type]
