"""Unwraps the state dict of a checkpoint, selects or renames its entries, and compares them with a network."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from .sources import Source, UnfitWeightsError

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


def check_fit(network: nn.Module, state: Mapping[str, Tensor], source: Source | str) -> None:
    """Raises `UnfitWeightsError` unless all keys and shapes of `state` are those of `network`."""
    own = network.state_dict()
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (
            ("keys missing", [key for key in own if key not in state]),
            ("unknown keys", [key for key in state if key not in own]),
            ("wrong shapes", shapes),
        )
        if keys
    ]
    if problems:
        raise UnfitWeightsError(
            f"{source} does not fit {type(network).__name__}: {'; '.join(problems)}{_fitting_options(own, state)}"
        )


def _fitting_options(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """A hint: the options of the builder that tensors determine, where they differ from the network's."""

    def sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for key, value in tensors.items():
            if match := re.match(r"(?:base_model\.)?blocks\.(\d+)\.(.+)", key):
                sizes["depth"] = max(sizes.get("depth", 0), int(match[1]) + 1)
                if match[2] == "norm1.weight":
                    sizes["embed_dim"] = len(value)
                elif match[2] == "mlp.fc1.bias":
                    sizes["mlp_dim"] = len(value)
        return sizes

    ours, theirs = sizes(own), sizes(state)
    hints = [f"{name}={size}" for name, size in theirs.items() if ours.get(name) != size]
    return f"; sizes of the file: {', '.join(hints)} (options of the architecture)" if hints else ""
