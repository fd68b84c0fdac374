"""Loads a network from a row of the table, a file, an address or a Hub repository, with strict key checks."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from ..models import OURS, Backbone, Classifier, ZooModel, create_model, find_builder, list_models
from .convert import start_from_image
from .download import at_revision, fetch, fetched
from .hugging_face import at_commit
from .reading import INDEX_NAMES, Checkpoint, config_beside, read_checkpoint
from .sources import HubFile, Source, UnfitWeightsError, WeightsError, parse_source
from .state_dicts import check_fit, from_classifier, matches, without
from .table import get_weights, list_weights
from .weights import ClipSpec, Weights

_log = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"  # written by save_pretrained
FINAL_NAME = "final.safetensors"  # written at the end of a training run


def load_model(
    weights: str | Path | Weights,
    *,
    model: str | None = None,
    num_classes: int | None = 0,
    num_frames: int | None = None,
    img_size: int | None = None,
    revision: str | None = None,
    prefix: str = "",
    allow_nonfinite: bool = False,
    progress: bool = True,
    **options: Any,
) -> ZooModel:
    """Build a network and load trained weights into it, strictly.

    If a training checkpoint holds student and teacher, the teacher is loaded, which SVT and DINO evaluate.

    Args:
        weights: a row of `list_weights()` or the row itself, a path, `https://...`, `hf://org/repo/file@revision`,
            or any path that iopath reads. Also the folder of a finished run or of `save_pretrained`.
        model: the architecture, if the file does not state it: one of `list_models()`, or a row of
            `list_weights()`, which also supplies the clip specification.
        num_classes: 0 gives the backbone (clip -> `Features`). K > 0 gives a `Classifier` (clip -> logits (B, K)): the
            file's own classifier if it has K classes, else a new one, which is logged. None gives
            what the file holds. For a row's own classifier, the class names are also downloaded to the cache.
        num_frames, img_size: a clip size other than that of training, in frames and pixels. They change the output of
            `.transforms()`. The position tables stay as trained and are resized in `forward`. (An image
            network has no table of frames: a new one is created for `num_frames`.)
        revision: another branch, tag or commit of a Hub file.
        prefix: read only the file's entries with this prefix, and remove it. Names of nested dictionaries are joined
            by dots. (The prefixes of DDP, FSDP and torch.compile are always removed.)
        allow_nonfinite: load weights that contain NaN or infinity.
        progress: show a bar while downloading.
        options: keywords of the architecture's builder, such as `drop_path_rate`.

    Returns:
        The network in eval mode, with `.meta` and `.transforms()`.

    Raises:
        WeightsError: the file cannot be fetched, has the wrong hash or format, or does not fit the network.
        ValueError: no such row or model, or the file does not state its architecture and `model` is missing.
    """
    row, source = _resolve(weights)
    like = get_weights(model) if model and model in list_weights() else row
    name = like.model if like and model in (None, like.name) else model
    if name is not None:
        find_builder(name)  # refuses a misspelled name before anything is fetched
    sha256 = row.sha256 if row and revision is None else None
    source = at_revision(source, revision)
    with fetched(source, sha256=sha256, progress=progress) as path:
        file = read_checkpoint(path, source, prefix=prefix, allow_nonfinite=allow_nonfinite)
        source = _pinned(source, path)
    clip = row.clip if row else _clip_of(file, source) or (like.clip if like else None)
    if name is None:
        name = _architecture_of(file, source)
    row_options = like.model_kwargs if like and like.model == name and file.kind != "ours" else {}
    new_table = {"num_frames": num_frames} if file.kind == "vit" and num_frames else {}
    network, file = _network(name, {**row_options, **file.options, **new_table, **options}, file, source)
    if like is None:
        _require_consensus_heads(file, options, source)
    network.meta = {
        **file.config,
        **(row.meta if row else {}),
        **network.meta,
        "clip": asdict(clip.resized(num_frames, img_size)) if clip else None,
        "weights": row.name if row else str(source),
        "file": str(source),
    }
    return _with_classifier(network, file, num_classes, source, row).eval()


def _pinned(source: Source, path: Path) -> Source:
    """The source of the cached file `path`: for a branch of the Hub, its commit."""
    if not isinstance(source, HubFile) or source == (pinned := at_commit(source, path)):
        return source
    _log.warning("%s may change: load commit %s to get the same file again", source, pinned.revision)
    return pinned


def _require_consensus_heads(file: Checkpoint, options: Mapping[str, Any], source: Source) -> None:
    if file.kind == "xvit" and "consensus_heads" not in {**file.options, **options}:
        raise UnfitWeightsError(
            f"{source} does not state its number of consensus heads, and no tensor shows it; state it: load_model(..., "
            "consensus_heads=12), as in the files of X-ViT and TIME (recipes: model.options.consensus_heads)"
        )


def _clip_of(file: Checkpoint, source: Source) -> ClipSpec | None:
    values = file.config.get("clip")
    if not values:
        return None
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        clip = ClipSpec(**fields)
        clip.resized()  # fails for sizes that are no numbers
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source}: its clip specification cannot be read ({error})") from error
    return clip


def _architecture_of(file: Checkpoint, source: Source) -> str:
    if not file.config.get("model"):
        raise ValueError(
            f"{source} does not state its architecture; load it by load_model(..., model=NAME), NAME being a row of "
            f"list_weights(), which also gives the clip, or one of {', '.join(list_models())}"
        )
    return str(file.config["model"])


def _network(name: str, options: dict[str, Any], file: Checkpoint, source: Source) -> tuple[Backbone, Checkpoint]:
    """The network `name` with the weights from `file`, and what of the file is used.

    Keys and shapes are compared before memory is allocated, and no random numbers are drawn: for ViT-B's 121 M
    parameters they take ten times as long as reading the file. The builder of a network that a user has registered runs
    normally: it may compute tables that no state dict holds.
    """
    device = torch.get_default_device()
    is_ours = name in OURS
    try:
        _check_sizes(options, file)
        with torch.device("meta") if is_ours else nullcontext():
            network = cast(Backbone, create_model(name, **options))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # the keyword may come from the file
        raise UnfitWeightsError(f"{source} does not fit {name}: {error}") from error
    own = network.state_dict()
    state = file.state
    if file.kind == "vit" and not own.keys() <= state.keys():
        _log.info("%s: initial weights from an image network; temporal parts are new", source)
        heads = [f"head.{key}" for key in file.head]
        file = file._replace(head={}, unused=sorted([*file.unused, *heads]))
        state = start_from_image(state, create_model(name, **options).state_dict())
    elif not file.kind:  # only a network that a user has registered can fit
        if own.keys() != state.keys():
            head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
            state = from_classifier(without(state, ["head.*"]))
            file = file._replace(head=head)
        if own.keys() != state.keys():
            raise UnfitWeightsError(f"{source}: {file.problem}")
    if new := [key for key in own if key not in state and matches(key, network.new_parts)]:
        fresh = create_model(name, **options).state_dict()
        state = {**state, **{key: fresh[key] for key in new}}
        _log.warning("%s: new and untrained, because the file has none: %s", source, ", ".join(new))
    check_fit(network, state, source)
    if is_ours:
        network.to_empty(device=device)
    network.load_state_dict(state, strict=True)
    return network, file


def _check_sizes(options: Mapping[str, Any], file: Checkpoint) -> None:
    """Refuse sizes that the file cannot have: to build many blocks takes long, even without memory for them."""
    limits = {True: len(file.state), False: sum(value.numel() for value in file.state.values())}
    for key, value in options.items():
        if key in file.options and isinstance(value, int) and value > (limit := limits["depth" in key]):
            raise ValueError(f"{key}={value} is more than its {limit} {'tensors' if 'depth' in key else 'numbers'}")


def _resolve(weights: str | Path | Weights) -> tuple[Weights | None, Source]:
    """The row of the table (None if `weights` is not a row), and the source of the file."""
    if isinstance(weights, str):
        if weights not in list_weights() and ("/" in weights or Path(weights).suffix or Path(weights).exists()):
            source = parse_source(weights)
            return None, file_inside(source) if isinstance(source, Path) else source
        weights = get_weights(weights)  # raises for a misspelled row, and names the nearest
    if isinstance(weights, Path):
        return None, file_inside(weights)
    return weights, weights.file


def file_inside(path: Path) -> Path:
    """The weight file in a folder; `path` itself if it is not a folder.

    Raises:
        WeightsError: the folder holds no svt_zoo weights.
    """
    if not path.is_dir():
        return path
    for name in (FINAL_NAME, WEIGHTS_NAME, *INDEX_NAMES):
        if (path / name).is_file():
            return path / name
    raise WeightsError(f"the folder {path} holds neither {FINAL_NAME} nor {WEIGHTS_NAME}; a run writes it when it ends")


def _with_classifier(
    backbone: Backbone, file: Checkpoint, num_classes: int | None, source: Source, row: Weights | None
) -> ZooModel:
    """`backbone` with the file's classifier, or with a new one if its size differs; `backbone` alone for 0 classes."""
    there = len(file.head.get("bias", ()))
    if num_classes is None:
        num_classes = there
    _report(source, file.unused if num_classes else [*file.unused, *(f"head.{key}" for key in file.head)])
    if not num_classes:
        return backbone
    classifier = Classifier(backbone, num_classes)
    if there == num_classes:
        check_fit(classifier.head, file.head, source)
        classifier.head.load_state_dict(file.head)
        if row and row.labels:
            try:
                fetch(row.labels, progress=False)  # to the cache, so that `predict` works offline
            except WeightsError as error:
                _log.warning("the classes stay without names: %s", error)
    else:
        classifier.meta |= {"labels": None, "categories": None}  # they name other classes
        _log.warning(
            "%s: the classifier of %d classes is new and untrained; the file has %s",
            source,
            num_classes,
            f"one of {there} classes" if there else "none",
        )
    return classifier


