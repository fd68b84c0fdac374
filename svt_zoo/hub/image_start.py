"""An image network as the start of a video network."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from .state_dicts import StateDict, unwrap, without

UNUSED = ("head.*", "head_dist.*", "fc_norm.*", "pre_logits.*")  # classifiers, projection heads
# What video networks have and image networks do not: it stays as it was initialized.
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
    """The state dict of a video network that starts as the image network `image` (what `from_vit` gives).

    What `fresh`, the state dict of the network just initialized, has beyond an image network stays fresh. TimeSformer:
    temporal attention and its norm start as copies of the spatial ones, with no say yet (section 4): a clip of one
    frame gives exactly the image network's feature. Motionformer: of a tubelet only the middle frame is seen, and the
    joint table repeats the grid. X-ViT: the frames' network is the image network.
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
