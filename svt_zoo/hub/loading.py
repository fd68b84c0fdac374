"""A network from a row of the table, a file, an address or a Hub repository: fetched, checked, converted, strict."""

import argparse
import json
import logging
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..models import Backbone, Classifier, ZooModel, create_empty, find_builder, list_models
from .convert import FORMATS, StateDict, dropped_keys, from_classifier, recognise
from .download import at_revision, fetch
from .sources import HubFile, Source, WeightsError, one_line, parse_source
from .weights import ClipSpec, Weights, get_weights, list_weights

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1  # of our own files: raised when an older reader could misread a newer file
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class Checkpoint(NamedTuple):
    """What a weight file says, in the zoo's names."""

    state: StateDict  # of the backbone
    head: StateDict  # "weight" and "bias" of its classifier, or nothing
    config: dict[str, Any]  # `meta` of the network, if the file is one of ours
    unused: list[str]  # what else the file holds


def load_model(
    weights: str | Path | Weights,
    *,
    model: str | None = None,
    num_classes: int | None = 0,
    num_frames: int | None = None,
    img_size: int | None = None,
    revision: str | None = None,
    progress: bool = True,
    **options: Any,
) -> ZooModel:
    """Build a network and load trained weights into it, strictly.

    Args:
        weights: a row of `list_weights()` or the row itself, a path, `https://...`, `hf://org/repo/file@revision`,
            or any path that iopath reads.
        model: what the file is for, if it does not say so itself: one of `list_models()`, or a row of
            `list_weights()` whose clip it shares, too.
        num_classes: 0 gives the backbone (clip -> `Features`). K > 0 gives a `Classifier` (clip -> logits (B, K)): with
            the file's own classifier if it has K classes, else with a new one, which is said in the log. None gives
            what the file holds.
        num_frames, img_size: another clip than the weights were trained with, in frames and pixels. They change what
            `.transforms()` makes; the position tables stay as trained and are stretched in `forward`.
        revision: another branch, tag or commit of a Hub file.
        progress: show a bar while downloading.
        options: keywords of the architecture's builder, such as `drop_path_rate`.

    Returns:
        The network in eval mode, with `.meta` and `.transforms()`.

    Raises:
        WeightsError: the file cannot be had, is not what it should be or does not fit the network.
        ValueError: no such row or model, or a file that does not say its architecture and `model` is missing.
    """
    row, source = _resolve(weights)
    like = get_weights(model) if model and model in list_weights() else row
    name = like.model if like and model in (None, like.name) else model
    if like and name == like.model and name not in list_models():
        raise ValueError(f"weights {like.name!r} are for the model {name!r}, which this version does not have yet")
    if name is not None:
        find_builder(name)  # refuses a misspelt name before anything is fetched
    sha256 = row.sha256 if row and revision is None else None
    source = at_revision(source, revision)
    state, head, config, unused = read_checkpoint(fetch(source, sha256=sha256, progress=progress), source)
    name = name or config.get("model")
    if name is None:
        raise ValueError(
            f"{source} does not say its architecture; load it by load_model(..., model=NAME), NAME being one of "
            f"{', '.join(list_models())}, or a row of list_weights(), which brings its clip along"
        )
    kwargs = {**(config.get("model_kwargs", {}) if config else _table_sizes(state)), **options}
    network = create_empty(name, **kwargs)
    load_strictly(network, state, source)
    if num_classes is None:
        num_classes = len(head.get("bias", ()))
    _report(source, unused if num_classes else [*unused, *(f"head.{key}" for key in head)])
    own_clip = row.clip if row else ClipSpec(**config["clip"]) if config.get("clip") else like and like.clip
    if own_clip:
        own_clip = own_clip.resized(num_frames or own_clip.num_frames, img_size or own_clip.crop_size)
    network.meta = {
        **config,
        **(row.meta if row else {}),
        "model": name,
        "model_kwargs": kwargs,
        "num_classes": 0,
        "clip": asdict(own_clip) if own_clip else None,
        "weights": row.name if row else str(source),
        "file": str(source),
    }
    return (_classifier(network, num_classes, head, source) if num_classes else network).eval()


def _resolve(weights: str | Path | Weights) -> tuple[Weights | None, Source]:
    """The row of the table, if it is one, and where the file lies."""
    if isinstance(weights, Path):
        return None, weights
    if isinstance(weights, str):
        if weights not in list_weights() and ("/" in weights or Path(weights).suffix or Path(weights).exists()):
            return None, parse_source(weights)
        weights = get_weights(weights)  # raises for a misspelt row, and names the nearest
    return weights, weights.file


def _classifier(backbone: Backbone, num_classes: int, head: StateDict, source: Source) -> Classifier:
    """`backbone` with the file's classifier `head`, or with a new one if that is of another size."""
    classifier = Classifier(backbone, num_classes)
    there = len(head.get("bias", ()))
    if there == num_classes:
        load_strictly(classifier.head, head, source)
    else:
        classifier.meta |= {"labels": None, "categories": None}  # they name other classes
        _log.warning(
            "%s: the classifier of %d classes is new and untrained; the file has %s",
            source,
            num_classes,
            f"one of {there} classes" if there else "none",
        )
    return classifier


