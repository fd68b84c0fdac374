"""Linear probe: joint training of many learning rates equals separate training; no selection on the test set."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.evaluation.linear import LinearConfig, hold_out, linear_probe, train_heads
from svt_zoo.evaluation.metrics import accuracy


def probe_options(**changes: Any) -> LinearConfig:
    return LinearConfig(**{"slow_fast": False, "views": "1x1", **changes})


def blobs(num: int, num_classes: int, *, noise: float, seed: int = 0, dim: int = 16) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    centers = torch.eye(num_classes, dim) * 4
    return centers[labels] + noise * torch.randn(num, dim, generator=rng), labels


def reference(features: Tensor, labels: Tensor, lr: float, *, epochs: int, batch_size: int, seed: int) -> nn.Linear:
    """The recipe with PyTorch's optimizer and scheduler, for one learning rate."""
    rng = torch.Generator().manual_seed(seed)
    head = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.normal_(head.weight, 0, 0.01, generator=rng)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=0)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=rng).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return head


def test_a_sweep_equals_training_each_head_by_itself() -> None:
    features, labels = blobs(70, 3, noise=2.0)
    lrs = (1e-3, 8e-3, 0.3)
    options = probe_options(lrs=lrs, epochs=4, batch_size=32, weight_decay=1e-3)
    heads = train_heads(features, labels, num_classes=3, options=options, seed=5)
    for i, lr in enumerate(lrs):
        alone = reference(features, labels, lr, epochs=4, batch_size=32, seed=5)
        assert_close(heads.weight[i], alone.weight.detach())
        assert_close(heads.bias[i], alone.bias.detach())
        assert_close(heads.scores(features, i), alone(features).detach())


def test_separable_features_are_learned() -> None:
    train, train_labels = blobs(120, 4, noise=0.3)
    test, test_labels = blobs(80, 4, noise=0.3, seed=1)
    probe = linear_probe(train, train_labels, test, test_labels, num_classes=4, options=probe_options())
    assert accuracy(probe.scores, test_labels)["top1"] == 100
    assert (probe.lr, probe.validation) == (8e-3, {})


def test_noise_gives_chance() -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = torch.randn(200, 16, generator=rng), torch.randn(400, 16, generator=rng)
    labels, test_labels = torch.arange(200) % 4, torch.arange(400) % 4
    options = probe_options(lrs=(8e-3, 8e-2), epochs=5)
    probe = linear_probe(train, labels, test, test_labels, num_classes=4, options=options)
    metrics = accuracy(probe.scores, test_labels, confidence=0.9999)
    assert metrics["top1_low"] < 25 < metrics["top1_high"]


def test_the_test_set_does_not_select_the_learning_rate() -> None:
    train, labels = blobs(120, 3, noise=1.5)
    test, test_labels = blobs(60, 3, noise=1.5, seed=1)
    options = probe_options(lrs=(8e-4, 8e-3, 8e-2, 8e-1), epochs=3)
    honest = linear_probe(train, labels, test, test_labels, num_classes=3, options=options)
    swapped = linear_probe(train, labels, test, (test_labels + 1) % 3, num_classes=3, options=options)
    assert honest.lr == swapped.lr
    assert honest.validation == swapped.validation
    assert honest.validation[honest.lr] == max(honest.validation.values())
    assert honest.test != swapped.test
    assert honest.test[honest.lr] == accuracy(honest.scores, test_labels)["top1"]


def test_a_learning_rate_that_diverges_loses() -> None:
    train, labels = blobs(60, 3, noise=1.0)
    options = probe_options(lrs=(1e20, 1e-38), epochs=3)
    probe = linear_probe(train * 1e18, labels, train, labels, num_classes=3, options=options)
    assert probe.validation[1e20] == 0
    assert probe.lr == 1e-38


