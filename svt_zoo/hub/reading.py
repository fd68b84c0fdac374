"""Reads a weight file of any known format into tensors with the zoo's names; nothing in the file can run code."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..models.int8 import to_float
from ..signatures import foreign_kind
from .convert import convert, recognize
from .pickles import read_pickle
from .sources import Source, UnfitWeightsError, WeightsError, one_line
from .state_dicts import StateDict, from_classifier, unwrap

FORMAT_VERSION = 1  # of our own files; increased when an older reader could misread a newer file
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of a file in several shards
_TUBELETS = "patch_embed_3d.proj.weight"
# Keywords of a TimeSformer, and what transformers calls them.
_TRANSFORMERS_NAMES = {
    "attention": "attention_type",
    "num_frames": "num_frames",
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "qkv_bias": "qkv_bias",
}
_TRAINED_SIZE = 224  # frame size in pixels of a joint table, whose shape does not determine it


class Checkpoint(NamedTuple):
    """The content of a weight file, in the zoo's names."""

    state: StateDict  # of the backbone
    head: StateDict  # "weight" and "bias" of its classifier, or nothing
    config: dict[str, Any]  # `meta` of the network, if the file is one of ours
    unused: list[str]  # other keys of the file
    kind: str  # as of `convert`
    options: dict[str, Any]  # keywords of the builder that the file determines
    problem: str = ""  # why the format is unknown


def read_checkpoint(
    path: Path, source: Source | str = "", *, prefix: str = "", allow_nonfinite: bool = False
) -> Checkpoint:
    """Read a weight file of any known format: its tensors in the zoo's names, and its config if it is one of ours.

    Nothing in the file can run code. It reads safetensors, or uses `torch.load(weights_only=True)`, which also allows
    what the originals saved beside their tensors: `argparse.Namespace` (options), and NumPy numbers with their type.

    Args:
        path: the file, or the index (`.index.json`) of a file in several shards beside it.
        source: where the file comes from, for messages.
        prefix: only entries with this prefix are read, as in `unwrap`.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: not a weight file, a file with code in it, an unknown format, or written by a newer version.
    """
    source = source or path
    raw, metadata = _read(path, source)
    is_ours = "config" in metadata and "format_version" in metadata and not prefix
    file = _ours(raw, metadata, source) if is_ours else _foreign(raw, source, prefix)
    if config := {} if is_ours or prefix else config_beside(path):
        kind = "ours" if "library_name" in config else file.kind
        file = file._replace(config=_checked(config, source), kind=kind, options=config.get("model_kwargs") or {})
    wrong = [key for key, value in {**file.state, **file.head}.items() if not value.isfinite().all()]
    if wrong and not allow_nonfinite:
        raise WeightsError(
            f"{source}: NaN or infinite weights in {len(wrong)} tensors ({', '.join(wrong[:3])}); "
            "load_model(..., allow_nonfinite=True) loads them"
        )
    return file


def _ours(raw: StateDict, metadata: Mapping[str, str], source: Source | str) -> Checkpoint:
    config = _config_of(metadata, source)
    try:
        state = to_float(raw)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}; it is damaged") from None
    head = _take_head(state) if config.get("num_classes") else {}
    state = from_classifier(state) if head else state
    return Checkpoint(_in_float32(state), head, config, [], "ours", dict(config.get("model_kwargs") or {}))


def config_beside(weights: Path) -> dict[str, Any]:
    """The config of a network from the `config.json` beside its weights, if they are a folder for transformers."""
    if not weights.name.startswith(("model.safetensors", "pytorch_model.bin")):  # other files are not described by it
        return {}
    try:
        theirs = json.loads(weights.with_name("config.json").read_text())
        is_classifier = "ForVideoClassification" in str(theirs.get("architectures"))
        names = theirs.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}) if is_classifier else {}  # as transformers
        labels = {"num_classes": len(names), "categories": [names[str(i)] for i in range(len(names))] or None}
        if isinstance(theirs.get("svt_zoo"), dict):
            return {**theirs["svt_zoo"], **labels}
        if theirs.get("model_type") != "timesformer" or theirs.get("attention_type") == "space_only":
            return {}
        kwargs = {ours: theirs[name] for ours, name in _TRANSFORMERS_NAMES.items() if name in theirs}
        ratio = theirs.get("intermediate_size", 3072) / theirs.get("hidden_size", 768)
        return {"model": "timesformer_vitb", "model_kwargs": {**kwargs, "mlp_ratio": ratio}, **labels}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return {}


