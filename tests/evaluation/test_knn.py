"""Nearest neighbors equal the recorded ones of the original, for any chunk size."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.evaluation.knn import few_shot, knn_scores, nearest, standardized, vote
from svt_zoo.evaluation.metrics import accuracy

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_neighbors_and_votes_equal_the_originals(oracle: Oracle, k: int) -> None:
    data, _ = oracle("svt/knn")
    found = nearest(data["test_features"], data["train_features"], k)
    assert torch.equal(found.rows, data[f"k{k}/neighbours"])
    assert_close(vote(found, data["train_labels"], 12).double(), data[f"k{k}/votes"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_accuracies_equal_the_originals(oracle: Oracle, k: int) -> None:
    data, recorded = oracle("svt/knn")
    bank, labels, queries, truth = (
        data[f"{part}_{what}"] for part in ("train", "test") for what in ("features", "labels")
    )
    scores = knn_scores(bank, labels, queries, num_classes=12, ks=[k])[k]
    metrics = accuracy(scores, truth)
    assert metrics["top1"] == pytest.approx(recorded["results"][f"k{k}"]["top1"])
    assert metrics["top5"] == pytest.approx(recorded["results"][f"k{k}"]["top5_excluding_zero_vote_classes"])


@pytest.mark.parametrize("k", [5, 10])
def test_ranking_classes_without_votes_gives_the_originals_number_for_its_own_classes(oracle: Oracle, k: int) -> None:
    data, recorded = oracle("svt/knn")
    neighbors = nearest(data["test_features"], data["train_features"], k)
    scores = vote(neighbors, data["train_labels"], 12)  # a class without votes scores 0, as in the original
    metrics = accuracy(scores, data["test_labels"])
    assert metrics["top5"] == pytest.approx(recorded["results"][f"k{k}_num_classes_12"]["top5"])
    assert metrics["top1"] == pytest.approx(recorded["results"][f"k{k}_num_classes_12"]["top1"])


def features(num: int, seed: int) -> Tensor:
    """Features whose dot products are exact in float32, and often equal: +-1 in 16 dimensions."""
    return torch.randint(2, (num, 16), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


@settings(max_examples=50)
@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 45),
    st.integers(1, 65),
    st.integers(0, 9),
)
def test_the_neighbors_are_the_same_for_any_chunks(
    num_queries: int, num_bank: int, k: int, query_chunk: int, bank_chunk: int, seed: int
) -> None:
    queries, bank = features(num_queries, seed), features(num_bank, seed + 100)
    chunked = nearest(queries, bank, k, query_chunk=query_chunk, bank_chunk=bank_chunk)
    similarity = queries @ bank.T / 16
    whole = similarity.sort(dim=1, descending=True, stable=True)  # equal values in bank order
    assert torch.equal(chunked.rows, whole.indices[:, :k])
    assert torch.equal(chunked.similarity, whole.values[:, :k])


@pytest.mark.parametrize(("num_bank", "k"), [(1000, 5), (2053, 20), (2048, 31)])
@pytest.mark.parametrize("tied", [True, False])
def test_the_neighbors_in_a_wide_bank_are_those_of_a_stable_sort(num_bank: int, k: int, tied: bool) -> None:
    queries, bank = features(9, 0), features(num_bank, 1)
    if not tied:
        bank = torch.randn(num_bank, 16, generator=torch.Generator().manual_seed(1))
    bank[700:710] = bank[3]
    whole = (F.normalize(queries) @ F.normalize(bank).T).sort(dim=1, descending=True, stable=True)
    found = nearest(queries, bank, k)
    assert_close(found.similarity, whole.values[:, :k])
    assert not tied or torch.equal(found.rows, whole.indices[:, :k])


def test_real_valued_votes_agree_for_any_chunks() -> None:
    torch.manual_seed(0)
    bank, queries, labels = torch.randn(300, 24), torch.randn(50, 24), torch.randint(7, (300,))
    whole = knn_scores(bank, labels, queries, num_classes=7, ks=(3, 20))
    for query_chunk, bank_chunk in ((1, 300), (50, 1), (7, 64)):
        parts = knn_scores(
            bank, labels, queries, num_classes=7, ks=(3, 20), query_chunk=query_chunk, bank_chunk=bank_chunk
        )
        for k in (3, 20):
            assert_close(parts[k], whole[k], rtol=1e-5, atol=0)  # votes amplify rounding errors


def test_one_query_is_enough() -> None:
    bank = torch.eye(3)
    scores = knn_scores(bank, torch.tensor([0, 1, 1]), torch.tensor([[0.0, 5.0, 0.1]]), num_classes=2, ks=[2])
    assert scores[2].argmax().item() == 1


def test_the_length_of_features_does_not_matter() -> None:
    torch.manual_seed(0)
    bank, queries = torch.randn(40, 8), torch.randn(9, 8)
    scaled = nearest(queries * 7, bank * torch.rand(40, 1).add(0.1), 5)
    assert torch.equal(scaled.rows, nearest(queries, bank, 5).rows)


def test_each_neighbor_votes_by_the_exponential_of_its_similarity() -> None:
    bank = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), dim=1)
    votes = vote(nearest(torch.tensor([[2.0, 0.0]]), bank, 3), torch.tensor([0, 1, 1]), 3)
    expected = torch.tensor([1 / 0.07, 0.5**0.5 / 0.07, 0.0]).exp()
    assert_close(votes, torch.tensor([[expected[0], expected[1] + expected[2], 0]]))


def test_a_class_without_votes_is_never_predicted() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
    queries = torch.eye(3)[:1]
    scores = knn_scores(bank, labels, queries, num_classes=6, ks=[1])[1]
    assert accuracy(scores, torch.tensor([1]))["top5"] == 0


def test_more_neighbors_than_the_bank_has_are_all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scores = knn_scores(torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(3), num_classes=2, ks=(2, 200))
    assert "k=200 is more than the 3 training features" in caplog.text
    assert scores[200].shape == (3, 2)


def test_broken_features_are_refused() -> None:
    bank = torch.eye(3)
    with pytest.raises(ValueError, match="1 of 3 features hold NaN"):
        nearest(bank, bank * torch.tensor([[1.0], [torch.nan], [1.0]]), 1)
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(3, 2\)"):
        nearest(bank, bank[:, :2], 1)
    with pytest.raises(ValueError, match="must lie in 0 to 1, got -1 to 1"):
        knn_scores(bank, torch.tensor([0, -1, 1]), bank, num_classes=2, ks=[1])


def test_few_shots_are_n_per_class_and_fixed_by_the_seed() -> None:
    labels = torch.tensor([0, 1, 2] * 10)
    chosen = few_shot(labels, 4, seed=1)
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert len(chosen.unique()) == 12
    assert torch.equal(chosen, few_shot(labels, 4, seed=1))
    assert not torch.equal(chosen, few_shot(labels, 4, seed=2))
    assert set(few_shot(labels, 2, seed=1).tolist()) < set(chosen.tolist())
    with pytest.raises(ValueError, match="shots must be 1 to 10, the number of training videos of class 0, got 11"):
        few_shot(labels, 11)


def test_one_shot_of_separable_features_is_enough() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(20)
    points = torch.eye(4)[labels] + 0.05 * torch.randn(80, 4)
    shots = few_shot(labels, 1)
    scores = knn_scores(points[shots], labels[shots], points, num_classes=4, ks=[1])[1]
    assert accuracy(scores, labels)["top1"] == 100


def test_standardized_features_have_mean_0_and_std_1_over_the_bank() -> None:
    bank = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1, 0.0]) + 100
    train, test = standardized(bank, bank[:3])
    assert_close(train.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    assert_close(train[:, :3].std(dim=0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert_close(test, train[:3])
