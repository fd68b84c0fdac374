"""Unwraps the state dict of a checkpoint, and selects or renames its entries."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]

# Keys under which checkpoints hold the state dict; the first one present is read.
_CONTAINERS = ("teacher", "state_dict", "model_state", "model", "module", "student")


def unwrap(checkpoint: Mapping[str, Any]) -> StateDict:
    """The state dict inside a checkpoint (`{"teacher": ...}`, `{"model_state": ...}`), without DDP's `module.`.

    If there are a teacher and a student, it is the teacher: the EMA of the student, which SVT and DINO evaluate.
    """
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key])
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    return strip(tensors, "module.")


def extras_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """The other entries of a checkpoint beside its state dict: optimizer state, epoch, student, ..."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return [other for other in checkpoint if other != key] + extras_of(checkpoint[key])
    return [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]


def strip(state: StateDict, prefix: str) -> StateDict:
    """Remove `prefix` if every key has it."""
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether a key matches one of the globs."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def without(state: Mapping[str, Tensor], patterns: Iterable[str]) -> StateDict:
    """The entries whose keys match none of the globs."""
    patterns = list(patterns)
    return {key: value for key, value in state.items() if not matches(key, patterns)}


def from_classifier(state: Mapping[str, Tensor]) -> StateDict:
    """A `Classifier`'s state dict with the backbone's names and `head.*`; a backbone's state dict is unchanged."""
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def rename(state: Mapping[str, Tensor], names: Iterable[tuple[str, str]], *, back: bool = False) -> StateDict:
    """Rename the start of each key by the first rule (old, new) that fits; `{i}` in a rule is a number.

    Keys without a rule are unchanged. `back` applies the rules from new to old.
    """
    pairs = [(new, old) if back else (old, new) for old, new in names]
    rules = [
        (re.compile(rf"^{re.escape(old)}(?=\.|$)".replace(r"\{i\}", r"(\d+)")), new.replace("{i}", r"\g<1>"))
        for old, new in pairs
    ]

    def renamed(key: str) -> str:
        for old, new in rules:
            if old.match(key):
                return old.sub(new, key)
        return key

    return {renamed(key): value for key, value in state.items()}
