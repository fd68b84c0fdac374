"""Find the builder's keywords from the tensors of a file that has no config."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TUBELETS = "patch_embed_3d.proj.weight"
_TRAINED_SIZE = 224  # frame size in pixels of a joint table, whose shape does not determine it


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords of the builder that fit `state`, in the zoo's names: patch size, clip of the tables, kind of attention.

    Only what the tensors or their names determine. A grid is assumed to be square.
    """
    if "final_bn.weight" in state:  # CPC's classifier
        return {"relu": True, "pool": "context", "final_bn": True}
    prefix = "base_model." if "base_model.cls_token" in state else ""
    kernel = state.get(_TUBELETS, state.get(f"{prefix}patch_embed.proj.weight"))
    if kernel is None:
        return {}
    options: dict[str, Any] = {"patch_size": kernel.shape[-1]}
    if f"{prefix}pos_embed" in state:
        options["img_size"] = math.isqrt(state[f"{prefix}pos_embed"].shape[1] - 1) * kernel.shape[-1]
    for key in ("time_embed", f"{prefix}temp_embed"):
        if key in state:
            options["num_frames"] = state[key].shape[1]
    if "temp_embed" in state or "st_embed" in state:
        options |= _motionformer(state, kernel)
    if "base_model.temp_embed" in state:
        options["consensus_dim"] = len(state.get("consensus.mlp_head.1.bias", ())) or None
        options["temporal_table"] = "tile"  # for longer clips both originals repeat their table
    return options


def _motionformer(state: Mapping[str, Tensor], kernel: Tensor) -> dict[str, Any]:
    joint = "st_embed" in state
    if joint:
        times = (state["st_embed"].shape[1] - 1) // (_TRAINED_SIZE // kernel.shape[-1]) ** 2
    else:
        times = state["temp_embed"].shape[1]
    tubelet_frames = kernel.shape[2] if _TUBELETS in state else 1
    divided, trajectory = "blocks.0.timeattn.qkv.weight" in state, "blocks.0.attn.proj_q.weight" in state
    return {
        "num_frames": times * tubelet_frames,
        "tubelet_frames": tubelet_frames,
        "positions": "joint" if joint else "separate",
        "attention": "divided" if divided else "trajectory" if trajectory else "joint",
        "pre_logits": "pre_logits.fc.weight" in state,
    }
