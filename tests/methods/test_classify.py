"""Supervised training: what the loss is, and what is mixed."""

import pytest
import torch
import torch.nn.functional as F
from small_svt import TINY, SmallCNN
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.batch import Batch
from svt_zoo.methods import Classify, ClassifyConfig
from svt_zoo.models.timesformer import timesformer


def network(**options: float) -> Classify:
    torch.manual_seed(0)
    return Classify(timesformer(**TINY, drop_path_rate=0.0), 5, ClassifyConfig(**options)).eval()


def batch_of(*views: Tensor, labels: tuple[int, ...] = (0, 3, 4)) -> Batch:
    return Batch(views=list(views), labels=torch.tensor(labels), video_index=torch.arange(len(labels)))


def clips(frames: int = 4, pixels: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(3, 3, frames, pixels, pixels, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_cross_entropy_of_the_linear_layer_on_the_class_feature() -> None:
    method, batch = network(), batch_of(clips())
    logits = F.linear(method.backbone(clips()).cls, method.classifier.head.weight, method.classifier.head.bias)
    by_hand = -(logits.log_softmax(dim=1)[torch.arange(3), batch.labels]).mean()
    assert_close(method(batch, 0.0), {"cross_entropy": by_hand})


def test_the_classifier_says_what_the_method_trained() -> None:
    method = network()
    loss = F.cross_entropy(method.classifier(clips()), torch.tensor([0, 3, 4]))
    assert_close(method(batch_of(clips()), 0.0)["cross_entropy"], loss)


def test_slow_and_fast_features_are_averaged_before_the_linear_layer() -> None:
    method, slow, fast = network(), clips(2, 32), clips(16, 16)
    mean = (method.backbone(slow).cls + method.backbone(fast).cls) / 2
    by_hand = F.cross_entropy(method.classifier.head(mean), torch.tensor([0, 3, 4]))
    assert_close(method(batch_of(slow, fast), 0.0)["cross_entropy"], by_hand)


def test_label_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    method = network(label_smoothing=0.2)
    log = method.classifier(clips()).log_softmax(dim=1)
    targets = 0.8 * F.one_hot(torch.tensor([0, 3, 4]), 5) + 0.2 / 5
    assert_close(method(batch_of(clips()), 0.0)["cross_entropy"], -(targets * log).sum(dim=1).mean())


def test_mixup_mixes_whole_clips_and_their_labels_by_one_share() -> None:
    method = network(mixup=1.0)
    [mixed], shares = method._mixed([clips()], torch.tensor([0, 3, 4]))
    share = shares[0, 0]
    assert 0 < share < 1
    assert_close(mixed, share * clips() + (1 - share) * clips().roll(1, 0))
    assert_close(shares.sum(dim=1), torch.ones(3))
    assert type(mixed) is Tensor


def test_cutmix_cuts_the_same_box_out_of_all_frames() -> None:
    method = network(cutmix=1.0)
    [mixed], shares = method._mixed([clips()], torch.tensor([0, 3, 4]))
    changed = (mixed != clips()).any(dim=1)  # (B, T, H, W)
    assert (changed == changed[:1, :1]).all()
    assert changed.any()
    assert_close(shares[0, 0], 1 - changed[0, 0].float().mean(), atol=1e-6, rtol=0)


def test_mixup_gives_slow_and_fast_clips_the_same_share() -> None:
    method, slow, fast = network(mixup=1.0), clips(2, 32), clips(16, 16)
    (first, second), shares = method._mixed([slow, fast], torch.tensor([0, 3, 4]))
    for mixed, view in ((first, slow), (second, fast)):
        assert_close(mixed, shares[0, 0] * view + (1 - shares[0, 0]) * view.roll(1, 0))


def test_nothing_is_mixed_outside_of_training() -> None:
    assert_close(network(mixup=1.0, cutmix=1.0)(batch_of(clips()), 0.0), network()(batch_of(clips()), 0.0))


def test_mixed_clips_train_the_network() -> None:
    method = network(mixup=0.8, cutmix=1.0).train()
    for _ in range(4):
        method(batch_of(clips()), 0.0)["cross_entropy"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert 0 <= float(method.metrics()["train_top1"]) <= 100


def test_any_backbone_is_trained() -> None:
    method = Classify(SmallCNN(), 5)
    method(batch_of(clips(8)), 0.0)["cross_entropy"].backward()
    assert method.backbone.stem[0].weight.grad is not None


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="labels must lie in 0 to 4, got -1 to 4"):
        network()(batch_of(clips(), labels=(-1, 3, 4)), 0.0)


@pytest.mark.parametrize("wrong", [{"label_smoothing": 1.0}, {"mixup": -0.1}, {"cutmix": -1.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        network(**wrong)
