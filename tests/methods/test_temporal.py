"""TIME's terms: what is shuffled, what can be read from what, what is refused."""

import math
from typing import Any

import pytest
import torch
from small_svt import TINY, SmallCNN, random_batch, tiny_svt
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.batch import Batch
from svt_zoo.methods import SVTTemporal, Temporal, TemporalConfig, TemporalTerms
from svt_zoo.methods.temporal import TemporalHeads, draw_permutations, reversed_classes, shuffle_steps
from svt_zoo.models import Backbone, Features, create_model
from svt_zoo.models.timesformer import timesformer
from svt_zoo.training.checkpoint import seed_all
from svt_zoo.training.optim import OptimConfig, build_optimizer

CPU = torch.device("cpu")
ONLY = {"order": 0.0, "low_confidence": 0.0, "flow": 0.0}


def options_of(**options: Any) -> TemporalConfig:
    """All losses with weight 1 and without smoothing, except `options`."""
    on = {"order": 1.0, "low_confidence": 1.0, "flow": 1.0, "order_smoothing": 0.0, "flow_smoothing": 0.0}
    return TemporalConfig(**{**on, **options})


def network(**options: Any) -> Temporal:
    torch.manual_seed(0)
    backbone = timesformer(**TINY, drop_path_rate=0.0)
    return Temporal(backbone, 5, options_of(**options))


def batch_of(frames: int = 8, pixels: int = 32, patches: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        views=[torch.randn(3, 3, frames, pixels, pixels, generator=generator)],
        labels=torch.tensor([0, 3, 4]),
        video_index=torch.arange(3),
        targets={"flow": torch.randint(9, (3, frames - 1, patches), generator=generator, dtype=torch.uint8)},
    )


class Places(Backbone):
    """A network that sees nothing but its time table: every patch says at which place in the clip it stands."""

    embed_dim, num_frames, patch_size = 16, 8, 8

    def __init__(self, *, sees_content: bool = False) -> None:
        super().__init__()
        self.sees_content = sees_content
        self.times = nn.Parameter(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, clip: Tensor) -> Features:
        patches = self.times.expand(len(clip), 1, 8, 16).transpose(1, 2)  # (B, T, 1, D)
        if self.sees_content:
            number = clip.mean(dim=(1, 3, 4)).round().long()  # (B, T)
            patches = patches + 5 * torch.nn.functional.one_hot(number, 16)[:, :, None]
        return Features(patches.mean(dim=(1, 2)), patches)


def order_after_training(backbone: Backbone, **options: Any) -> float:
    """Percent of frames that the order head places right, after 150 steps."""
    torch.manual_seed(0)
    terms = TemporalTerms(backbone, options_of(**{**ONLY, "order": 1.0, **options}))
    optimizer = build_optimizer(terms, OptimConfig(lr=0.05, weight_decay=0.0))
    clip = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(32, 3, 8, 8, 8)  # frame i is i everywhere
    right = []
    for _ in range(150):
        losses = terms(backbone, clip, backbone(clip), {})
        losses["order"].backward()
        optimizer.step()
        optimizer.zero_grad()
        right.append(float(terms.metrics()["order_top1"]))
    return sum(right[-30:]) / 30


def test_the_order_of_straight_frames_can_be_read_from_the_time_table_alone() -> None:
    assert order_after_training(Places(), order_of="straight") == 100


def test_the_order_of_shuffled_frames_cannot_be_read_from_the_time_table() -> None:
    assert order_after_training(Places(), order_of="shuffled") == pytest.approx(100 / 8, abs=2)


def test_the_order_of_shuffled_frames_can_be_read_from_what_they_show() -> None:
    assert order_after_training(Places(sees_content=True), order_of="shuffled") > 90


def test_each_video_gets_an_order_of_its_own_and_never_the_straight_one() -> None:
    torch.manual_seed(0)
    drawn = draw_permutations(3000, 3, CPU, per="video")
    assert_close(drawn.sort(dim=1).values, torch.arange(3).expand(3000, -1))
    assert len(drawn.unique(dim=0)) == 5
    assert not (drawn == torch.arange(3)).all(dim=1).any()


