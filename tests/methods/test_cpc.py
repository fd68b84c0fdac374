"""What CPC must do: predict a future that its context has not seen, with any backbone that it trains as a whole."""

from typing import Any

import pytest
import torch
from small_cpc import SMALL, clip_batch, small_cpc
from small_svt import TINY, SmallCNN
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.methods import CPC, CPCConfig
from svt_zoo.methods.cpc import only_cls_depends_on
from svt_zoo.models import create_model

CONTEXT, FUTURE = 2, 3


def clips(size: int = 3, side: int = 64) -> Tensor:
    return torch.randn(size, 3, CONTEXT + FUTURE, side, side, generator=torch.Generator().manual_seed(1))


def frame_gradients(method: CPC, of: str) -> Tensor:
    """Size of the gradient of each prediction (or target) by each frame: (pred frames, frames)."""
    clip = clips().to(next(method.parameters()).dtype).requires_grad_()
    context, targets = method.encode(clip)
    outputs = method.predict(context) if of == "predictions" else targets
    sizes = []
    for output in outputs.unbind(1):
        weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
        # The sum alone would be blind: a norm makes the sum of a token's values constant.
        gradient = torch.autograd.grad((output * weights).sum(), clip, retain_graph=True, allow_unused=True)[0]
        sizes.append(torch.zeros(5) if gradient is None else gradient.abs().amax(dim=(0, 1, 3, 4)))
    return torch.stack(sizes)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("target", ["transformer", "backbone"])
def test_no_prediction_depends_on_any_future_frame(training: bool, target: Any) -> None:
    method = small_cpc(target=target).train(training)
    gradients = frame_gradients(method, "predictions")
    assert torch.equal(gradients[:, CONTEXT:], torch.zeros(FUTURE, FUTURE))
    assert gradients[:, :CONTEXT].min() > 0


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_no_target_depends_on_the_context(training: bool) -> None:
    gradients = frame_gradients(small_cpc().train(training), "targets")
    assert torch.equal(gradients[:, :CONTEXT], torch.zeros(FUTURE, CONTEXT))
    assert gradients[:, CONTEXT:].diagonal().min() > 0


def test_in_eval_mode_a_target_depends_on_its_own_frame_alone() -> None:
    gradients = frame_gradients(small_cpc().eval(), "targets")[:, CONTEXT:]
    assert torch.equal(gradients > 0, torch.eye(FUTURE, dtype=torch.bool))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_with_full_attention_every_prediction_depends_on_every_future_frame(training: bool) -> None:
    gradients = frame_gradients(small_cpc(attention="full").train(training), "predictions")
    assert gradients.min() > 0


def test_causal_attention_hides_the_future_from_predictions_but_shared_batch_statistics_do_not() -> None:
    method = small_cpc(attention="frame_causal")
    assert frame_gradients(method.eval(), "predictions")[:, CONTEXT:].max() == 0
    assert frame_gradients(method.train(), "predictions")[:, CONTEXT:].min() > 0


def test_causal_attention_shows_the_context_to_targets() -> None:
    assert frame_gradients(small_cpc(attention="frame_causal").eval(), "targets")[:, :CONTEXT].min() > 0


@pytest.mark.parametrize("model", ["cpc_resnet50", "svt_vitt"])
def test_any_backbone_learns_to_tell_clips_apart(model: str) -> None:
    options = dict(TINY) if model == "svt_vitt" else {"depth": 1, "mlp_dim": 64, "dropout": 0.0}
    method = small_cpc(model, options)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    batch = clip_batch(clips(4, 32))
    losses = []
    for _ in range(6):
        loss = method(batch, 0.0)["cpc"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("model", "options", "untrained"),
    [
        ("xvit_vitt", {}, "XViT, .* consensus.cls_token, consensus.temporal_encoder.*, ..., but"),
        ("motionformer_vitt", {}, "Motionformer, .* cls_token, but"),
        ("cpc_resnet18", {"final_bn": True}, "CPCNetwork, .* final_bn.weight, final_bn.bias, but"),
    ],
)
def test_a_network_whose_cls_would_stay_untrained_is_refused(model: str, options: Any, untrained: str) -> None:
    with pytest.raises(ValueError, match=f"the cls of {untrained} its patches do not, so CPC would leave that"):
        small_cpc(model, {**(SMALL if model.startswith("cpc") else TINY), **options})


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_all_of_a_timesformers_cls_is_trained_and_looking_for_it_changes_nothing(attention: str) -> None:
    torch.manual_seed(0)
    network = create_model("timesformer_vitt", **TINY, attention=attention).train()
    drawn = torch.get_rng_state()
    assert only_cls_depends_on(network, 5) == []
    assert torch.equal(torch.get_rng_state(), drawn)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_cpcs_own_networks_may_put_the_recurrent_network_into_cls() -> None:
    assert small_cpc("cpc_resnet18", {**SMALL, "pool": "context"}).gru.out_gate.weight.requires_grad


