"""Other people's checkpoints in the zoo's names, and back: state dict -> state dict, no tensor is changed.

The zoo keeps the lineage's names (`blocks.0.attn.qkv.weight`, `temporal_attn`, `time_embed`, ...), so a converter
takes the container off, renames by rule and drops what a backbone does not have. What is dropped is listed by
name, format by format, in `FORMATS`; any other key passes through, and the strict load behind refuses it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

# TIME's heads for frame order and flow direction.
_TIME_HEADS = ("temp_head.*", "mlp_q.*", "mlp_k.*", "mlp_v.*", "mlp_proj.*", "mlp_norm.*", "flow_head.*")
_SVT_HEADS = ("head.mlp.*", "head.last_layer.*")
# A checkpoint is a dict of these around the state dict; the teacher is what DINO and SVT evaluate.
_CONTAINERS = ("teacher", "state_dict", "model_state", "model", "module", "student")


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint: its keys that a backbone does not use, and the two converters."""

    name: str
    unused: tuple[str, ...]
    from_: Callable[[Mapping[str, Any]], StateDict]


def unwrap(checkpoint: Mapping[str, Any]) -> StateDict:
    """The state dict inside a checkpoint: `{"teacher": ...}`, `{"model_state": ...}`, DDP's `module.` taken off."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key])
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    return _strip(tensors, "module.")


def dropped_keys(checkpoint: Mapping[str, Any], unused: Iterable[str]) -> list[str]:
    """What a backbone does not use, sorted: tensors its format names as such, and what lies around the state dict."""
    tensors = [key for key in unwrap(checkpoint) if any(fnmatchcase(key, pattern) for pattern in unused)]
    return sorted([*tensors, *_around(checkpoint)])


def _around(checkpoint: Mapping[str, Any]) -> list[str]:
    """What a checkpoint holds beside its state dict: the optimiser's state, the epoch, the student, ..."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return [other for other in checkpoint if other != key] + _around(checkpoint[key])
    return [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]


def _strip(state: StateDict, prefix: str) -> StateDict:
    """Take `prefix` off if every key has it."""
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _without(state: StateDict, patterns: Iterable[str]) -> StateDict:
    return {key: value for key, value in state.items() if not any(fnmatchcase(key, p) for p in patterns)}