def read_checkpoint(path: Path, source: Source | str = "") -> Checkpoint:
    """Read a weight file of any known format: its tensors in the zoo's names, and its config if it is one of ours.

    Nothing in the file can run code: safetensors, or `torch.load(weights_only=True)` with the one class allowed that
    the originals saved beside their tensors (`argparse.Namespace`, a bag of options).

    Raises:
        WeightsError: not a weight file, a file with code in it, an unknown format, or written by a newer version.
    """
    source = source or path
    raw, metadata = _read_safetensors(path, source) if _is_safetensors(path) else (_read_pickle(path, source), {})
    config: dict[str, Any] = {}
    unused: list[str] = []
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
            kind = FORMATS[recognise(raw)]
        except ValueError as error:
            raise WeightsError(f"{source}: {error}") from None
        state, unused = kind.from_(raw), dropped_keys(raw, kind.unused)
        head = _take_head(state)
    return Checkpoint(_in_float32(state), _in_float32(head), config, unused)


def _take_head(state: StateDict) -> StateDict:
    return {key: state.pop(f"head.{key}") for key in ("weight", "bias") if f"head.{key}" in state}


def _in_float32(state: StateDict) -> StateDict:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _is_safetensors(path: Path) -> bool:
    """Told by content, not by name: 8 bytes of length, then a JSON header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path, source: Source | str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{source}: not a whole safetensors file ({error}); fetch {path} again") from error


def _read_pickle(path: Path, source: Source | str) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        telling = [line for line in str(error).splitlines() if "GLOBAL" in line or "Unpickler" in line]
        reason = one_line(telling[0] if telling else error)
        raise WeightsError(
            f"{source}: refused, it holds more than tensors or is no PyTorch file ({reason}); "
            "save its state_dict as safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(
            f"{source}: not a whole PyTorch or safetensors file ({type(error).__name__}: {one_line(error)}); "
            "check that it is the right file, or fetch it again"
        ) from error
    if not isinstance(raw, Mapping):
        raise WeightsError(f"{source}: holds a {type(raw).__name__}, not a state dict")
    return dict(raw)


def _report(source: Source | str, unused: Iterable[str]) -> None:
    """Say once, in one line, which parts of a file the network has no use for."""
    groups = sorted({key.rpartition(".")[0] or key for key in unused})
    if groups:
        _log.warning("%s: left out, as the network does not use it: %s", source, ", ".join(groups))


def _table_sizes(state: StateDict) -> dict[str, int]:
    """The frames and pixels for which a foreign file's tables were trained; its grid is taken for a square."""
    sizes = {}
    if "time_embed" in state:
        sizes["num_frames"] = state["time_embed"].shape[1]
    if "pos_embed" in state and "patch_embed.proj.weight" in state:
        sizes["img_size"] = math.isqrt(state["pos_embed"].shape[1] - 1) * state["patch_embed.proj.weight"].shape[-1]
    return sizes


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: Source | str) -> None:
    """Load `state` into `network`; every key and every shape must fit.

    Raises:
        WeightsError: one line that names the first keys that are missing, left over or of another shape.
    """
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
        raise WeightsError(f"{source} does not fit {type(network).__name__}: {'; '.join(problems)}")
    network.load_state_dict(dict(state), strict=True)


def from_pretrained(
    repo: str | Path, *, revision: str | None = None, progress: bool = True, **options: Any
) -> ZooModel:
    """Load what `save_pretrained` or `push_to_hub` wrote: a Hub repository `org/name`, or a folder.

    Args:
        repo: the repository, or the path of a folder that holds `config.json` and `model.safetensors`.
        revision: branch, tag or full commit sha of the repository; only a full sha pins the bytes.
        progress: show a bar while downloading.
        options: as of `load_model` (`num_classes` is by default that of the file).

    Raises:
        WeightsError: the files cannot be had, or are not svt_zoo's.
        ValueError: neither a folder nor the name of a repository.
    """
    folder = Path(repo)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{folder} is a folder, which has no revision={revision!r}")
        config_path, source = folder / CONFIG_NAME, str((folder / WEIGHTS_NAME).absolute())
        if not config_path.is_file():
            raise WeightsError(f"{folder} holds no {CONFIG_NAME}; save_pretrained writes one")
    elif re.fullmatch(r"[\w.-]*\w/\w[\w.-]*", str(repo)):
        at = revision or "main"
        config_path = fetch(HubFile(str(repo), CONFIG_NAME, at), progress=False)
        source = f"hf://{repo}/{WEIGHTS_NAME}@{at}"
    else:
        raise ValueError(
            f"{str(repo)!r} is neither a folder nor a Hub repository org/name; load_model() loads rows of the table "
            "and single files"
        )
    if not _is_ours(config_path):
        raise WeightsError(
            f"{repo}: its {CONFIG_NAME} was not written by svt_zoo; load the weight file itself: "
            "load_model(FILE, model=NAME)"
        )
    return load_model(source, progress=progress, **{"num_classes": None, **options})


def _is_ours(config_path: Path) -> bool:
    try:
        config = json.loads(config_path.read_text())
    except ValueError:
        return False
    return isinstance(config, dict) and config.get("library_name") == "svt_zoo"
