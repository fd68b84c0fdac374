"""Convert checkpoints of other code to the zoo's names and back: state dict -> state dict, no tensor is changed.

The zoo uses the original code's names (`blocks.0.attn.qkv.weight`, `temporal_attn`, `time_embed`, ...). A converter
unwraps the state dict, renames keys by rule and drops what a backbone does not have. `FORMATS` lists the dropped
keys of each format. Any other key is kept, and the strict load that follows refuses it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from .convert_cpc import UNUSED as _CPC_UNUSED
from .convert_cpc import from_cpc
from .convert_motionformer import SUPERSEDED, from_motionformer
from .convert_xvit import UNUSED as _XVIT_UNUSED
from .convert_xvit import from_xvit
from .image_start import UNUSED as _VIT_UNUSED
from .image_start import from_vit
from .state_dicts import TIME_HEADS, StateDict, around, from_classifier, strip, unwrap, without

_SVT_HEADS = ("head.mlp.*", "head.last_layer.*")


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint: which of its keys (globs) a backbone does not use, and how it is read.

    `superseded` are keys that are unused if another key is present.
    """

    name: str
    unused: tuple[str, ...]
    from_: Callable[[Mapping[str, Any]], StateDict]
    superseded: Mapping[str, str] = field(default_factory=dict)


def dropped_keys(checkpoint: Mapping[str, Any], kind: str) -> list[str]:
    """The keys that a backbone does not use, sorted: tensors that `kind` lists, and keys beside the state dict."""
    state, format_ = unwrap(checkpoint), FORMATS[kind]
    unused = [*format_.unused, *(glob for glob, instead in format_.superseded.items() if instead in state)]
    tensors = [key for key in state if any(fnmatchcase(key, glob) for glob in unused)]
    return sorted([*tensors, *around(checkpoint)])


def from_svt(checkpoint: Mapping[str, Any]) -> StateDict:
    """SVT's released file or training checkpoint (teacher): `backbone.*` renamed, the projection head dropped."""
    state = without(unwrap(checkpoint), _SVT_HEADS)
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def to_svt(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone (or a `Classifier` without its head) in the `backbone.*` names of SVT's released file."""
    state = without(from_classifier(state), ("head.*",))
    return {f"backbone.{key}": value for key, value in state.items()}


def from_timesformer(checkpoint: Mapping[str, Any]) -> StateDict:
    """Facebook's TimeSformer (`model.*`) or TIME's; keeps the classifier as `head.*`, drops TIME's other heads."""
    return without(strip(unwrap(checkpoint), "model."), TIME_HEADS)


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
    """`key` renamed by the first rule whose left side is its stem; unchanged if there is no such rule."""
    for old, new in names:
        stem = re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)")
        match = re.fullmatch(rf"{stem}(?P<end>\.weight|\.bias)?", key)
        if match:
            return new.replace("{i}", match.groupdict().get("i", "")) + (match["end"] or "")
    return key


def from_hf_timesformer(checkpoint: Mapping[str, Any]) -> StateDict:
    """Hugging Face's `TimesformerModel` or `TimesformerForVideoClassification`; its classifier becomes `head.*`."""
    state = unwrap(checkpoint)
    if "embeddings.cls_token" in state:  # the keys of TimesformerModel have no prefix
        state = {f"timesformer.{key}": value for key, value in state.items()}
    return {_rename(key, _HF_NAMES): value for key, value in state.items()}


def to_hf_timesformer(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone or a `Classifier` in the names of `TimesformerForVideoClassification`."""
    names = [(ours, theirs) for theirs, ours in _HF_NAMES]
    return {_rename(key, names): value for key, value in from_classifier(state).items()}


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("svt", _SVT_HEADS, from_svt),
        Format("timesformer", TIME_HEADS, from_timesformer),
        Format("hf_timesformer", (), from_hf_timesformer),
        Format("cpc", _CPC_UNUSED, from_cpc),
        Format("motionformer", TIME_HEADS, from_motionformer, SUPERSEDED),
        Format("xvit", _XVIT_UNUSED, from_xvit),
        Format("vit", _VIT_UNUSED, from_vit),
    )
}


def recognise(checkpoint: Mapping[str, Any]) -> str:
    """The format (a name in `FORMATS`) of a checkpoint of other code, found from its keys.

    Raises:
        ValueError: the format is unknown.
    """
    keys = set(unwrap(checkpoint))
    if keys & {"timesformer.embeddings.cls_token", "embeddings.cls_token"}:
        return "hf_timesformer"
    if "base_model.cls_token" in keys:
        return "xvit"
    if "cls_token" in keys and keys & {"temp_embed", "st_embed"}:
        return "motionformer"
    if "backbone.cls_token" in keys:
        return "svt" if "backbone.time_embed" in keys else "vit"
    if keys & {"model.cls_token", "temp_head.weight"} or {"cls_token", "time_embed"} <= keys:
        return "timesformer"
    if {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= keys:
        return "vit"
    if "agg.ConvGRUCell_00.reset_gate.weight" in keys:
        return "cpc"
    shown = ", ".join(sorted(keys)[:4]) or ", ".join(map(str, list(checkpoint)[:4])) or "nothing"
    raise ValueError(
        f"not a checkpoint format of the zoo (it holds {shown}, ...); known are: "
        "SVT, TimeSformer, Motionformer, X-ViT (the authors', TIME's, Hugging Face's), image ViT (DINO, timm), CPC "
        "and our own"
    )