def test_a_timesformers_predictions_do_not_depend_on_the_future_either() -> None:
    method = small_cpc("svt_vitt", dict(TINY)).eval()
    for block in method.backbone.blocks:
        torch.nn.init.normal_(block.temporal_fc.weight)  # zero at first, which would hide time
    gradients = frame_gradients(method, "predictions")
    assert torch.equal(gradients[:, CONTEXT:], torch.zeros(FUTURE, FUTURE))
    assert gradients[:, :CONTEXT].min() > 0


def test_a_network_of_ones_own_is_trained_with_a_recurrent_network_that_is_left_behind() -> None:
    method = CPC(SmallCNN(), context_frames=CONTEXT, pred_frames=FUTURE)
    method(clip_batch(clips(2, 32)), 0.0)["cpc"].backward()
    assert not any(name.startswith("gru") for name in method.backbone.state_dict())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_networks_own_recurrent_network_is_trained_and_exported() -> None:
    method = small_cpc()
    method(clip_batch(clips()), 0.0)["cpc"].backward()
    assert {key for key in method.state_dict() if "gru" in key} == {
        f"backbone.gru.{gate}_gate.{part}" for gate in ("reset", "update", "out") for part in ("weight", "bias")
    }
    assert method.backbone.gru.out_gate.weight.grad.abs().max() > 0
    assert_close(method.backbone.context(clips())[:, :, 0, 0].shape, torch.Size([3, 16]))


def test_a_guess_finds_as_much_as_chance_says() -> None:
    torch.manual_seed(0)
    method = small_cpc().eval()
    found = []
    for _ in range(60):
        method.compare(torch.randn(4, 3, 2, 16), torch.randn(4, 3, 2, 16))
        found.append([float(method.metrics()[name]) for name in ("top1", "right_clip", "right_step")])
    mean = torch.tensor(found).mean(dim=0)
    assert_close(mean, torch.tensor(method.chance(4, 2)), atol=4.0, rtol=0)


def test_right_answers_count_as_such() -> None:
    method = small_cpc()
    tokens = torch.randn(4, 3, 2, 16)
    method.compare(tokens, tokens)
    found = method.metrics()
    assert [float(found[name]) for name in ("top1", "right_clip", "right_step")] == [100, 100, 100]
    method.compare(tokens.roll(1, dims=1), tokens)  # each answer is the step before
    found = method.metrics()
    assert [float(found[name]) for name in ("top1", "right_clip", "right_step")] == [0, 100, 0]


def test_normalized_scores_do_not_see_lengths() -> None:
    method, tokens = small_cpc(), torch.randn(2, 2, 3, 2, 16)
    loss = method.compare(*tokens).loss
    assert_close(method.compare(3 * tokens[0], 5 * tokens[1]).loss, loss)
    assert not torch.isclose(small_cpc(normalize=False).compare(*tokens).loss, loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "none"}, "attention must be one of isolated, frame_causal, full, got 'none'"),
        ({"target": "pixels"}, "target must be one of transformer, backbone, got 'pixels'"),
        ({"pred_frames": 0}, "context_frames and pred_frames must be >= 1, got 2 and 0"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_cpc(**options)


@pytest.mark.parametrize("options", [{"attention": "frame_causal"}, {"target": "backbone"}])
def test_what_needs_cpcs_own_network_is_refused_for_others(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="TimeSformer has no separate transformer"):
        CPC(create_model("svt_vitt", **TINY), CPCConfig(**options))


def test_a_clip_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="clips of 2 context and 3 predicted frames, got 4"):
        small_cpc()(clip_batch(clips()[:, :, :4]), 0.0)


def test_a_network_that_merges_frames_is_refused_where_frames_must_be_told_apart() -> None:
    method = CPC(SmallCNN(), CPCConfig(attention="full"), context_frames=CONTEXT, pred_frames=FUTURE)
    with pytest.raises(ValueError, match="CPC needs the tokens of each frame: SmallCNN"):
        method(clip_batch(clips(2, 32)), 0.0)
