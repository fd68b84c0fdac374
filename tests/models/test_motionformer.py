"""Motionformer: equal to the originals' recorded runs, and right where those could not run."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.models import Classifier, Features, trajectory
from svt_zoo.models.motionformer import Motionformer
from svt_zoo.models.trajectory import TrajectoryAttention
from tools import zoo_page

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
TINY = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4, "drop_path_rate": 0.0}
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_frames": 4, "img_size": 64, "drop_path_rate": 0.0}


def recorded(tensors: dict[str, Tensor], dtype: torch.dtype, **options: Any) -> Classifier:
    """The network with the recorded weights, loaded strictly except for those it does not use."""
    state = {k.removeprefix("weights/"): v.to(dtype) for k, v in tensors.items() if k.startswith("weights/")}
    model = Classifier(Motionformer(**{**TINY, **options}).to(dtype), 7).to(dtype).eval()
    model.head.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
    model.backbone.load_state_dict({key: state[key] for key in model.backbone.state_dict()})
    return model


def tolerance(dtype: torch.dtype, expected: Tensor) -> dict[str, float]:
    single = 3e-5 * max(1.0, expected.abs().max().item())
    return {"atol": 1e-9 if dtype == torch.float64 else single, "rtol": 0}


def clip_of(tensors: dict[str, Tensor], dtype: torch.dtype, layout: str = "BTCHW") -> Tensor:
    clip = (tensors["in/x_u8"].float() / 127.5 - 1).to(dtype)
    return clip.transpose(1, 2) if layout == "BTCHW" else clip


VARIANTS = {
    "motionformer_time": {},
    "motionformer_time_joint": {"depth": 1, "attention": "joint"},
    "motionformer_time_nomlp": {"depth": 1, "pre_logits": False},
    "motionformer_time_tubelet": {"depth": 1, "num_frames": 8, "tubelet_frames": 2},
    "motionformer_time_stembed224": {
        "depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 32, "num_frames": 2, "positions": "joint"
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", VARIANTS)
def test_times_motionformer_is_reproduced(oracle: Oracle, name: str, dtype: torch.dtype) -> None:
    tensors, _ = oracle(f"time/{name}")
    logits = recorded(tensors, dtype, **VARIANTS[name])(clip_of(tensors, dtype))
    expected = tensors["eval/logits64" if dtype == torch.float64 else "eval/logits"]
    assert_close(logits, expected, **tolerance(dtype, expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_papers_value_projection_is_reproduced_too(oracle: Oracle, dtype: torch.dtype) -> None:
    tensors, _ = oracle("time/motionformer_time")
    logits = recorded(tensors, dtype, use_original_code=False)(clip_of(tensors, dtype))
    expected = tensors["eval/logits_fixed_v2" + ("64" if dtype == torch.float64 else "")]
    assert_close(logits, expected, **tolerance(dtype, expected))


def test_every_layers_output_is_the_originals(oracle: Oracle) -> None:
    tensors, _ = oracle("time/motionformer_time")
    model = recorded(tensors, torch.float32).backbone
    seen: dict[str, Tensor] = {}
    for name in ("blocks.0", "blocks.1", "norm"):
        hook = lambda module, inputs, out, name=name: seen.update({f"{name} in": inputs[0], name: out})  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    features = model(clip_of(tensors, torch.float32))
    seen["pre_logits"] = torch.cat((features.cls[:, None], features.patches.flatten(1, 2)), dim=1)
    names = {"blocks.0 in": "tokens_in_block0", "blocks.0": "block0", "blocks.1": "block1", "norm": "norm"}
    for ours, theirs in {**names, "pre_logits": "pre_logits"}.items():
        expected = tensors[f"feat/{theirs}"]
        assert_close(seen[ours], expected, **tolerance(torch.float32, expected), msg=theirs)


@pytest.mark.parametrize("kind", ["original", "fixed", "orthoformer"])
def test_the_attention_alone_is_reproduced(oracle: Oracle, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, record = oracle("time/motionformer_time")
    prefix = "weights/blocks.0.attn."
    attention = TrajectoryAttention(
        48,
        4,
        use_original_code=kind != "fixed",
        approximation="orthoformer" if kind == "orthoformer" else None,
        num_landmarks=record["config"]["orthoformer_landmarks"],
    )
    attention.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    first = tensors["attn/ortho_first_landmark_idx"]  # the original draws it
    monkeypatch.setattr(trajectory, "orthoformer", functools.partial(trajectory.orthoformer, first=first))
    expected = tensors[f"attn/out_{kind}"]
    assert_close(attention(tensors["attn/in"], 4), expected, **tolerance(torch.float32, expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["original", "fixed", "divided"])
def test_facebooks_motionformer_is_reproduced(oracle: Oracle, kind: str, dtype: torch.dtype) -> None:
    tensors, _ = oracle("time/motionformer_fb_divided" if kind == "divided" else "time/motionformer_fb")
    options = {"attention": "divided", "depth": 1} if kind == "divided" else {"use_original_code": kind == "original"}
    model = recorded(tensors, dtype, tubelet_frames=2, **options)
    probabilities = model(clip_of(tensors, dtype, "BCTHW")).softmax(dim=-1)  # which the original takes in eval
    name = "eval/softmax_probs" + "_fixed_v2" * (kind == "fixed") + "64" * (dtype == torch.float64)
    assert_close(probabilities, tensors[name], **tolerance(dtype, tensors[name]))


def test_gradients_equal_facebooks(oracle: Oracle) -> None:
    tensors, record = oracle("time/motionformer_fb")
    model = recorded(tensors, torch.float32, tubelet_frames=2).train()
    logits = model(clip_of(tensors, torch.float32, "BCTHW"))
    assert_close(logits, tensors["train/logits"], **tolerance(torch.float32, tensors["train/logits"]))
    loss = F.cross_entropy(logits, torch.tensor(record["train"]["labels"]))
    loss.backward()
    assert_close(loss.item(), record["train"]["loss"], atol=3e-5, rtol=0)
    norms = {key: value for key, value in record["train"]["grad_norms"].items() if value is not None}
    for name, norm in norms.items():
        parameter = model.get_parameter(name if name.startswith("head.") else f"backbone.{name}")
        assert_close(parameter.grad.norm().item(), norm, atol=1e-4, rtol=1e-4, msg=name)


def small(**options: Any) -> Motionformer:
    """A network in float64 in which every parameter affects the output."""
    torch.manual_seed(0)
    model = Motionformer(**{**SMALL, **options}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


CLIP = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model: Motionformer) -> dict[str, Tensor]:
    model.zero_grad()
    features = model(CLIP)
    (features.cls.square().sum() + features.patches.square().sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def attend_as_published(self: TrajectoryAttention, queries: Tensor, points: Tensor) -> Tensor:
    """Equations 5 and 6 as written: all points of the trajectories are projected to keys and values."""
    keys, values = self.proj_kv(points).chunk(2, dim=-1)  # each (R, T, D)
    values = points if self.use_original_code else values
    k, v = (self._heads(y).transpose(1, 2) for y in (keys, values))  # each (R, h, T, d)
    return F.scaled_dot_product_attention(queries.unsqueeze(2), k, v).flatten(1)


@pytest.mark.parametrize("original", [True, False])
def test_trajectory_attention_equals_the_published_form(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(use_original_code=original)
    features, grads = model(CLIP), gradients(model)
    monkeypatch.setattr(TrajectoryAttention, "_attend_points", attend_as_published)
    assert_close(features, model(CLIP), atol=1e-11, rtol=0)
    assert_close(grads, gradients(model), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("original", [True, False])
def test_the_published_form_is_what_the_zoo_page_counts(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"embed_dim": 48, "num_heads": 2, "depth": 1, "use_original_code": original}
    counted = zoo_page.cost("motionformer_vitt", options, 4, 64)[0]
    monkeypatch.setattr(TrajectoryAttention, "_attend_points", attend_as_published)
    monkeypatch.setattr(zoo_page, "published_cost", lambda *shape: 0)
    assert zoo_page.cost("motionformer_vitt", {**options, "drop_path_rate": 0.0}, 4, 64)[0] == pytest.approx(counted)


@pytest.mark.parametrize("folded", [True, False])
def test_options_of_earlier_files_are_accepted(folded: bool) -> None:
    assert_close(small(folded=folded)(CLIP), small()(CLIP), atol=0, rtol=0)


def test_a_small_budget_changes_neither_output_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    at_once, at_once_gradients = model(CLIP), gradients(model)
    monkeypatch.setattr(trajectory, "_BUDGET", 3 * CLIP.shape[0] * 4 * 16 * 24)  # three frames, then the fourth
    assert_close(model(CLIP), at_once, atol=1e-12, rtol=0)
    assert_close(gradients(model), at_once_gradients)


def test_the_map_of_all_patches_to_all_is_never_held() -> None:
    """The largest tensor that autograd keeps is the keys and values of trajectories."""
    model = small(num_frames=16, depth=1).float()
    clip = torch.randn(1, 3, 16, 224, 224)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        model(clip)
    tokens = 16 * 14 * 14
    assert max(kept) == tokens * 16 * 48  # points of trajectories, keys and values; the map has tokens * tokens * heads
    assert max(kept) < 2 * tokens**2 / 8


def test_without_projected_values_half_of_a_projection_has_no_gradient() -> None:
    name = "blocks.0.attn.proj_kv.weight"
    grad = gradients(small())[name]
    assert grad[24:].abs().max() == 0
    assert grad[:24].abs().max() > 0
    assert gradients(small(use_original_code=False))[name][24:].abs().max() > 0


@pytest.mark.parametrize("approximation", ["orthoformer", "nystrom", "performer"])
def test_an_approximation_trains_and_gives_a_clip_one_feature(approximation: str) -> None:
    model = small(approximation=approximation, num_landmarks=8)
    together = model(CLIP)
    assert together.patches.shape == (2, 4, 16, 24)
    assert_close(model(CLIP[1:]).cls, together.cls[1:])
    missing = {name for name, _ in model.named_parameters()} - set(gradients(model))
    assert not missing


def test_a_performer_trains_after_it_ran_in_inference_mode() -> None:
    model = small(approximation="performer")
    with torch.inference_mode():
        model(CLIP)
    assert gradients(model)


@pytest.mark.parametrize("approximation", ["orthoformer", "nystrom"])
def test_where_attention_is_flat_landmarks_are_exact(approximation: str) -> None:
    networks = small(), small(approximation=approximation, num_landmarks=8)
    for block in (block for network in networks for block in network.blocks):
        torch.nn.init.zeros_(block.attn.qkv.weight[:24])  # of the queries
        torch.nn.init.zeros_(block.attn.qkv.bias[:24])
    assert_close(networks[0](CLIP), networks[1](CLIP), atol=1e-6, rtol=0)


@pytest.mark.parametrize("crop", [464, 720, 928, 976])
def test_crops_at_which_the_original_fails_work(crop: int) -> None:
    model = Motionformer(embed_dim=8, depth=0, num_heads=1, num_frames=1)
    assert model(torch.zeros(1, 3, 1, crop, crop)).patches.shape == (1, 1, (crop // 16) ** 2, 8)


@pytest.mark.parametrize("positions", ["separate", "joint"])
@pytest.mark.parametrize("size", [(4, 64, 64), (1, 16, 48), (9, 40, 16)])
def test_any_clip_that_holds_a_token_works(positions: str, size: tuple[int, int, int]) -> None:
    frames, height, width = size
    for tubelet_frames in (1, 2):
        model = small(positions=positions, tubelet_frames=tubelet_frames)
        clip = torch.zeros(1, 3, max(frames, tubelet_frames), height, width, dtype=torch.float64)
        features = model(clip)
        assert isinstance(features, Features)
        assert features.patches.shape == (1, clip.shape[2] // tubelet_frames, (height // 16) * (width // 16), 24)


def test_a_joint_table_of_separate_positions_gives_the_same_at_every_size() -> None:
    separate, joint = small(time_mode="linear"), small(positions="joint", time_mode="linear")
    table = separate.pos_embed[:, None, 1:] + separate.temp_embed[:, :, None]
    state = {key: value for key, value in separate.state_dict().items() if key not in ("pos_embed", "temp_embed")}
    state["st_embed"] = torch.cat((separate.pos_embed[:, :1], table.flatten(1, 2)), dim=1)
    joint.load_state_dict(state)
    for clip in (CLIP, CLIP[:, :, :2, :48, :32], CLIP.repeat(1, 1, 2, 1, 1)):
        assert_close(joint(clip), separate(clip))


def test_a_clip_shorter_than_a_tubelet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least tubelet_frames=2 frames, got 1"):
        small(tubelet_frames=2)(CLIP[:, :, :1])


def test_the_order_of_frames_matters_once_times_are_trained() -> None:
    model, shuffled = small(), CLIP[:, :, [2, 0, 3, 1]]
    torch.nn.init.normal_(model.temp_embed, std=3.0)
    assert (model(CLIP).cls - model(shuffled).cls).abs().max() > 1e-5
    torch.nn.init.zeros_(model.temp_embed)
    assert_close(model(CLIP).cls, model(shuffled).cls, atol=1e-12, rtol=0)


def test_drop_path_skips_everything_but_divided_attention_along_time() -> None:
    for attention, moves in (("trajectory", False), ("divided", True)):
        model = small(attention=attention, drop_path_rate=0.0)
        block = model.blocks[1].train()
        block.drop = 1.0 - 1e-12  # almost surely
        x = torch.randn(2, 1 + 4 * 16, 24, dtype=torch.float64)
        assert torch.equal(block(x, 4), x) is not moves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "space_only"}, "attention must be one of trajectory, joint, divided, got 'space_only'"),
        ({"positions": "none"}, "positions must be one of separate, joint, got 'none'"),
        ({"approximation": "linformer"}, "approximation must be one of orthoformer, nystrom, performer"),
        ({"num_frames": 5, "tubelet_frames": 2}, "num_frames must be a multiple of tubelet_frames, got 5 and 2"),
    ],
)
def test_an_option_that_does_not_exist_names_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Motionformer(**{**SMALL, **options})
