"""What lies around the tensors of a checkpoint, and rules that hold for the names of any state dict."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]

# TIME's heads for frame order and flow direction, in the files of all its networks.
TIME_HEADS = ("temp_head.*", "mlp_q.*", "mlp_k.*", "mlp_v.*", "mlp_proj.*", "mlp_norm.*", "flow_head.*")
# A checkpoint is a dict of these around the state dict; the first that is there is read.
_CONTAINERS = ("teacher", "state_dict", "model_state", "model", "module", "student")


def unwrap(checkpoint: Mapping[str, Any]) -> StateDict:
    """The state dict inside a checkpoint: `{"teacher": ...}`, `{"model_state": ...}`, DDP's `module.` taken off.

    Of a teacher and its student it is the teacher: the running mean of the student, which SVT and DINO evaluate.
    """
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key])
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    return strip(tensors, "module.")


def around(checkpoint: Mapping[str, Any]) -> list[str]:
    """What a checkpoint holds beside its state dict: the optimiser's state, the epoch, the student, ..."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return [other for other in checkpoint if other != key] + around(checkpoint[key])
    return [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]


def strip(state: StateDict, prefix: str) -> StateDict:
    """Take `prefix` off if every key has it."""
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def without(state: StateDict, patterns: Iterable[str]) -> StateDict:
    """The entries whose names match none of the globs."""
    return {key: value for key, value in state.items() if not any(fnmatchcase(key, p) for p in patterns)}


def from_classifier(state: Mapping[str, Tensor]) -> StateDict:
    """A `Classifier`'s state dict in its backbone's names, `head.*` beside them; that of a backbone as it is."""
    return {key.removeprefix("backbone."): value for key, value in state.items()}