def _report(source: Source | str, unused: Iterable[str]) -> None:
    """Log once, in one line, which parts of a file the network does not use."""
    groups = sorted({key.rpartition(".")[0] or key for key in unused})
    if groups:
        why = " (read is the teacher, which its method evaluates)" if "student" in groups else ""
        _log.warning("%s: left out, as the network does not use it: %s%s", source, ", ".join(groups), why)


def from_pretrained(
    repo: str | Path, *, revision: str | None = None, progress: bool = True, **options: Any
) -> ZooModel:
    """Load a model from a Hub repository `org/name`, or from a folder.

    It was written by `save_pretrained`, `push_to_hub` or `svt-zoo export --format transformers`, or transformers
    saved it again, for example after fine-tuning. TimeSformers that others made for transformers are read too.

    Args:
        repo: the repository, or the path of a folder that holds `config.json` and `model.safetensors`.
        revision: branch, tag or full commit sha of the repository; only a full sha pins the bytes.
        progress: show a bar while downloading.
        options: as of `load_model` (`num_classes` is by default that of the file).

    Raises:
        WeightsError: the files cannot be fetched, or were not written by svt_zoo.
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
    if not (_is_ours(config_path) or config_beside(config_path.with_name(WEIGHTS_NAME))):
        raise WeightsError(
            f"{repo}: its {CONFIG_NAME} was written neither by svt_zoo nor for transformers' TimeSformer; load the "
            "weight file itself: load_model(FILE, model=NAME)"
        )
    return load_model(source, progress=progress, **{"num_classes": None, **options})


def _is_ours(config_path: Path) -> bool:
    try:
        config = json.loads(config_path.read_text())
    except ValueError:
        return False
    return isinstance(config, dict) and config.get("library_name") == "svt_zoo"