def from_classifier(state: Mapping[str, Tensor]) -> StateDict:
    """A `Classifier`'s state dict in its backbone's names, `head.*` beside them; that of a backbone as it is."""
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def from_svt(checkpoint: Mapping[str, Any]) -> StateDict:
    """SVT's released file or training checkpoint (teacher): `backbone.*` renamed, the projection head dropped."""
    state = _without(unwrap(checkpoint), _SVT_HEADS)
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def to_svt(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone (or a `Classifier` without its head) in the `backbone.*` names of SVT's released file."""
    state = _without(from_classifier(state), ("head.*",))
    return {f"backbone.{key}": value for key, value in state.items()}


def from_timesformer(checkpoint: Mapping[str, Any]) -> StateDict:
    """Facebook's TimeSformer (`model.*`) or TIME's; the classifier stays as `head.*`, TIME's other heads go."""
    return _without(_strip(unwrap(checkpoint), "model."), _TIME_HEADS)


def to_timesformer(state: Mapping[str, Tensor]) -> dict[str, StateDict]:
    """A backbone or a `Classifier` as Facebook's code loads it: `{"model_state": {"model.*": ...}}`."""
    return {"model_state": {f"model.{key}": value for key, value in from_classifier(state).items()}}


# Hugging Face's TimeSformer: (their name, our name); `{i}` is the block.
_HF_NAMES = (
    ("timesformer.embeddings.cls_token", "cls_token"),
    ("timesformer.embeddings.position_embeddings", "pos_embed"),
    ("timesformer.embeddings.time_embeddings", "time_embed"),
    ("timesformer.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("timesformer.encoder.layer.{i}.temporal_attention.attention.qkv", "blocks.{i}.temporal_attn.qkv"),
    ("timesformer.encoder.layer.{i}.temporal_attention.output.dense", "blocks.{i}.temporal_attn.proj"),
    ("timesformer.encoder.layer.{i}.attention.attention.qkv", "blocks.{i}.attn.qkv"),
    ("timesformer.encoder.layer.{i}.attention.output.dense", "blocks.{i}.attn.proj"),
    ("timesformer.encoder.layer.{i}.temporal_layernorm", "blocks.{i}.temporal_norm1"),
    ("timesformer.encoder.layer.{i}.temporal_dense", "blocks.{i}.temporal_fc"),
    ("timesformer.encoder.layer.{i}.layernorm_before", "blocks.{i}.norm1"),
    ("timesformer.encoder.layer.{i}.layernorm_after", "blocks.{i}.norm2"),
    ("timesformer.encoder.layer.{i}.intermediate.dense", "blocks.{i}.mlp.fc1"),
    ("timesformer.encoder.layer.{i}.output.dense", "blocks.{i}.mlp.fc2"),
    ("timesformer.layernorm", "norm"),
    ("classifier", "head"),
)


def _rename(key: str, names: Iterable[tuple[str, str]]) -> str:
    """`key` with the first rule applied whose left side is its stem; unchanged if none is."""
    for old, new in names:
        stem = re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)")
        match = re.fullmatch(rf"{stem}(?P<end>\.weight|\.bias)?", key)
        if match:
            return new.replace("{i}", match.groupdict().get("i", "")) + (match["end"] or "")
    return key


def from_hf_timesformer(checkpoint: Mapping[str, Any]) -> StateDict:
    """Hugging Face's `TimesformerModel` or `TimesformerForVideoClassification`; its classifier becomes `head.*`."""
    state = unwrap(checkpoint)
    if "embeddings.cls_token" in state:  # TimesformerModel alone leaves the leading name out
        state = {f"timesformer.{key}": value for key, value in state.items()}
    return {_rename(key, _HF_NAMES): value for key, value in state.items()}


def to_hf_timesformer(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone or a `Classifier` in the names of `TimesformerForVideoClassification`."""
    names = [(ours, theirs) for theirs, ours in _HF_NAMES]
    return {_rename(key, names): value for key, value in from_classifier(state).items()}


def from_vit(checkpoint: Mapping[str, Any], *, num_frames: int = 8) -> StateDict:
    """An image ViT (DINO's, timm's) as the start of a video model; its classifier or projection head is dropped.

    Temporal attention and its norm start as copies of the spatial ones, `temporal_fc` and the time table of
    `num_frames` frames at zero: at first the video model sees every frame as the image model does (TimeSformer
    section 4; a clip of one frame gives exactly the image model's feature).
    """
    state = unwrap(checkpoint)
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    state = _without(state, FORMATS["vit"].unused)
    video = dict(state)
    for key, value in state.items():
        match = re.fullmatch(r"(blocks\.\d+)\.(attn|norm1)\.(.+)", key)
        if match:
            video.setdefault(f"{match[1]}.temporal_{match[2]}.{match[3]}", value.clone())
    for key in state:
        if key.endswith(".attn.proj.weight"):
            stem = key.removesuffix("attn.proj.weight") + "temporal_fc."
            video[stem + "weight"] = torch.zeros_like(state[key])
            video[stem + "bias"] = torch.zeros_like(state[key][0])
    video["time_embed"] = torch.zeros(1, num_frames, state["cls_token"].shape[-1], dtype=state["cls_token"].dtype)
    return video


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("svt", _SVT_HEADS, from_svt),
        Format("timesformer", _TIME_HEADS, from_timesformer),
        Format("hf_timesformer", (), from_hf_timesformer),
        Format("vit", ("head.*", "head_dist.*", "fc_norm.*", "pre_logits.*"), from_vit),
    )
}


def recognise(checkpoint: Mapping[str, Any]) -> str:
    """The name in `FORMATS` of somebody else's checkpoint, told by its keys (our own files say what they are).

    Raises:
        ValueError: none of the known formats.
    """
    keys = set(unwrap(checkpoint))
    if keys & {"timesformer.embeddings.cls_token", "embeddings.cls_token"}:
        return "hf_timesformer"
    if "backbone.cls_token" in keys:
        return "svt" if "backbone.time_embed" in keys else "vit"
    if keys & {"model.cls_token", "temp_head.weight"} or {"cls_token", "time_embed"} <= keys:
        return "timesformer"
    if {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= keys:
        return "vit"
    shown = ", ".join(sorted(keys)[:4]) or ", ".join(map(str, list(checkpoint)[:4])) or "nothing"
    raise ValueError(
        f"not a checkpoint format of the zoo (it holds {shown}, ...); known are: "
        "SVT, TimeSformer (Facebook, Hugging Face, TIME), image ViT (DINO, timm), and our own"
    )


def resize_tables_flat(state: Mapping[str, Tensor], *, num_patches: int, num_frames: int) -> StateDict:
    """Facebook TimeSformer's resize at load time, for parity only: nearest over the *flattened* grid, and time.

    A grid stretched as one long row mixes its rows up; the zoo's own models keep their stored tables and
    stretch them in two dimensions in `forward`.
    """
    resized = dict(state)
    for key, length, first in (("pos_embed", num_patches, 1), ("time_embed", num_frames, 0)):
        table = state[key]
        if table.shape[1] - first != length:
            body = table[:, first:].transpose(1, 2)  # (1, D, length before)
            body = torch.nn.functional.interpolate(body, size=length, mode="nearest").transpose(1, 2)
            resized[key] = torch.cat((table[:, :first], body), dim=1)
    return resized