def _foreign(raw: Mapping[str, Any], source: Source | str, prefix: str) -> Checkpoint:
    try:
        kind, state, unused = convert(raw, prefix)
    except ValueError as error:
        raise UnfitWeightsError(f"{source}: {error}") from None
    cfg = str(raw.get("cfg", ""))  # the options of the authors' code
    options = options_of(state)
    if kind == "xvit" and (heads := re.search(r"NUM_ATTENTION_HEADS\W+(\d+)", cfg)):
        options["consensus_heads"] = int(heads[1])  # no tensor determines it
    if kind in ("timesformer", "hf_timesformer", "vit"):
        stated = re.search(r"ATTENTION_TYPE\W+(\w+)", cfg)
        attention = stated[1] if stated else _attention(kind, state, unwrap(raw, prefix)[0])
        options |= {"attention": attention} if attention else {}
    head = _take_head(state) if kind else {}
    problem = "" if kind else _problem(raw, state)
    return Checkpoint(_in_float32(state), head, {}, unused, kind, options, problem)


def _problem(raw: Mapping[str, Any], state: StateDict) -> str:
    """Why a file of no known format cannot be read: what it holds, and which part of it could be read."""
    keys = sorted(state) or list(map(str, raw))
    parts = [key for key, value in raw.items() if isinstance(value, Mapping) and recognize(unwrap(value)[0])]
    hint = f"; its part {parts[0]} is one: load_model(..., prefix='{parts[0]}.') reads it" if parts else ""
    return (
        f"not a checkpoint format of the zoo (it holds {', '.join(keys[:4]) or 'nothing'}, ...){hint}; known are SVT, "
        "TimeSformer, Motionformer, X-ViT (the authors', TIME's, Hugging Face's), image ViT (DINO, timm), CPC and our "
        "own; load_model(..., prefix=) takes off a wrapper's prefix"
    )


def _config_of(metadata: Mapping[str, str], source: Source | str) -> dict[str, Any]:
    version = metadata["format_version"]
    try:
        newer = int(version) > FORMAT_VERSION
        config = json.loads(metadata["config"])
    except ValueError as error:
        raise WeightsError(f"{source}: its metadata cannot be read ({one_line(error)}); it is damaged") from error
    if newer:
        raise WeightsError(
            f"{source}: its format_version is {version}, this version of svt_zoo reads up to {FORMAT_VERSION}; "
            "update svt_zoo"
        )
    return _checked(config, source)


def _checked(config: Any, source: Source | str) -> dict[str, Any]:
    for name, type_ in (("config", dict), ("model_kwargs", dict), ("clip", dict), ("model", str)):
        value = config if name == "config" else config.get(name)
        if not isinstance(value, type_) and (name == "config" or value is not None):
            raise WeightsError(f"{source}: {name} in its metadata is a {type(value).__name__}; it is damaged")
    return dict(config)


def _take_head(state: StateDict) -> StateDict:
    head = {key: state.pop(f"head.{key}") for key in ("weight", "bias") if f"head.{key}" in state}
    return _in_float32(head)


def _in_float32(state: StateDict) -> StateDict:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _read(path: Path, source: Source | str) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a file, and the metadata of a safetensors file."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.lstrip().lower()
    if start[8:9] == b"{":  # 8 bytes of length, then a JSON header; the name is ignored
        return _read_safetensors(path, source)
    if text.startswith(b"{") and b"weight_map" in path.read_bytes()[: 1 << 26]:
        return _read_shards(path, source), {}
    if kind := foreign_kind(path):
        raise WeightsError(f"{source}: not weights but {kind}; delete {path} and fetch the right file")
    if not start:
        raise WeightsError(f"{source}: an empty file; delete {path} and fetch it again")
    return read_pickle(path, source), {}


def _read_safetensors(path: Path, source: Source | str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{source}: not a complete safetensors file ({error}); fetch {path} again") from error


def _read_shards(index: Path, source: Source | str) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{source}: not a complete index of shards ({one_line(error)}); fetch it again") from error
    for name in names:
        shard = index.with_name(Path(str(name)).name)
        if name != shard.name or not shard.is_file() or shard.suffix == ".json":
            raise WeightsError(
                f"{source}: an index of {len(names)} shards, and {name} is not beside it; fetch them all"
            )
        tensors |= _read(shard, source)[0]
    return tensors


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


def _attention(kind: str, state: StateDict, wrapped: StateDict) -> str | None:
    """The attention of a TimeSformer. Without a classifier, space-only has the keys of an image network: then None."""
    if "blocks.0.temporal_attn.qkv.weight" in state:
        return None  # divided, the default
    if "time_embed" in state:
        return "joint_space_time"
    is_ours = "backbone.cls_token" in wrapped and "head.weight" in wrapped
    return "space_only" if kind != "vit" or is_ours else None


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
