"""Reads a weight file of any known format into tensors with the zoo's names; nothing in the file can run code."""

import argparse
import importlib.util
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .convert import convert
from .sources import Source, UnfitWeightsError, WeightsError, one_line
from .state_dicts import StateDict, from_classifier

_TUBELETS = "patch_embed_3d.proj.weight"
_TRAINED_SIZE = 224  # frame size in pixels of a joint table, whose shape does not determine it
FORMAT_VERSION = 1  # of our own files; increased when an older reader could misread a newer file


class Checkpoint(NamedTuple):
    """The content of a weight file, in the zoo's names."""

    state: StateDict  # of the backbone
    head: StateDict  # "weight" and "bias" of its classifier, or nothing
    config: dict[str, Any]  # `meta` of the network, if the file is one of ours
    unused: list[str]  # other keys of the file
    is_image: bool  # an image network, from which a video network can start


def read_checkpoint(path: Path, source: Source | str = "") -> Checkpoint:
    """Read a weight file of any known format: its tensors in the zoo's names, and its config if it is one of ours.

    Nothing in the file can run code. It reads safetensors, or uses `torch.load(weights_only=True)`, which also allows
    what the originals saved beside their tensors: `argparse.Namespace` (options), and NumPy numbers with their type.

    Raises:
        WeightsError: not a weight file, a file with code in it, an unknown format, or written by a newer version.
    """
    source = source or path
    raw, metadata = _read_safetensors(path, source) if _is_safetensors(path) else (_read_pickle(path, source), {})
    config: dict[str, Any] = {}
    unused: list[str] = []
    kind = ""
    if "config" in metadata and "format_version" in metadata:
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise WeightsError(
                f"{source}: its format_version is {metadata['format_version']}, this version of svt_zoo reads up to "
                f"{FORMAT_VERSION}; update svt_zoo"
            )
        config = json.loads(metadata["config"])
        head = _take_head(raw) if config.get("num_classes") else {}
        state = from_classifier(raw) if head else raw
    else:
        try:
            kind, state, unused = convert(raw)
        except ValueError as error:
            raise UnfitWeightsError(f"{source}: {error}") from None
        head = _take_head(state)
    return Checkpoint(_in_float32(state), _in_float32(head), config, unused, is_image=kind == "vit")


def _take_head(state: StateDict) -> StateDict:
    return {key: state.pop(f"head.{key}") for key in ("weight", "bias") if f"head.{key}" in state}


def _in_float32(state: StateDict) -> StateDict:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors: 8 bytes of length, then a JSON header. The name is ignored."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path, source: Source | str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{source}: not a complete safetensors file ({error}); fetch {path} again") from error


def _numpy_number() -> list[Any]:
    """The globals in a pickled NumPy float (CPC's best accuracy), under the names of NumPy 1 and 2."""
    if importlib.util.find_spec("numpy") is None:
        return []
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [np.dtype, type(np.dtype(np.float64)), *((scalar, name) for name in names)]


def _read_pickle(path: Path, source: Source | str) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_numpy_number()]):
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = [line for line in str(error).splitlines() if "GLOBAL" in line or "Unpickler" in line]
        reason = one_line(named[0] if named else error)
        raise WeightsError(
            f"{source}: refused, it holds more than tensors or is no PyTorch file ({reason}); "
            "save its state_dict as safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(
            f"{source}: not a complete PyTorch or safetensors file ({type(error).__name__}: {one_line(error)}); "
            "check that it is the right file, or fetch it again"
        ) from error
    if not isinstance(raw, Mapping):
        raise WeightsError(f"{source}: holds a {type(raw).__name__}, not a state dict")
    return dict(raw)


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords of the builder that the tensors of a file without config determine; a grid is assumed to be square."""
    if "final_bn.weight" in state:  # CPC's classifier
        return {"relu": True, "pool": "context", "final_bn": True}
    prefix = "base_model." if "base_model.cls_token" in state else ""
    kernel = state.get(_TUBELETS, state.get(f"{prefix}patch_embed.proj.weight"))
    if kernel is None:
        return {}
    options: dict[str, Any] = {"patch_size": kernel.shape[-1]}
    if f"{prefix}pos_embed" in state:
        options["img_size"] = math.isqrt(state[f"{prefix}pos_embed"].shape[1] - 1) * kernel.shape[-1]
    for key in ("time_embed", f"{prefix}temp_embed"):
        if key in state:
            options["num_frames"] = state[key].shape[1]
    if "temp_embed" in state or "st_embed" in state:
        options |= _motionformer(state, kernel)
    if "base_model.temp_embed" in state:
        options["consensus_dim"] = len(state.get("consensus.mlp_head.1.bias", ())) or None
        options["temporal_table"] = "tile"  # for longer clips both originals repeat their table
    return options


def _motionformer(state: Mapping[str, Tensor], kernel: Tensor) -> dict[str, Any]:
    joint = "st_embed" in state
    if joint:
        times = (state["st_embed"].shape[1] - 1) // (_TRAINED_SIZE // kernel.shape[-1]) ** 2
    else:
        times = state["temp_embed"].shape[1]
    tubelet_frames = kernel.shape[2] if _TUBELETS in state else 1
    divided, trajectory = "blocks.0.timeattn.qkv.weight" in state, "blocks.0.attn.proj_q.weight" in state
    return {
        "num_frames": times * tubelet_frames,
        "tubelet_frames": tubelet_frames,
        "positions": "joint" if joint else "separate",
        "attention": "divided" if divided else "trajectory" if trajectory else "joint",
        "pre_logits": "pre_logits.fc.weight" in state,
    }
