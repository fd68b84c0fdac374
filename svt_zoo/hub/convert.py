"""Converts checkpoints of other code to the zoo's names and back: state dict -> state dict, no tensor is changed.

The zoo uses the original code's names (`blocks.0.attn.qkv.weight`, `temporal_attn`, `time_embed`, ...). A format
renames keys by rule and drops what a backbone does not have. Any other key is kept, and the strict load that follows
refuses it.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.cpc import sinusoids
from .state_dicts import StateDict, from_classifier, matches, rename, unwrap, without

# TIME's heads for frame order and flow direction, in the files of all its networks.
_TIME_HEADS = ("temp_head.*", "mlp_q.*", "mlp_k.*", "mlp_v.*", "mlp_proj.*", "mlp_norm.*", "flow_head.*")
_SVT_HEADS = ("head.mlp.*", "head.last_layer.*")
_IMAGE_HEADS = ("head_dist.*", "fc_norm.*", "pre_logits.*")
_TUBELETS = "patch_embed_3d.proj."


class Converted(NamedTuple):
    """A checkpoint of other code in the zoo's names."""

    kind: str  # name of its format; "" if unknown
    state: StateDict  # of the backbone, with its classifier as `head.*`
    unused: list[str]  # keys of the file that are left out


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint: the keys (globs) that a backbone does not use, and how the others are renamed.

    `superseded` are keys that are unused if another key is present.
    """

    unused: tuple[str, ...]
    convert: Callable[[StateDict], StateDict] = dict
    superseded: Mapping[str, str] = field(default_factory=dict)


def convert(checkpoint: Mapping[str, Any], prefix: str = "") -> Converted:
    """A checkpoint of any known format in the zoo's names; of kind "" if the format is unknown.

    Raises:
        ValueError: no entry has the prefix, or the checkpoint holds something else than dense tensors with names.
    """
    state, others = unwrap(checkpoint, prefix)
    backbone = from_classifier(state)
    kind = recognize(backbone)
    state = backbone if kind else state
    format_ = FORMATS[kind]
    unused = [*format_.unused, *(glob for glob, instead in format_.superseded.items() if instead in state)]
    dropped = [key for key in state if matches(key, unused)]
    return Converted(kind, format_.convert(without(state, unused)), sorted([*dropped, *others]))


def to_svt(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone (or a `Classifier` without its head) in the `backbone.*` names of SVT's released file."""
    return {f"backbone.{key}": value for key, value in without(from_classifier(state), ("head.*",)).items()}


def to_timesformer(state: Mapping[str, Tensor]) -> dict[str, StateDict]:
    """A backbone or a `Classifier` as Facebook's code loads it: `{"model_state": {"model.*": ...}}`."""
    return {"model_state": {f"model.{key}": value for key, value in from_classifier(state).items()}}


