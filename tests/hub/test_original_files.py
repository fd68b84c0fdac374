"""Original checkpoints load by name or file, give the original outputs, and convert back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub import entrypoints
from svt_zoo.hub.convert import convert, to_motionformer, to_timesformer, to_xvit
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.table import get_weights
from svt_zoo.models import Classifier, create_model

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
TINY = {"embed_dim": 48, "num_heads": 4}
# For each recorded network: model, depth and the options that the file does not state.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "timesformer_time": ("timesformer_vitb", {"depth": 2}),
    "timesformer_fb": ("timesformer_vitb", {"depth": 2}),
    "motionformer_time": ("motionformer_vitb", {"depth": 2}),
    "motionformer_time_joint": ("motionformer_vitb", {"depth": 1}),
    "motionformer_time_nomlp": ("motionformer_vitb", {"depth": 1}),
    "motionformer_time_tubelet": ("motionformer_vitb", {"depth": 1}),
    "motionformer_time_stembed224": ("motionformer_vitb", {"depth": 1, "embed_dim": 16, "num_heads": 2}),
    "motionformer_fb": ("motionformer_vitb", {"depth": 2}),
    "motionformer_fb_divided": ("motionformer_vitb", {"depth": 1}),
    "xvit_time": ("xvit_vitb", {"depth": 2, "consensus_heads": 4}),
    "xvit_orig": ("xvit_vitb", {"depth": 2, "consensus_heads": 4}),
}
WRITERS = {"timesformer": to_timesformer, "motionformer": to_motionformer, "xvit": to_xvit}
UNUSED = ("temp_head", "mlp_", "flow_head", "new_fc")  # absent from the backbone


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_computes_what_the_original_computed(oracle: Oracle, name: str, tmp_path: Path) -> None:
    tensors, _ = oracle(f"time/{name}")
    model_name, options = FILES[name]
    torch.save({"epoch": 35, "model_state": weights_of(tensors)}, tmp_path / "checkpoint.pyth")
    model = load_model(tmp_path / "checkpoint.pyth", model=model_name, num_classes=None, **{**TINY, **options})
    assert isinstance(model, Classifier)
    clip = tensors["in/x_u8"].float() / 127.5 - 1
    logits = model(clip.transpose(1, 2) if "_time" in name else clip)
    if "eval/logits" in tensors:
        expected = tensors["eval/logits"]
    else:
        logits, expected = logits.softmax(dim=-1), tensors["eval/softmax_probs"]
    assert_close(logits, expected, atol=3e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.parametrize("name", FILES)
def test_names_are_turned_back_bit_for_bit(oracle: Oracle, name: str) -> None:
    file = weights_of(oracle(f"time/{name}")[0])
    kind = name.partition("_")[0]
    converted = convert({"model_state": file})
    assert convert(file).kind == converted.kind == kind
    options: dict[str, Any] = {"original": True} if name == "xvit_orig" else {}
    back = WRITERS[kind](converted.state, **options)["model_state"]
    if name == "timesformer_time":
        back = {key.removeprefix("model."): value for key, value in back.items()}
    used = {key: value for key, value in file.items() if not key.startswith(UNUSED)}
    if "patch_embed_3d.proj.weight" in file:
        used = {key: value for key, value in used.items() if not key.startswith("patch_embed.")}
    if "st_embed" in file:
        del used["pos_embed"]
    assert_close({key: back[key] for key in used}, used, atol=0, rtol=0)
    extra = set(back) - set(used)
    assert all(back[key].abs().max() == 0 for key in extra)
    assert extra <= set(file) | {"patch_embed.proj.weight", "patch_embed.proj.bias"}  # TIME deletes what FB keeps


def test_what_no_network_computes_with_is_named(oracle: Oracle) -> None:
    facebooks = weights_of(oracle("time/motionformer_fb")[0])
    assert convert(facebooks).unused == ["patch_embed.proj.bias", "patch_embed.proj.weight"]
    times = weights_of(oracle("time/motionformer_time")[0])
    assert {key.partition("_")[0] for key in convert(times).unused} == {"temp", "mlp", "flow"}
    original = weights_of(oracle("time/xvit_orig")[0]) | {"base_model.head.bias": torch.zeros(7)}
    assert convert(original).unused == ["base_model.head.bias", "new_fc.bias", "new_fc.weight"]
    assert not set(convert(original).unused) & set(convert(original).state)


def test_a_longer_clip_begins_a_released_xvits_time_table_anew(oracle: Oracle, tmp_path: Path) -> None:
    tensors, _ = oracle("time/xvit_orig")
    torch.save(weights_of(tensors), tmp_path / "xvit.pth")
    model = load_model(tmp_path / "xvit.pth", model="xvit_vitb", num_classes=7, **TINY, depth=2, consensus_heads=4)
    expected = tensors["eval/logits_double_T"]
    assert_close(model(tensors["in/x_double_T_u8"].float() / 127.5 - 1), expected, atol=1e-4, rtol=0)


def constants(name: str) -> dict[str, Tensor]:
    """A full-size state dict in which every tensor is one distinct number; as a file, a few kilobytes."""
    row = get_weights(name)
    with torch.device("meta"):
        model = create_model(row.model, num_classes=row.num_classes, **row.model_kwargs)
    state = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    return {key: torch.full((), i / 100).expand(value.shape) for i, (key, value) in enumerate(state.items())}


def file_of(name: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """The checkpoint as the authors saved it, with all its other entries."""
    heads = {key: torch.zeros(1) for key in ("temp_head.weight", "mlp_q.bias", "mlp_norm.weight", "flow_head.bias")}
    if name == "motionformer_vitb_epic":
        return to_motionformer(state, heads=(97, 300))
    if name.startswith("motionformer"):
        file = to_motionformer(state)
    elif name == "xvit_vitb_ssv2_original":
        return to_xvit(state, original=True)
    else:
        file = to_xvit(state) if name.startswith("xvit") else {"model_state": state}
    if name.endswith("_time"):
        file["model_state"] = {f"module.{key}": value for key, value in (file["model_state"] | heads).items()}
    return {"epoch": 35, "optimizer_state": {}, "cfg": "TRAIN:", **file}


ENTRY_POINTS = {
    "timesformer_vitb_ssv2_time": (174, 8, None),
    "motionformer_vitb_ssv2_time": (174, 8, None),
    "motionformer_vitb_k400": (400, 16, 4),
    "motionformer_vitb_epic": (397, 16, 4),
    "xvit_vitb_ssv2_time": (174, 8, None),
    "xvit_vitb_ssv2_original": (174, 16, None),
}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_released_files_names_and_sizes_load_through_its_entry_point(name: str, tmp_path: Path) -> None:
    state = constants(name)
    torch.save(file_of(name, state), tmp_path / "released.pyth")
    classes, num_frames, rate = ENTRY_POINTS[name]
    model = getattr(entrypoints, name)(weights=str(tmp_path / "released.pyth"), num_classes=classes)
    loaded = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    transform = model.transforms()
    assert (transform.num_frames, transform.sampling_rate) == (num_frames, rate)
    assert tuple(transform.mean) == tuple(transform.std) == (0.5, 0.5, 0.5)
    assert model.meta["clip"]["channel_order"] == "RGB"
