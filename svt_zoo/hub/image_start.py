"""Initialize a video network from an image network."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from .state_dicts import StateDict, unwrap, without

UNUSED = ("head.*", "head_dist.*", "fc_norm.*", "pre_logits.*")  # classifiers, projection heads
# Parts of video networks that image networks lack; they keep their initial values.
_NEW = (
    *("time_embed", "*temp_embed", "*.temporal_fc.*"),  # TimeSformer, all
    *("*.proj_q.*", "*.proj_kv.*", "*.timeattn.*", "*.norm3.*", "pre_logits.*"),  # Motionformer
    "consensus.*",  # X-ViT
)
_TUBELETS = "patch_embed_3d.proj."


def from_vit(checkpoint: Mapping[str, Any]) -> StateDict:
    """An image ViT (DINO's, timm's) in the zoo's names; its classifier or projection head is dropped."""
    state = {key.removeprefix("backbone."): value for key, value in unwrap(checkpoint).items()}
    return without(state, UNUSED)


def start_from_image(image: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a video network that starts as the image network `image` (the output of `from_vit`).

    `fresh` is the state dict of the newly initialized network. Parts that an image network lacks keep its values.
    TimeSformer: temporal attention and its norm are copies of the spatial ones, without effect at first (section 4). A
    clip of one frame gives exactly the image network's feature. Motionformer: only the middle frame of a tubelet has
    nonzero weights, and the joint table repeats the grid. X-ViT: the frame encoder is the image network.
    """
    state = {key: value for key, value in fresh.items() if any(fnmatchcase(key, glob) for glob in _NEW)}
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
