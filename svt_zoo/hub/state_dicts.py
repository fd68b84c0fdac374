"""Unwrap the state dict of a checkpoint, and select or rename its entries."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]

# TIME's heads for frame order and flow direction, in the files of all its networks.
TIME_HEADS = ("temp_head.*", "mlp_q.*", "mlp_k.*", "mlp_v.*", "mlp_proj.*", "mlp_norm.*", "flow_head.*")
# Keys under which checkpoints hold the state dict; the first one present is read.
_CONTAINERS = ("teacher", "state_dict", "model_state", "model", "module", "student")


def unwrap(checkpoint: Mapping[str, Any]) -> StateDict:
    """The state dict inside a checkpoint: `{"teacher": ...}`, `{"model_state": ...}`, DDP's `module.` taken off.

    If there are a teacher and a student, it is the teacher: the EMA of the student, which SVT and DINO evaluate.
    """
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key])
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    return strip(tensors, "module.")


def around(checkpoint: Mapping[str, Any]) -> list[str]:
    """The other entries of a checkpoint beside its state dict: optimizer state, epoch, student, ..."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return [other for other in checkpoint if other != key] + around(checkpoint[key])
    return [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]


def strip(state: StateDict, prefix: str) -> StateDict:
    """Remove `prefix` if every key has it."""
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def without(state: StateDict, patterns: Iterable[str]) -> StateDict:
    """The entries whose names match none of the globs."""
    return {key: value for key, value in state.items() if not any(fnmatchcase(key, p) for p in patterns)}


def from_classifier(state: Mapping[str, Tensor]) -> StateDict:
    """A `Classifier`'s state dict with the backbone's names and `head.*`; a backbone's state dict is unchanged."""
    return {key.removeprefix("backbone."): value for key, value in state.items()}
