"""Convert Motionformer checkpoints (Facebook's and TIME's) to the zoo's names, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .state_dicts import TIME_HEADS, StateDict, from_classifier, unwrap, without

# Facebook's files also hold 2-D patches beside the 3-D ones and a grid beside the joint table; both are unused.
SUPERSEDED = {"patch_embed.*": "patch_embed_3d.proj.weight", "pos_embed": "st_embed"}


def from_motionformer(checkpoint: Mapping[str, Any]) -> StateDict:
    """Facebook's Motionformer or TIME's; keeps the classifier as `head.*`, drops TIME's other heads.

    The two heads of Epic-Kitchens are joined into one: 97 verbs, then 300 nouns.
    """
    state = without(unwrap(checkpoint), TIME_HEADS)
    state = without(state, [glob for glob, instead in SUPERSEDED.items() if instead in state])
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
    tubelets = "patch_embed_3d.proj."
    if f"{tubelets}weight" in theirs:
        theirs["patch_embed.proj.weight"] = torch.zeros_like(theirs[f"{tubelets}weight"][:, :, 0])
        theirs["patch_embed.proj.bias"] = torch.zeros_like(theirs[f"{tubelets}bias"])
    return {"model_state": theirs}
