"""TIME's losses, gradients and training steps equal the original's recorded runs, on all of its backbones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.batch import Batch
from svt_zoo.methods import ClassifyConfig, Temporal, TemporalConfig, TemporalTerms
from svt_zoo.methods import temporal as module
from svt_zoo.models import Backbone, create_model
from svt_zoo.training.optim import OptimConfig, build_optimizer

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
PRECISIONS = [(torch.float64, "64", 1e-9), (torch.float32, "", 3e-5)]
ON = {"order": 1.0, "low_confidence": 1.0, "flow": 1.0}
HEADS = ("temp_head", "mlp_q", "mlp_k", "mlp_v", "mlp_proj", "mlp_norm", "flow_head")
TINY = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "timesformer_time": ("timesformer_vitt", {**TINY, "drop_path_rate": 0.0}),
    "motionformer_time": ("motionformer_vitt", {**TINY, "img_size": 224, "drop_path_rate": 0.0}),
    "xvit_time": ("xvit_vitt", {**TINY, "img_size": 224, "consensus_dim": 40}),
}


def build(name: str) -> Backbone:
    model, options = NETWORKS[name]
    network = create_model(model, **options)
    assert isinstance(network, Backbone)
    return network


def ours(key: str) -> str:
    """Where a parameter of the original is in a `Temporal`."""
    part = key.split(".")[0]
    if part in HEADS:
        return f"terms.heads.{key}"
    if key.removeprefix("consensus.").startswith("head."):
        return f"classifier.{key.removeprefix('consensus.')}"
    return f"classifier.backbone.{key}"


def recorded(oracle: Oracle, name: str, dtype: torch.dtype) -> tuple[Temporal, dict[str, Tensor], dict[str, Any]]:
    """The method as the original's code has it, in its recorded state."""
    tensors, record = oracle(f"time/{name}")
    backbone = build(name)
    temporal = TemporalConfig(**ON, order_of="straight", permutation="batch")
    method = Temporal(backbone, 7, temporal, ClassifyConfig(label_smoothing=0.2)).to(dtype)
    weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    method.load_state_dict({ours(key): value.to(dtype) for key, value in weights.items()}, strict=True)
    return method, tensors, record["train"]


def batches(tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Batch]:
    clip = (tensors["in/x_u8"].float() / 127.5 - 1).transpose(1, 2).to(dtype)  # (B, C, T, H, W)
    return [
        Batch(
            views=[view],
            labels=tensors[f"train/y{i}"],
            video_index=torch.arange(2),
            targets={"flow": tensors[f"train/flow{i}"]},
        )
        for i, view in enumerate((clip, clip.flip(4), -clip))
    ]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
def test_training_steps_equal_the_original(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, suffix: str, tolerance: float
) -> None:
    method, tensors, record = recorded(oracle, name, dtype)
    method.train()
    optimizer = build_optimizer(method, OptimConfig(lr=1e-4, weight_decay=0.05, amsgrad=True))
    decayed = [group["n_tensors"] for group in record["optimizer"]["groups"] if group["weight_decay"]]
    assert [len(group["params"]) for group in optimizer.param_groups if group["weight_decay"]] == decayed
    names = {ours(key): key for key in record["grad_norms"]}
    for step, batch in enumerate(batches(tensors, dtype)):
        monkeypatch.setattr(module.torch, "randperm", lambda *_, step=step, **__: tensors[f"train/perm{step}"])
        losses = method(batch, 0.0)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        said = record[f"losses{suffix}"][step]
        expected = {
            "cross_entropy": said["cls"],
            "order": said["order"],
            "low_confidence": said["debias"],
            "flow": said["flow"],
        }
        found = {key: value.item() for key, value in losses.items()}
        assert found == pytest.approx(expected, abs=tolerance, rel=tolerance)
        if step == 0:
            for parameter_name, parameter in method.named_parameters():
                key = names[parameter_name]
                norm = record[f"grad_norms{suffix}"][key]
                assert parameter.grad.norm().item() == pytest.approx(norm, abs=tolerance, rel=tolerance), key
                if f"grad/{key}" in tensors and dtype == torch.float32:
                    assert_close(parameter.grad, tensors[f"grad/{key}"], atol=tolerance, rtol=tolerance)
        if dtype == torch.float32:
            return  # AdamW divides by the root of the second moment: where that is rounding, so is the step
        optimizer.step()
    for parameter_name, parameter in method.named_parameters():
        expected = record[f"params_after_3_steps{suffix}"][names[parameter_name]]
        found = {"l2": parameter.norm().item(), "sum": parameter.double().sum().item()}
        assert found == pytest.approx(expected, abs=tolerance, rel=tolerance), parameter_name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
def test_the_heads_equal_the_original(
    oracle: Oracle, name: str, dtype: torch.dtype, suffix: str, tolerance: float
) -> None:
    method, tensors, _ = recorded(oracle, name, dtype)
    with torch.no_grad():
        features = method.eval().backbone(batches(tensors, dtype)[0].views[0])
        heads = method.terms.heads
        found = {
            "logits": method.classifier.head(features.cls),
            "order_logits": heads.order(features.patches),
            "flow_logits": heads.flow(features.patches),
        }
    for key, value in found.items():
        assert_close(value.float(), tensors[f"feat/{key}"], atol=3e-5, rtol=3e-5, msg=lambda m, key=key: f"{key}: {m}")
    assert_close(found["logits"].double(), tensors[f"eval/logits{suffix}"].double(), atol=tolerance, rtol=tolerance)


ONE = {**TINY, "img_size": 224, "depth": 1, "drop_path_rate": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {**ONE, "attention": "joint"},
    "tubelet": {**ONE, "tubelet_frames": 2, "num_frames": 8},
    "nomlp": {**ONE, "pre_logits": False},
    "stembed224": {**ONE, "positions": "joint", "num_frames": 2, "patch_size": 32, "embed_dim": 16, "num_heads": 2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_heads_equal_the_original_on_other_motionformers(oracle: Oracle, name: str) -> None:
    tensors, _ = oracle(f"time/motionformer_time_{name}")
    backbone = create_model("motionformer_vitt", **VARIANTS[name])
    assert isinstance(backbone, Backbone)
    method = Temporal(backbone, 7, TemporalConfig(**ON))
    weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    if backbone.joint_positions:
        del weights["pos_embed"]  # the original has it and does not use it
    method.load_state_dict({ours(key): value for key, value in weights.items()}, strict=True)
    with torch.no_grad():
        features = method.eval().backbone((tensors["in/x_u8"].float() / 127.5 - 1).transpose(1, 2))
        order, flow = method.terms.heads.order(features.patches), method.terms.heads.flow(features.patches)
    assert_close(method.classifier.head(features.cls), tensors["eval/logits"], atol=3e-5, rtol=3e-5)
    assert_close(order, tensors["train/order_logits"], atol=3e-5, rtol=3e-5)
    assert_close(flow, tensors["train/flow_logits"], atol=3e-5, rtol=3e-5)


def test_the_heads_have_the_originals_number_of_parameters() -> None:
    with torch.device("meta"):
        terms = TemporalTerms(create_model("timesformer_vitb"), TemporalConfig(**ON))
    assert sum(parameter.numel() for parameter in terms.parameters()) == 2_376_977
