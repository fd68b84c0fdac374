"""Unwraps the state dict of a checkpoint, and selects or renames its entries."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

# Keys under which checkpoints hold the state dict; the first one present is read.
_CONTAINERS = ("teacher", "state_dict", "model_state", "model", "module", "student")
_PREFIXES = ("module.", "model.", "net.")  # of DDP, of Facebook's and of users' own wrappers
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module)\.")  # of torch.compile and FSDP, at any depth


def unwrap(checkpoint: Mapping[str, Any], prefix: str = "") -> tuple[StateDict, list[str]]:
    """The state dict inside a checkpoint, without the prefixes of wrappers; and the other entries of the checkpoint.

    If there are a teacher and a student, it is the teacher: the EMA of the student, which SVT and DINO evaluate.

    Args:
        checkpoint: nested (`{"teacher": ...}`, `{"model_state": ...}`) or flat.
        prefix: only entries with this prefix are read; those of nested dictionaries are joined by dots.

    Raises:
        ValueError: no entry has the prefix, a key is no text, or a tensor is sparse or quantized.
    """
    if prefix:
        entries = _flat(checkpoint)
        checkpoint = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
        if not checkpoint:
            raise ValueError(f"no entry has the prefix {prefix!r}; the first is {next(iter(entries), None)!r}")
        state, others = unwrap(checkpoint)
        return state, others + [key for key in entries if not key.startswith(prefix)]
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            state, others = unwrap(checkpoint[key])
            return state, [str(other) for other in checkpoint if other != key] + others
    state = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f"a key is {key!r}, which is no text")
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{key} is a sparse or quantized tensor; save it as a dense one")
    return _strip(state), [str(key) for key, value in checkpoint.items() if not isinstance(value, Tensor)]


def _strip(state: Mapping[str, Tensor]) -> StateDict:
    """The state dict without the prefixes of wrappers."""
    stripped = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    while stripped and (found := [p for p in _PREFIXES if all(key.startswith(p) for key in stripped)]):
        stripped = {key.removeprefix(found[0]): value for key, value in stripped.items()}
    return stripped


def _flat(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in checkpoint.items():
        if isinstance(value, Mapping):
            entries |= {f"{key}.{inner}": nested for inner, nested in _flat(value).items()}
        else:
            entries[str(key)] = value
    return entries


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether a key matches one of the globs."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def without(state: Mapping[str, Tensor], patterns: Iterable[str]) -> StateDict:
    """The entries whose keys match none of the globs."""
    patterns = list(patterns)
    return {key: value for key, value in state.items() if not matches(key, patterns)}


def from_classifier(state: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a `Classifier` or of CPC's method with the backbone's names; any other is unchanged."""
    if not all(key.startswith(("backbone.", "head.", "predictor.")) for key in state):
        return dict(state)
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
