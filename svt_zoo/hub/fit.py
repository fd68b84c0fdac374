"""Whether a state dict fits a network: all keys and shapes, and what the file's sizes would need."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .sources import Source, UnfitWeightsError


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: Source | str) -> None:
    """Load `state` into `network`; every key and every shape must fit.

    Raises:
        UnfitWeightsError: one line that names the first keys that are missing, left over or of another shape.
    """
    check_fit(network, state, source)
    network.load_state_dict(dict(state), strict=True)


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
