"""Convert checkpoints of the original CPC code to the zoo's names, and back.

The original has parameters that nothing uses: a classifier of the ResNet, templates of the transformer's layers, and a
table of positions. It also stores the recurrent cell under two names. Reading drops these; writing creates them again.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.cpc import sinusoids
from .state_dicts import StateDict, from_classifier, unwrap, without

# The original never uses these; the last is the recurrent cell's second name.
DEAD = ("backbone.fc.*", "transEnc.attn.*", "transEnc.ff.*", "transEnc.position.pe", "agg.cell_list.0.*")
_PREDICTOR = "network_pred."
UNUSED = (*DEAD, f"{_PREDICTOR}*")
_RESNET_OUT, _POSITIONS = 512, 500  # shapes of unused tensors

_LAYER = "transEnc.transEncoder.layers.{i}."
# (the original's stem, ours); {i} is the layer.
_NAMES = (
    (_LAYER + "self_attn.linears.3.", "blocks.{i}.attn.proj."),
    (_LAYER + "feed_forward.w_1.", "blocks.{i}.mlp.fc1."),
    (_LAYER + "feed_forward.w_2.", "blocks.{i}.mlp.fc2."),
    (_LAYER + "sublayer.0.norm.a_2", "blocks.{i}.norm1.weight"),
    (_LAYER + "sublayer.0.norm.b_2", "blocks.{i}.norm1.bias"),
    (_LAYER + "sublayer.1.norm.a_2", "blocks.{i}.norm2.weight"),
    (_LAYER + "sublayer.1.norm.b_2", "blocks.{i}.norm2.bias"),
    ("transEnc.transEncoder.norm.a_2", "norm.weight"),
    ("transEnc.transEncoder.norm.b_2", "norm.bias"),
    ("agg.ConvGRUCell_00.", "gru."),
    (_PREDICTOR, "predictor."),
    ("final_fc.1.", "head."),
    ("backbone.", "resnet."),
)


def from_cpc(checkpoint: Mapping[str, Any], *, predictor: bool = False) -> StateDict:
    """The original's pre-training or classifier checkpoint in the names of the `cpc_resnet*` networks.

    Keeps the classifier as `head.*`. `predictor` keeps `predictor.*`, which belongs to the method, not to the network.
    """
    given = without(unwrap(checkpoint), DEAD if predictor else UNUSED)
    state: StateDict = {}
    for key, value in given.items():
        found = re.fullmatch(r"transEnc\.transEncoder\.layers\.(\d+)\.self_attn\.linears\.([012])\.(weight|bias)", key)
        if found is None:
            state[_renamed(key, _NAMES)] = value
        elif found[2] == "0":  # queries, keys and values become one matrix
            parts = [given[key.replace("linears.0.", f"linears.{part}.")] for part in range(3)]
            state[f"blocks.{found[1]}.attn.qkv.{found[3]}"] = torch.cat(parts)
    return state


def to_cpc(state: Mapping[str, Tensor]) -> StateDict:
    """A backbone, a `Classifier` or the method CPC in the original's names, with the entries that it never uses.

    Among the unused entries, positions have the original's values and the others are zero.
    """
    names = [(ours, theirs) for theirs, ours in _NAMES]
    theirs: StateDict = {}
    for key, value in from_classifier(state).items():
        found = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key)
        if found is None:
            theirs[_renamed(key, names)] = value
            continue
        for part, values in enumerate(value.chunk(3)):
            theirs[_LAYER.replace("{i}", found[1]) + f"self_attn.linears.{part}.{found[2]}"] = values
    return {**theirs, **dict(_dead(theirs))}


def _dead(state: StateDict) -> Iterator[tuple[str, Tensor]]:
    """The entries that the original never uses; `state` is the rest of its state dict."""
    like = state["transEnc.transEncoder.norm.a_2"]
    yield "backbone.fc.weight", like.new_zeros(_RESNET_OUT, _RESNET_OUT)
    yield "backbone.fc.bias", like.new_zeros(_RESNET_OUT)
    yield "transEnc.position.pe", sinusoids(_POSITIONS, len(like)).to(like)[None]
    first = _LAYER.replace("{i}", "0")
    for key, value in state.items():
        if key.startswith(first + "self_attn."):
            yield key.replace(first + "self_attn.", "transEnc.attn."), torch.zeros_like(value)
        elif key.startswith(first + "feed_forward."):
            yield key.replace(first + "feed_forward.", "transEnc.ff."), torch.zeros_like(value)
        elif key.startswith("agg.ConvGRUCell_00."):
            yield key.replace("ConvGRUCell_00", "cell_list.0"), value


def _renamed(key: str, names: Any) -> str:
    """`key` with its stem replaced by the first matching rule of `names`; unchanged if no rule matches."""
    for old, new in names:
        found = re.match(re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)"), key)
        if found:
            return new.replace("{i}", found.groupdict().get("i", "")) + key[found.end() :]
    return key
