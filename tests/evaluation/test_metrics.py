"""Accuracies equal values computed by hand; intervals equal published values."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svt_zoo.evaluation.metrics import (
    accuracy,
    class_ranks,
    confusion_matrix,
    mean_interval,
    plot_confusion,
    summarize,
    wilson_interval,
)

NONE = float("-inf")


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_equals_newcombes_table(successes: int, trials: int, low: float, high: float) -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_the_interval_contains_the_fraction_and_is_mirrored_for_failures(
    counts: tuple[int, int], confidence: float
) -> None:
    right, total = counts
    low, high = wilson_interval(right, total, confidence)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    assert wilson_interval(total - right, total, confidence) == pytest.approx((1 - high, 1 - low))


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson_interval(0, 0)


def test_the_interval_of_one_class_is_wilsons_and_shrinks_with_more_classes() -> None:
    assert mean_interval([7], [10]) == pytest.approx(wilson_interval(7, 10))
    low, high = wilson_interval(7, 10)
    four = mean_interval([7] * 4, [10] * 4)  # four independent fractions: half the width
    assert four == pytest.approx((0.7 - (0.7 - low) / 2, 0.7 + (high - 0.7) / 2))


def test_a_class_that_is_always_right_still_counts_as_uncertain() -> None:
    low, high = mean_interval([5, 5], [5, 5])
    assert low < 0.9
    assert high == 1


def test_ranks_count_the_better_classes_and_equal_ones_that_come_first() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    assert class_ranks(scores, torch.tensor([1, 0, 0, 2])).tolist() == [0, 2, 0, 2]


def test_a_class_at_minus_infinity_is_never_predicted() -> None:
    scores = torch.tensor([[1.0, NONE, NONE]]).repeat(3, 1)
    assert class_ranks(scores, torch.tensor([0, 1, 2])).tolist() == [0, 3, 3]


def test_accuracy_equals_a_table_counted_by_hand() -> None:
    # 10 videos of 3 classes with 6, 3 and 1 of them; top-1 correct: 4 of 6, 3 of 3, 0 of 1.
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    first = torch.tensor([0, 0, 0, 0, 1, 2, 1, 1, 1, 0])
    second = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0, 0, 2])
    scores = torch.zeros(10, 3).scatter_(1, first[:, None], 2.0).scatter_(1, second[:, None], 1.0)
    metrics = accuracy(scores, labels, topk=(1, 2, 5))
    assert metrics["top1"] == pytest.approx(70)
    assert metrics["top2"] == pytest.approx(90)  # the true class of the sixth video is third
    assert metrics["mean_class"] == pytest.approx(100 * (4 / 6 + 1 + 0) / 3)
    assert (metrics["top1_low"], metrics["top1_high"]) == pytest.approx([100 * b for b in wilson_interval(7, 10)])
    assert "top5" not in metrics  # top-5 is not defined for three classes


def test_classes_without_a_video_do_not_enter_the_mean() -> None:
    scores = torch.eye(4)[[0, 0, 3]]
    assert accuracy(scores, torch.tensor([0, 0, 1]))["mean_class"] == pytest.approx(50)


def test_scores_with_nan_are_refused() -> None:
    scores = torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match="1 of 2 rows of scores hold NaN"):
        accuracy(scores, torch.tensor([0, 1]))


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 1, got -1 to 0"):
        accuracy(torch.zeros(2, 2), torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="at least one prediction"):
        accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_seeds_are_summarized_by_mean_and_deviation() -> None:
    summary = summarize([{"top1": 1.0, "top1_low": 0.0}, {"top1": 3.0, "top1_low": 2.0}])
    assert summary == pytest.approx({"top1": 2, "top1_low": 1, "top1_std": math.sqrt(2)})
    with pytest.raises(ValueError, match="same metrics"):
        summarize([{"top1": 1.0}, {"top5": 1.0}])


def test_the_confusion_matrix_has_labels_as_rows() -> None:
    matrix = confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 2]), 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="predictions must lie in 0 to 2, got 0 to 3"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)


def test_the_confusion_picture_is_a_png_whose_diagonal_is_dark() -> None:
    matrices = (torch.eye(30, dtype=torch.int64) * 4, torch.zeros(30, 30, dtype=torch.int64))
    picture, blank = (Image.open(io.BytesIO(plot_confusion(matrix, classes=["c"] * 30))) for matrix in matrices)
    assert picture.format == "PNG"
    assert min(picture.size) > 300
    assert np.asarray(picture)[..., 0].mean() < np.asarray(blank)[..., 0].mean()