def test_each_epoch_draws_one_of_the_cached_clips() -> None:
    labels = torch.arange(40) % 2
    same = torch.randn(40, 1, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1)
    options = {"num_classes": 2, "options": probe_options(lrs=(8e-3,), epochs=1), "seed": 3}
    once = train_heads(same[:, 0], labels, **options)
    assert_close(train_heads(same, labels, **options).weight, once.weight)
    useless = torch.cat((same[:, :1], torch.zeros(40, 2, 8)), dim=1)  # now two of three clips are all zeros
    assert not torch.allclose(train_heads(useless, labels, **options).weight, once.weight)


def test_as_many_epochs_as_clips_show_each_clip_once() -> None:
    clips = torch.eye(40 * 3).view(40, 3, -1)  # each clip has a feature, and so a column of weights, of its own
    labels = torch.arange(40) % 2
    low, high = (
        train_heads(clips, labels, num_classes=2, options=probe_options(lrs=(lr,), epochs=3, momentum=0.0)).weight[0]
        for lr in (1e-6, 1.0)
    )
    assert ((high - low).abs().sum(dim=0) > 1e-4).all()


def test_a_seed_repeats_a_probe_and_another_one_does_not() -> None:
    train, labels = blobs(50, 2, noise=3.0)
    options = probe_options(lrs=(0.1,), epochs=2)
    first, again, other = (train_heads(train, labels, num_classes=2, options=options, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_standardized_features_lose_their_offset_and_scale() -> None:
    train, labels = blobs(60, 3, noise=0.5)
    test, test_labels = blobs(30, 3, noise=0.5, seed=1)
    options = probe_options(standardize=True)
    plain = linear_probe(train, labels, test, test_labels, num_classes=3, options=options)
    small, small_test = train * 1e-3 + 0.5, test * 1e-3 + 0.5
    moved = linear_probe(small, labels, small_test, test_labels, num_classes=3, options=options)
    assert_close(moved.scores, plain.scores, atol=1e-3, rtol=1e-3)
    unaided = linear_probe(small, labels, small_test, test_labels, num_classes=3, options=probe_options())
    assert accuracy(unaided.scores, test_labels)["top1"] < accuracy(moved.scores, test_labels)["top1"]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), min_size=30, max_size=80),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
def test_what_is_held_out_shares_no_group_and_leaves_each_class(
    videos: list[tuple[int, int]], share: float, seed: int
) -> None:
    labels = torch.tensor([label for label, _ in videos])
    groups = [f"scene {label} {group}" for label, group in videos]
    try:
        mask = hold_out(labels, share, seed=seed, groups=groups)
    except ValueError:
        assume(False)  # one scene per class
    assert mask.any()
    assert not {g for g, out in zip(groups, mask, strict=True) if out} & {
        g for g, out in zip(groups, mask, strict=True) if not out
    }
    assert set(labels[~mask].tolist()) == set(labels.tolist())
    for label in labels.unique():
        assert mask[labels == label].sum() <= max(1, round(share * int((labels == label).sum())))


def test_without_groups_a_fraction_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    mask = hold_out(labels, 0.2)
    assert labels[mask].bincount(minlength=3).tolist() == [10, 2, 0]  # a class of one stays in training


def test_one_scene_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="10 videos in 1 groups can be held out"):
        hold_out(torch.arange(10) % 2, 0.2, groups=["a"] * 10)


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5,\)"):
        train_heads(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), num_classes=2, options=probe_options())
    with pytest.raises(ValueError, match="0 to 1, got -1 to 0"):
        train_heads(torch.zeros(2, 3), torch.tensor([-1, 0]), num_classes=2, options=probe_options())
    with pytest.raises(ValueError, match="NaN or infinity"):
        train_heads(torch.full((2, 3), torch.nan), torch.tensor([1, 0]), num_classes=2, options=probe_options())


def test_a_part_is_held_out_though_some_classes_have_no_video() -> None:
    labels = torch.tensor([3] * 10 + [5] * 10)
    mask = hold_out(labels, 0.2, seed=0)
    assert labels[mask].bincount().tolist() == [0, 0, 0, 2, 0, 2]
