"""What SVT's loss, teacher and center do, for any views and any network."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import run_processes
from small_svt import SHAPES, TINY, SmallCNN, make_batch, random_batch, svt_of, tiny_svt
from torch import Tensor, nn
from torch.testing import assert_close

from svt_zoo.batch import Batch
from svt_zoo.methods import SVT
from svt_zoo.methods.svt import effective_rank, pairs_cross_entropy, view_pairs
from svt_zoo.models import create_model
from svt_zoo.training.optim import OptimConfig, build_optimizer

# --- the loss ---


def test_the_loss_is_the_papers_formula_averaged_over_pairs() -> None:
    method, batch = tiny_svt().double(), random_batch()
    batch = make_batch([view.double() for view in batch.views])
    nn.init.normal_(method.center)
    nn.init.normal_(method.student.head.last_layer.weight_v)
    terms = []
    for i, v in product(range(2), range(6)):
        if i != v:
            teacher = method.teacher.head(method.teacher.backbone(batch.views[i]).cls)
            student = method.student.head(method.student.backbone(batch.views[v]).cls)
            q = ((teacher - method.center) / 0.04).softmax(dim=-1)
            terms.append(-(q * (student / 0.1).log_softmax(dim=-1)).sum(dim=-1).mean())
    assert len(terms) == 10
    assert_close(method(batch, 0.0)["svt"], torch.stack(terms).mean())


@pytest.mark.parametrize(
    ("correspondences", "pairs"),
    [
        (("local_to_global",), {(2, 0), (2, 1), (3, 0), (3, 1)}),
        (("global_to_global",), {(0, 1), (1, 0)}),
        (("global_to_local",), {(0, 2), (0, 3), (1, 2), (1, 3)}),
        (("local_to_local",), {(2, 3), (3, 2)}),
        (("local_to_global", "global_to_global"), {(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)}),
    ],
)
def test_correspondences_choose_the_pairs_they_name(
    correspondences: tuple[Any, ...], pairs: set[tuple[int, int]]
) -> None:
    assert set(view_pairs(4, 2, correspondences)) == pairs  # (student's view, teacher's view); 0 and 1 are global
    method, batch = tiny_svt(correspondences=correspondences), random_batch(SHAPES[:4])
    student, teacher = method.student(batch.views)[1], method.teacher(batch.views)[1]
    expected = pairs_cross_entropy(student / 0.1, (teacher / 0.04).softmax(dim=-1), sorted(pairs))
    assert_close(method(batch, 0.0)["svt"], expected)


def test_views_in_no_pair_are_not_computed() -> None:
    method = tiny_svt(correspondences=("local_to_global",))
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, shapes in seen.items():
        network = getattr(method, name).backbone
        network.register_forward_pre_hook(lambda _, args, shapes=shapes: shapes.append(tuple(args[0].shape)))
    method(random_batch(), 0.0)
    assert seen["student"] == [(4, 3, 2, 16, 16), (2, 3, 4, 16, 16), (2, 3, 8, 16, 16)]
    assert seen["teacher"] == [(2, 3, 4, 32, 32), (2, 3, 8, 32, 32)]


def test_views_of_one_shape_run_together_and_come_back_in_their_order() -> None:
    network = tiny_svt().student
    shapes = [(4, 32), (2, 16), (4, 32), (8, 16), (2, 16), (4, 16)]
    views = random_batch(shapes).views
    calls = []
    network.backbone.register_forward_hook(lambda *_: calls.append(1))
    features, logits = network(views)
    assert len(calls) == 4
    for view, feature, logit in zip(views, features, logits, strict=True):
        alone, alone_logit = network([view])
        assert_close((alone[0], alone_logit[0]), (feature, logit), atol=1e-5, rtol=1e-5)


def test_views_of_equal_width_and_unequal_height_are_told_apart() -> None:
    network = tiny_svt().student
    features, _ = network([torch.randn(2, 3, 4, 16, 32), torch.randn(2, 3, 4, 32, 32)])
    assert features.shape == (2, 2, 32)


@pytest.mark.parametrize("frames", [(4, 8), (8, 8, 2), (1, 3, 16, 2, 5), (8, 16, 2, 2, 4, 4, 8, 8, 16, 16, 1, 6)])
def test_any_number_of_views_with_any_numbers_of_frames_trains(frames: tuple[int, ...]) -> None:
    method = tiny_svt()
    loss = method(random_batch([(t, 32 if i < 2 else 16) for i, t in enumerate(frames)]), 0.0)["svt"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)


def test_the_order_of_videos_in_a_batch_does_not_matter() -> None:
    method, batch = tiny_svt().double(), random_batch(size=3)
    views = [view.double() for view in batch.views]
    straight = method(make_batch(views), 0.0)["svt"]
    assert_close(straight, method(make_batch([view[[2, 0, 1]] for view in views]), 0.0)["svt"])


def test_under_autocast_the_loss_is_computed_in_single_precision() -> None:
    method, batch = tiny_svt(), random_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, 0.0)["svt"]
    assert loss.dtype == torch.float32
    assert_close(loss, method(batch, 0.0)["svt"], atol=2e-2, rtol=0)


# --- teacher and center ---


def test_teacher_receives_no_gradient() -> None:
    method = tiny_svt()
    method(random_batch(), 0.0)["svt"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_the_teacher_starts_as_the_student_and_is_what_is_exported() -> None:
    method = tiny_svt()
    assert_close(dict(method.teacher.state_dict()), dict(method.student.state_dict()), atol=0, rtol=0)
    assert method.backbone is method.teacher.backbone
    assert not any(key.startswith("backbone") for key in method.state_dict())


def test_the_teacher_moves_towards_the_student_by_one_minus_momentum() -> None:
    method = tiny_svt(momentum=0.9).double()
    before = [p.clone() for p in method.teacher.parameters()]
    for p in method.student.parameters():
        nn.init.normal_(p)
    method.after_step(1.0)
    momentum = method.momentum_at(1.0)
    assert 0.9 < momentum < 1.0
    for old, teacher, student in zip(before, method.teacher.parameters(), method.student.parameters(), strict=True):
        assert_close(teacher, momentum * old + (1 - momentum) * student)


def test_momentum_goes_from_its_start_to_one() -> None:
    method = tiny_svt(momentum=0.996)
    assert [method.momentum_at(epoch) for epoch in (0.0, 4.0)] == [0.996, 1.0]
    values = [method.momentum_at(epoch / 10) for epoch in range(41)]
    assert values == sorted(values)


def test_drop_path_is_in_the_student_and_in_a_replica_but_not_in_a_teacher_in_eval_mode() -> None:
    clip = random_batch([(8, 32)], size=8).views[0]
    for mode, same in (("eval", True), ("replica", False)):
        method = tiny_svt(drop_path_rate=0.9, teacher_mode=mode).train()
        assert torch.equal(method.teacher([clip])[1], method.teacher([clip])[1]) == same
        assert not torch.equal(method.student([clip])[1], method.student([clip])[1])


def test_batch_normalization_of_the_teacher_uses_the_batch_in_training_only() -> None:
    method = svt_of(SmallCNN(), epochs=1, teacher_mode="eval")
    norms = [m for m in method.teacher.modules() if isinstance(m, nn.BatchNorm3d)]
    assert [norm.training for norm in norms] == [True, True]
    assert not method.teacher.backbone.training
    method.eval()
    assert [norm.training for norm in norms] == [False, False]


def test_accumulated_batches_move_the_center_as_one_large_batch() -> None:
    method, batch = tiny_svt().double(), random_batch(size=4)
    views = [view.double() for view in batch.views]
    centers = []
    for slices in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        method.center.zero_()
        for rows in slices:
            method(make_batch([view[rows] for view in views]), 0.0)
        method.after_step(4.0)  # momentum 1: the teacher stays
        centers.append(method.center.clone())
    assert centers[0].abs().max() > 0
    assert_close(centers[0], centers[1])


def test_a_loss_in_eval_mode_leaves_the_center_alone() -> None:
    method = tiny_svt().eval()
    method(random_batch(), 0.0)
    method.after_step(4.0)
    assert method.center.abs().max() == 0


TWO_RANKS = """
import json, sys, torch
sys.path.insert(0, "tests")
from small_svt import make_batch, random_batch, svt_of, tiny_svt
from svt_zoo import distributed
distributed.init("cpu")
torch.set_num_threads(1)
views = [view.double() for view in random_batch(size=4).views]
rows = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
method = tiny_svt().double()
parallel = torch.nn.parallel.DistributedDataParallel(method)
loss = parallel(make_batch([view[rows] for view in views]), 0.0)["svt"]
loss.backward()
method.after_step(0.0)
gradient = method.student.head.mlp[0].weight.grad
distributed.shutdown()
print(json.dumps({"center": method.center.tolist(), "gradient": gradient.tolist()}))
"""


def test_two_processes_have_the_center_and_the_gradient_of_one_with_all_videos() -> None:
    said = run_processes(TWO_RANKS)
    method = tiny_svt().double()
    method(make_batch([view.double() for view in random_batch(size=4).views]), 0.0)["svt"].backward()
    method.after_step(0.0)
    for rank in said:
        assert_close(torch.tensor(rank["center"], dtype=torch.float64), method.center)
        gradient = torch.tensor(rank["gradient"], dtype=torch.float64)
        assert_close(gradient, method.student.head.mlp[0].weight.grad)


# --- steps ---


def train(method: SVT, batch: Batch, steps: int, *, epoch: Callable[[int], float], lr: float = 1e-3) -> list[float]:
    optimizer = build_optimizer(method, OptimConfig(lr=lr, weight_decay=0.1))
    losses = []
    for step in range(steps):
        loss = method(batch, epoch(step))["svt"]
        optimizer.zero_grad()
        loss.backward()
        method.before_step(epoch(step))
        optimizer.step()
        method.after_step(epoch(step))
        losses.append(loss.item())
    return losses


def test_the_last_layer_does_not_move_in_the_first_epoch_by_decay_neither() -> None:
    method = tiny_svt(freeze_last_layer=1.0)
    start = method.student.head.last_layer.weight_v.clone()
    first = method.student.head.mlp[0].weight.clone()
    train(method, random_batch(), 2, epoch=lambda step: step / 2)
    assert torch.equal(method.student.head.last_layer.weight_v, start)
    assert not torch.equal(method.student.head.mlp[0].weight, first)
    train(method, random_batch(), 1, epoch=lambda step: 1.0)
    assert not torch.equal(method.student.head.last_layer.weight_v, start)


def test_a_class_feature_may_be_wider_than_the_patches() -> None:
    network = create_model("xvit_vitt", **TINY, consensus_dim=48)
    losses = svt_of(network, epochs=1)(random_batch([(8, 32), (4, 32)]), epoch=0.0)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("teacher_mode", ["eval", "replica"])
def test_a_convolutional_network_of_ones_own_learns(teacher_mode: Any) -> None:
    torch.manual_seed(0)
    method = svt_of(SmallCNN(), epochs=10, teacher_mode=teacher_mode, use_bn_in_head=True, freeze_last_layer=0)
    losses = train(method, random_batch(size=4), 8, epoch=lambda step: 0.0, lr=3e-3)
    assert losses[-1] < losses[0] - 0.1


def test_one_state_dict_resumes_student_teacher_and_center() -> None:
    method, batch = tiny_svt(), random_batch()
    train(method, batch, 2, epoch=lambda step: float(step))
    state = method.state_dict()
    assert {key.split(".")[0] for key in state} == {"student", "teacher", "center"}
    again = tiny_svt()
    again.load_state_dict(state)
    assert torch.equal(again(batch, 2.0)["svt"], method(batch, 2.0)["svt"])


def test_metrics_tell_a_collapse() -> None:
    method, batch = tiny_svt(), random_batch(size=4)
    method(batch, 0.0)
    method.after_step(0.0)
    healthy = method.metrics()
    assert healthy["feature_std"] > 1e-3
    assert 1 <= healthy["feature_rank"] <= 3
    assert healthy["momentum"] == 0.996
    assert healthy["teacher_temp"] == 0.04
    assert_close(healthy["center_norm"], method.center.norm())
    nn.init.zeros_(method.teacher.head.mlp[4].weight)  # every video gives the same
    method.center.zero_()
    method(batch, 0.0)
    collapsed = method.metrics()
    assert_close(collapsed["teacher_entropy"], torch.tensor(40.0).log())
    assert healthy["teacher_entropy"] < collapsed["teacher_entropy"]
    same = make_batch([view[:1].expand_as(view) for view in batch.views])
    method(same, 0.0)
    assert method.metrics()["feature_std"] < 1e-5
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in method.metrics().values())


def test_the_effective_rank_counts_the_directions_in_which_features_differ() -> None:
    corners = torch.cat((torch.eye(6), -torch.eye(6)))  # as much variance in each of 6 directions
    line = torch.arange(12.0)[:, None] * torch.randn(6)
    assert_close(effective_rank(torch.stack((corners, line, torch.ones(12, 6)))), torch.tensor([6.0, 1.0, 0.0]))
    features = torch.randn(9, 5)
    eigenvalues = torch.linalg.eigvalsh(features.T.cov())
    assert_close(effective_rank(features), eigenvalues.sum() ** 2 / eigenvalues.square().sum())


def test_the_loss_of_unit_targets_is_torchs_cross_entropy() -> None:
    logits, labels = torch.randn(1, 5, 7), torch.randint(7, (5,))
    targets = F.one_hot(labels, 7).float().unsqueeze(0)
    assert_close(pairs_cross_entropy(logits, targets, [(0, 0)]), F.cross_entropy(logits[0], labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_mode": "train"}, "teacher_mode must be one of replica, eval, got 'train'"),
        ({"correspondences": ("slow_to_fast",)}, r"one or more of local_to_global, .*, got \('slow_to_fast',\)"),
        ({"correspondences": ()}, r"one or more of local_to_global, .*, got \(\)"),
        ({"num_global": 0}, "num_global must be >= 1, got 0"),
        ({"out_dim": 0}, "out_dim must be >= 1, got 0"),
        ({"student_temp": 0.0}, "student_temp must be > 0, got 0.0"),
        ({"momentum": 1.5}, "momentum must be >= 0 and <= 1, got 1.5"),
        ({"freeze_last_layer": -1.0}, "freeze_last_layer must be >= 0, got -1.0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_svt(**options)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([torch.zeros(2, 3, 4, 32, 32)], "SVT needs at least 2 views of a video, got 1"),
        ([torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8)] * 2, r"view 0 must be floating .* data.augment first"),
        ([torch.zeros(2, 3, 4, 32, 32), torch.zeros(3, 3, 4, 32, 32)], r"view 1 must be .* B = 2 videos, got \(3, 3"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(views: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_svt()(make_batch(views), 0.0)


def test_a_batch_without_a_pair_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no pair of views for local_to_global among 2 views with 2 global ones"):
        tiny_svt(correspondences=("local_to_global",))(random_batch(SHAPES[:2]), 0.0)


# --- the contrastive term ---


def test_the_contrastive_term_is_info_nce_of_the_global_views_and_fades_out() -> None:
    method, batch = tiny_svt(contrast=2.0, epochs=4).double(), random_batch()
    batch = make_batch([view.double() for view in batch.views])
    one, two = (
        F.normalize(method.student.head.mlp(method.student.backbone(batch.views[i]).cls), dim=-1) for i in (0, 1)
    )
    scores, own = one @ two.T / 0.2, torch.arange(len(one))
    expected = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    assert_close(method(batch, 0.0)["contrast"], 2 * expected)
    assert_close(method(batch, 2.0)["contrast"], expected)  # half of the run
    assert "contrast" not in method(batch, 4.0)
    assert_close(method(batch, 0.0)["svt"], tiny_svt(epochs=4).double()(batch, 0.0)["svt"])


def test_the_contrastive_term_works_without_global_views_in_the_pairs() -> None:
    method = tiny_svt(contrast=1.0, correspondences=("local_to_global",))
    assert set(method(random_batch(), 0.0)) == {"svt", "contrast"}
    with pytest.raises(ValueError, match="num_global must be >= 2, got 1"):
        tiny_svt(contrast=1.0, num_global=1)
