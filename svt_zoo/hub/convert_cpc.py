"""Converts checkpoints of the original CPC code to the zoo's names, and back.

The original has parameters that nothing uses: a classifier of the ResNet, templates of the transformer's layers, and a
table of positions. It also stores the recurrent cell under two names. Reading drops these; writing creates them again.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.cpc import sinusoids
from .state_dicts import StateDict, from_classifier, rename, without

# The original never uses these; the last is the recurrent cell's second name.
DEAD = ("backbone.fc.*", "transEnc.attn.*", "transEnc.ff.*", "transEnc.position.pe", "agg.cell_list.0.*")
UNUSED = (*DEAD, "network_pred.*")
_RESNET_OUT, _POSITIONS = 512, 500  # shapes of unused tensors

_LAYER = "transEnc.transEncoder.layers.{i}."
# (the original's stem, ours); {i} is the layer.
_NAMES = (
    (_LAYER + "self_attn.linears.3", "blocks.{i}.attn.proj"),
    (_LAYER + "feed_forward.w_1", "blocks.{i}.mlp.fc1"),
    (_LAYER + "feed_forward.w_2", "blocks.{i}.mlp.fc2"),
    (_LAYER + "sublayer.0.norm.a_2", "blocks.{i}.norm1.weight"),
    (_LAYER + "sublayer.0.norm.b_2", "blocks.{i}.norm1.bias"),
    (_LAYER + "sublayer.1.norm.a_2", "blocks.{i}.norm2.weight"),
    (_LAYER + "sublayer.1.norm.b_2", "blocks.{i}.norm2.bias"),
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
    for key, value in rename(without(state, DEAD if predictor else UNUSED), _NAMES).items():
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
    for key, value in rename(from_classifier(state), _NAMES, back=True).items():
        match = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key)
        if match is None:
            theirs[key] = value
            continue
        for part, values in enumerate(value.chunk(3)):
            theirs[_LAYER.replace("{i}", match[1]) + f"self_attn.linears.{part}.{match[2]}"] = values
    like = theirs["transEnc.transEncoder.norm.a_2"]
    unused = {
        "backbone.fc.weight": like.new_zeros(_RESNET_OUT, _RESNET_OUT),
        "backbone.fc.bias": like.new_zeros(_RESNET_OUT),
        "transEnc.position.pe": sinusoids(_POSITIONS, len(like)).to(like)[None],
    }
    first = _LAYER.replace("{i}", "0")
    for key, value in theirs.items():
        if key.startswith(f"{first}self_attn."):
            unused[key.replace(f"{first}self_attn.", "transEnc.attn.")] = torch.zeros_like(value)
        elif key.startswith(f"{first}feed_forward."):
            unused[key.replace(f"{first}feed_forward.", "transEnc.ff.")] = torch.zeros_like(value)
        elif key.startswith("agg.ConvGRUCell_00."):
            unused[key.replace("ConvGRUCell_00", "cell_list.0")] = value
    return {**theirs, **unused}