def test_one_order_of_a_batch_may_be_the_straight_one() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([draw_permutations(4, 3, CPU, per="batch") for _ in range(60)])  # (60, 4, 3)
    assert (drawn == drawn[:, :1]).all()
    assert (drawn[:, 0] == torch.arange(3)).all(dim=1).any()


def test_processes_draw_different_orders() -> None:
    orders = []
    for rank in (0, 1):
        seed_all(0, rank)
        orders.append(draw_permutations(4, 8, CPU, per="video"))
    assert not torch.equal(*orders)


def test_frames_of_a_step_stay_together_when_steps_are_shuffled() -> None:
    clip = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(2, 3, 6, 4, 4)
    shuffled = shuffle_steps(clip, torch.tensor([[2, 0, 1], [0, 1, 2]]))
    assert shuffled[:, 0, :, 0, 0].tolist() == [[4, 5, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="6 frames cannot be divided into 4 equal steps"):
        shuffle_steps(clip, torch.zeros(2, 4, dtype=torch.int64))


def test_a_term_of_weight_zero_has_no_head_and_costs_no_pass() -> None:
    method = network(**ONLY)
    passes: list[int] = []
    method.backbone.register_forward_hook(lambda *_: passes.append(1))
    assert list(method(batch_of(), 0.0)) == ["cross_entropy"]
    assert len(passes) == 1
    assert not list(method.terms.parameters())


@pytest.mark.parametrize(
    ("options", "passes"), [({"low_confidence": 0.0}, 1), ({"order_of": "shuffled", "low_confidence": 0.0}, 2), ({}, 2)]
)
def test_shuffled_frames_cost_one_pass(options: dict[str, Any], passes: int) -> None:
    method, seen = network(**options), []
    method.backbone.register_forward_hook(lambda *_: seen.append(1))
    method(batch_of(), 0.0)
    assert len(seen) == passes


def test_weights_multiply_the_terms() -> None:
    losses = []
    for factor in (1.0, 2.5):
        method = network(order=factor, low_confidence=factor, flow=factor)
        torch.manual_seed(3)
        losses.append(method(batch_of(), 0.0))
    assert_close(losses[0].pop("cross_entropy"), losses[1].pop("cross_entropy"))
    assert_close({name: 2.5 * loss for name, loss in losses[0].items()}, losses[1])


def test_low_confidence_is_least_when_all_classes_are_equally_likely() -> None:
    method = network(**{**ONLY, "low_confidence": 1.0})
    assert method(batch_of(), 0.0)["low_confidence"] > math.log(5)
    nn.init.zeros_(method.classifier.head.weight)
    assert method(batch_of(), 0.0)["low_confidence"].item() == pytest.approx(math.log(5))


def test_all_terms_train_the_network() -> None:
    method = network()
    torch.nn.init.normal_(method.backbone.blocks[0].temporal_fc.weight, std=0.02)
    torch.stack(list(method(batch_of(), 0.0).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert set(method.metrics()) == {"train_top1", "order_top1", "flow_top1_moving", "shuffled_confidence"}


@pytest.mark.parametrize("model", ["timesformer_vitt", "motionformer_vitt", "xvit_vitt"])
def test_every_backbone_is_trained_by_the_same_terms(model: str) -> None:
    backbone = create_model(model, **{**TINY, "depth": 1})
    assert isinstance(backbone, Backbone)
    method = Temporal(backbone, 5, options_of())
    assert set(method(batch_of(), 0.0)) == {"cross_entropy", "flow", "order", "low_confidence"}


def test_logits_and_gradients_of_the_flow_head_start_at_the_same_scale_for_every_width() -> None:
    scales = []
    for width in (64, 192, 768):
        torch.manual_seed(0)
        heads = TemporalHeads(width, 4, order=False)
        patches = nn.functional.layer_norm(torch.randn(8, 4, 9, width), (width,)).requires_grad_()
        logits = heads.flow(patches)
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), torch.zeros(216, dtype=torch.int64))
        (gradient,) = torch.autograd.grad(loss, patches)
        scales.append(torch.stack([logits.detach().std(), gradient.norm()]))
    assert_close(torch.stack(scales[1:]), scales[0].expand(2, -1), rtol=0.1, atol=0)


def test_classes_that_are_each_others_reverse_are_recognized_by_their_names() -> None:
    assert reversed_classes(["gesture_up", "tick", "gesture_down"]) == ("gesture_up", "gesture_down")
    pair = ("Pushing something from left to right", "Pushing something from right to left")
    assert reversed_classes(["Folding something", *pair]) == pair
    assert reversed_classes(["forehand", "backhand", "serve", "Punch", "PushUps"]) is None
    assert reversed_classes([]) is None


def test_tubelets_take_the_flow_between_their_last_and_first_frames() -> None:
    backbone = create_model("motionformer_vitt", **TINY, tubelet_frames=2)
    assert isinstance(backbone, Backbone)
    method, batch = Temporal(backbone, 5, options_of()), batch_of()
    seen: list[Tensor] = []
    method.terms.heads.flow = lambda patches: (
        seen.append(patches)
        or torch.nn.functional.one_hot(  # type: ignore[method-assign]
            batch.targets["flow"][:, [1, 3, 5]].long(), 9
        )
        .float()
        .mul(100)
    )
    losses = method(batch, 0.0)
    assert losses["flow"].item() == pytest.approx(0, abs=1e-6)
    assert seen[0].shape[1] == 4


def test_shorter_clips_use_the_first_places_and_longer_ones_are_refused() -> None:
    assert network()(batch_of(frames=4), 0.0)["order"].isfinite()
    with pytest.raises(ValueError, match="has 8 steps, the network outputs 10"):
        network()(batch_of(frames=10), 0.0)


def test_a_network_without_a_step_for_every_frame_is_trained_too() -> None:
    backbone = SmallCNN()  # 4 steps of 8 frames
    method = Temporal(backbone, 5, options_of())
    assert set(method(batch_of(patches=256), 0.0)) == {"cross_entropy", "flow", "order", "low_confidence"}


def test_what_cannot_be_used_is_refused() -> None:
    batch = batch_of()
    two = Batch(views=batch.views * 2, labels=batch.labels, video_index=batch.video_index)
    with pytest.raises(ValueError, match=r"one clip of a video, got 2; set views\.slow_fast=false"):
        network()(two, 0.0)
    with pytest.raises(ValueError, match="needs the target 'flow'"):
        network()(Batch(views=batch.views, labels=batch.labels, video_index=batch.video_index), 0.0)
    with pytest.raises(ValueError, match=r"must be \(3, 7, 16\) .* got \(3, 7, 4\)"):
        network()(batch_of(patches=4), 0.0)
    with pytest.raises(ValueError, match="at least 2 steps in time to be shuffled, got 1"):
        network(flow=0.0)(batch_of(frames=1), 0.0)
    for wrong in ({"order": -1.0}, {"order_of": "reversed"}, {"permutation": "rank"}):
        with pytest.raises(ValueError, match="got"):
            network(**wrong)


def test_svt_trains_with_the_terms_that_need_no_labels() -> None:
    svt = tiny_svt()
    method = SVTTemporal(svt, options_of(low_confidence=0.0))
    batch = random_batch([(8, 32), (8, 32), (4, 16)])
    batch = Batch(
        views=batch.views,
        labels=batch.labels,
        video_index=batch.video_index,
        targets={"flow": torch.zeros(2, 7, 16, dtype=torch.uint8)},
    )
    losses = method(batch, 0.0)
    assert set(losses) == {"svt", "order", "flow"}
    assert method.backbone is svt.teacher.backbone
    torch.stack(list(losses.values())).sum().backward()
    assert svt.student.backbone.pos_embed.grad is not None
    assert all(parameter.grad is None for parameter in svt.teacher.parameters())
    before = svt.center.clone()
    method.before_step(0.0)
    method.after_step(0.0)
    assert not torch.equal(svt.center, before)
    assert {"order_top1", "teacher_entropy"} <= set(method.metrics())


def test_low_confidence_without_classes_is_refused() -> None:
    svt = tiny_svt()
    method = SVTTemporal(svt, options_of(flow=0.0))
    with pytest.raises(ValueError, match="low_confidence needs a classifier"):
        method(random_batch([(8, 32), (8, 32), (4, 16)]), 0.0)
