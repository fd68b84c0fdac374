"""Convert X-ViT checkpoints (the original's and TIME's) to the zoo's names, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .state_dicts import TIME_HEADS, StateDict, from_classifier, unwrap, without

# The original has a second classifier, and without dropout a third; both are unused.
UNUSED = (*TIME_HEADS, "new_fc.*", "base_model.head.*")
_HEADS = ("consensus.mlp_head.4.", "consensus.head.")  # in the original, in TIME


def from_xvit(checkpoint: Mapping[str, Any]) -> StateDict:
    """The original's X-ViT or TIME's; its classifier becomes `head.*`, other heads are dropped."""
    state = without(unwrap(checkpoint), UNUSED)
    return {_renamed(key, _HEADS, "head."): value for key, value in state.items()}


def to_xvit(state: Mapping[str, Tensor], *, original: bool = False) -> dict[str, StateDict]:
    """A backbone or a `Classifier` as TIME's code loads it, or with `original` as X-ViT's: `{"model_state": {...}}`.

    The original never uses its second classifier `new_fc`; it is written as zeros.
    """
    classifier = _HEADS[0 if original else 1]
    theirs = {_renamed(key, ("head.",), classifier): value for key, value in from_classifier(state).items()}
    if original:
        unused = {_renamed(key, (classifier,), "new_fc."): value for key, value in theirs.items()}
        theirs |= {key: torch.zeros_like(value) for key, value in unused.items() if key.startswith("new_fc.")}
    return {"model_state": theirs}


def _renamed(key: str, prefixes: tuple[str, ...], new: str) -> str:
    for prefix in prefixes:
        if key.startswith(prefix):
            return new + key.removeprefix(prefix)
    return key