# Hugging Face's TimeSformer: (their name, our name); `{i}` is the block.
_HF_LAYER = "timesformer.encoder.layer.{i}."
_HF_NAMES = (
    ("timesformer.embeddings.cls_token", "cls_token"),
    ("timesformer.embeddings.position_embeddings", "pos_embed"),
    ("timesformer.embeddings.time_embeddings", "time_embed"),
    ("timesformer.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    (_HF_LAYER + "temporal_attention.attention.qkv", "blocks.{i}.temporal_attn.qkv"),
    (_HF_LAYER + "temporal_attention.output.dense", "blocks.{i}.temporal_attn.proj"),
    (_HF_LAYER + "attention.attention.qkv", "blocks.{i}.attn.qkv"),
    (_HF_LAYER + "attention.output.dense", "blocks.{i}.attn.proj"),
    (_HF_LAYER + "temporal_layernorm", "blocks.{i}.temporal_norm1"),
    (_HF_LAYER + "temporal_dense", "blocks.{i}.temporal_fc"),
    (_HF_LAYER + "layernorm_before", "blocks.{i}.norm1"),
    (_HF_LAYER + "layernorm_after", "blocks.{i}.norm2"),
    (_HF_LAYER + "intermediate.dense", "blocks.{i}.mlp.fc1"),
    (_HF_LAYER + "output.dense", "blocks.{i}.mlp.fc2"),
    ("timesformer.layernorm", "norm"),
    ("classifier", "head"),
)


def _from_hf_timesformer(state: StateDict) -> StateDict:
    if "embeddings.cls_token" in state:  # the keys of TimesformerModel have no prefix
        state = {f"timesformer.{key}": value for key, value in state.items()}
    return rename(state, _HF_NAMES)


def to_hf_timesformer(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone or a `Classifier` in the names of `TimesformerForVideoClassification`."""
    return rename(from_classifier(state), _HF_NAMES, back=True)


def _from_motionformer(state: StateDict) -> StateDict:
    """Joins the two heads of Epic-Kitchens: 97 verbs, then 300 nouns."""
    if "head0.weight" in state and "head1.weight" in state:
        for end in ("weight", "bias"):
            state[f"head.{end}"] = torch.cat([state.pop(f"head{i}.{end}") for i in range(2)])
    return state


def to_motionformer(state: Mapping[str, Tensor], *, heads: Sequence[int] = ()) -> dict[str, StateDict]:
    """A backbone or a `Classifier` as Facebook's code loads it: `{"model_state": {...}}`.

    `heads`, such as (97, 300), splits the classifier into `head0`, `head1`, as for Epic-Kitchens. The 2-D patches that
    Facebook's files with tubelets hold and never use are zero.
    """
    theirs = from_classifier(state)
    if heads:
        for end in ("weight", "bias"):
            parts = theirs.pop(f"head.{end}").split(list(heads))
            theirs |= {f"head{i}.{end}": part for i, part in enumerate(parts)}
    if f"{_TUBELETS}weight" in theirs:
        theirs["patch_embed.proj.weight"] = torch.zeros_like(theirs[f"{_TUBELETS}weight"][:, :, 0])
        theirs["patch_embed.proj.bias"] = torch.zeros_like(theirs[f"{_TUBELETS}bias"])
    return {"model_state": theirs}


_XVIT_NAMES = (("consensus.mlp_head.4", "head"), ("consensus.head", "head"))  # in the original, in TIME


def to_xvit(state: Mapping[str, Tensor], *, original: bool = False) -> dict[str, StateDict]:
    """A backbone or a `Classifier` as TIME's code loads it, or with `original` as X-ViT's: `{"model_state": {...}}`.

    The original never uses its second classifier `new_fc`; it is written as zeros.
    """
    theirs = rename(from_classifier(state), _XVIT_NAMES[:1] if original else _XVIT_NAMES[1:], back=True)
    if original:
        heads = {key: value for key, value in from_classifier(state).items() if key.startswith("head.")}
        theirs |= {key.replace("head", "new_fc"): torch.zeros_like(value) for key, value in heads.items()}
    return {"model_state": theirs}


# CPC. The original never uses these: a classifier of the ResNet, templates of the transformer's layers, a table of
# positions, and the second name of the recurrent cell. Reading drops them; writing creates them again.
CPC_DEAD = ("backbone.fc.*", "transEnc.attn.*", "transEnc.ff.*", "transEnc.position.pe", "agg.cell_list.0.*")
_CPC_UNUSED = (*CPC_DEAD, "network_pred.*")
_RESNET_OUT, _POSITIONS = 512, 500  # shapes of unused tensors

_CPC_LAYER = "transEnc.transEncoder.layers.{i}."
# (the original's stem, ours); {i} is the layer.
_CPC_NAMES = (
    (_CPC_LAYER + "self_attn.linears.3", "blocks.{i}.attn.proj"),
    (_CPC_LAYER + "feed_forward.w_1", "blocks.{i}.mlp.fc1"),
    (_CPC_LAYER + "feed_forward.w_2", "blocks.{i}.mlp.fc2"),
    (_CPC_LAYER + "sublayer.0.norm.a_2", "blocks.{i}.norm1.weight"),
    (_CPC_LAYER + "sublayer.0.norm.b_2", "blocks.{i}.norm1.bias"),
    (_CPC_LAYER + "sublayer.1.norm.a_2", "blocks.{i}.norm2.weight"),
    (_CPC_LAYER + "sublayer.1.norm.b_2", "blocks.{i}.norm2.bias"),
    ("transEnc.transEncoder.norm.a_2", "norm.weight"),
    ("transEnc.transEncoder.norm.b_2", "norm.bias"),
    ("agg.ConvGRUCell_00", "gru"),
    ("network_pred", "predictor"),
    ("final_fc.1", "head"),
    ("backbone", "resnet"),
)


def from_cpc(state: Mapping[str, Tensor], *, predictor: bool = False) -> StateDict:
    """The original's state dict (pre-training or classifier) in the names of the `cpc_resnet*` networks.

    Keeps the classifier as `head.*`. `predictor` keeps `predictor.*`, which belongs to the method, not to the network.
    """
    ours: StateDict = {}
    for key, value in rename(without(state, CPC_DEAD if predictor else _CPC_UNUSED), _CPC_NAMES).items():
        match = re.fullmatch(r"transEnc\.transEncoder\.layers\.(\d+)\.self_attn\.linears\.([012])\.(weight|bias)", key)
        if match is None:
            ours[key] = value
        elif match[2] == "0":  # queries, keys and values become one matrix
            qkv = [state[key.replace("linears.0.", f"linears.{part}.")] for part in range(3)]
            ours[f"blocks.{match[1]}.attn.qkv.{match[3]}"] = torch.cat(qkv)
    return ours


def to_cpc(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone, a `Classifier` or the method CPC in the original's names, with the entries that it never uses.

    Among the unused entries, positions have the original's values and the others are zero.
    """
    theirs: StateDict = {}
    for key, value in rename(from_classifier(state), _CPC_NAMES, back=True).items():
        match = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key)
        if match is None:
            theirs[key] = value
            continue
        for part, values in enumerate(value.chunk(3)):
            theirs[_CPC_LAYER.replace("{i}", match[1]) + f"self_attn.linears.{part}.{match[2]}"] = values
    like = theirs["transEnc.transEncoder.norm.a_2"]
    unused = {
        "backbone.fc.weight": like.new_zeros(_RESNET_OUT, _RESNET_OUT),
        "backbone.fc.bias": like.new_zeros(_RESNET_OUT),
        "transEnc.position.pe": sinusoids(_POSITIONS, len(like)).to(like)[None],
    }
    first = _CPC_LAYER.replace("{i}", "0")
    for key, value in theirs.items():
        if key.startswith(f"{first}self_attn."):
            unused[key.replace(f"{first}self_attn.", "transEnc.attn.")] = torch.zeros_like(value)
        elif key.startswith(f"{first}feed_forward."):
            unused[key.replace(f"{first}feed_forward.", "transEnc.ff.")] = torch.zeros_like(value)
        elif key.startswith("agg.ConvGRUCell_00."):
            unused[key.replace("ConvGRUCell_00", "cell_list.0")] = value
    return {**theirs, **unused}


FORMATS: dict[str, Format] = {
    "": Format(()),
    "timesformer": Format((*_SVT_HEADS, *_TIME_HEADS)),
    "hf_timesformer": Format((), _from_hf_timesformer),
    # Facebook's Motionformer also holds 2-D patches beside the 3-D ones and a grid beside the joint table.
    "motionformer": Format(
        _TIME_HEADS, _from_motionformer, {"patch_embed.*": "patch_embed_3d.proj.weight", "pos_embed": "st_embed"}
    ),
    # X-ViT's original has a second classifier, and without dropout a third.
    "xvit": Format((*_TIME_HEADS, "new_fc.*", "base_model.head.*"), partial(rename, names=_XVIT_NAMES)),
    "cpc": Format(()),
    "original_cpc": Format(_CPC_UNUSED, from_cpc),
    # An image network, or a TimeSformer of space-only attention: only there, `head.weight` is used.
    "vit": Format((*_SVT_HEADS, *_IMAGE_HEADS)),
}


def recognize(keys: Container[str]) -> str:
    """The format (a name in `FORMATS`) of a state dict without wrappers, found from its keys; "" if unknown."""
    if "timesformer.embeddings.cls_token" in keys or "embeddings.cls_token" in keys:
        return "hf_timesformer"
    if "base_model.cls_token" in keys:
        return "xvit"
    if "agg.ConvGRUCell_00.reset_gate.weight" in keys:
        return "original_cpc"
    if "resnet.conv1.weight" in keys and "gru.reset_gate.weight" in keys:
        return "cpc"
    if "cls_token" not in keys:
        return ""
    if "temp_embed" in keys or "st_embed" in keys:
        return "motionformer"
    if "time_embed" in keys or "temp_head.weight" in keys:
        return "timesformer"
    return "vit" if "pos_embed" in keys and "patch_embed.proj.weight" in keys else ""


# Parts of video networks that image networks lack; they keep their initial values.
_NEW = (
    *("time_embed", "*temp_embed", "*.temporal_fc.*"),  # TimeSformer, all
    *("*.proj_q.*", "*.proj_kv.*", "*.timeattn.*", "*.norm3.*", "pre_logits.*"),  # Motionformer
    "consensus.*",  # X-ViT
)


def start_from_image(image: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a video network with the initial weights of an image network (of format "vit").

    `fresh` is the state dict of the newly initialized network. Parts that an image network lacks keep its values.
    TimeSformer: temporal attention and its norm are copies of the spatial ones, without effect at first (section 4). A
    clip of one frame gives exactly the image network's feature. Motionformer: only the middle frame of a tubelet has
    nonzero weights, and the joint table repeats the grid. X-ViT: the frame encoder is the image network.
    """
    state = {key: value for key, value in fresh.items() if matches(key, _NEW)}
    prefix = "base_model." if "base_model.cls_token" in fresh else ""
    for key, value in image.items():
        state[prefix + key] = value
        match = re.fullmatch(r"(blocks\.\d+)\.(attn|norm1)\.(.+)", key)
        twin = f"{match[1]}.temporal_{match[2]}.{match[3]}" if match else ""
        if twin in fresh:
            state[twin] = value.clone()
    if f"{_TUBELETS}weight" in fresh and "patch_embed.proj.weight" in state:
        kernel = torch.zeros_like(fresh[f"{_TUBELETS}weight"])  # (D, 3, frames, patch, patch)
        kernel[:, :, kernel.shape[2] // 2] = state.pop("patch_embed.proj.weight")
        state[f"{_TUBELETS}weight"], state[f"{_TUBELETS}bias"] = kernel, state.pop("patch_embed.proj.bias")
    if "st_embed" in fresh and "pos_embed" in state:
        table = state.pop("pos_embed")  # (1, 1+N, D)
        times = (fresh["st_embed"].shape[1] - 1) // (table.shape[1] - 1)
        state["st_embed"] = torch.cat((table[:, :1], table[:, 1:].repeat(1, times, 1)), dim=1)
    return state
