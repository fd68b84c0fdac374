"""Saves weights to a folder or the Hub, with a config, a model card and a golden output to verify them."""

import copy
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from torch import Tensor

from ..files import write_tensors
from ..models import Classifier, ZooModel
from ..models.base import check_labels
from ..models.int8 import int8_state, to_float
from .download import fetch, sha256_of
from .loading import CONFIG_NAME, WEIGHTS_NAME, from_pretrained
from .reading import FORMAT_VERSION
from .sources import HubFile, WeightsError, one_line

StoredType = Literal["float32", "int8"]
CARD_NAME = "README.md"
_INT8 = (
    "- weights: 8 bits and one scale per output channel in linear layers, float32 elsewhere; they load as float32, and "
    '`svt_zoo.embed(videos, model=model, dtype="int8")` computes with the 8 bits'
)
_GOLDEN_SEED = 0
_HUB_LICENSES = {"Apache-2.0": "apache-2.0", "CC BY-NC 4.0": "cc-by-nc-4.0"}  # the Hub's names for them


def config_of(model: ZooModel) -> dict[str, Any]:
    """The content of `config.json` for a model: how to rebuild it, and its origin.

    Raises:
        ValueError: the model was not made by the zoo, so it cannot be rebuilt from a file.
    """
    meta = model.meta
    if not meta.get("model"):
        raise ValueError(
            f"{type(model).__name__} has no meta['model']; make it with create_model, load_model or an entry point "
            "(register_model adds a network of your own)"
        )
    return {**meta, "library_name": "svt_zoo", "format_version": FORMAT_VERSION}


def golden_output(model: ZooModel) -> list[float]:
    """The first 8 outputs of a model in float32 on the CPU for one clip of seeded noise, used as a fingerprint."""
    clip_spec = model.meta.get("clip") or {"num_frames": 8, "crop_size": 224}
    generator = torch.Generator().manual_seed(_GOLDEN_SEED)
    size = clip_spec["crop_size"]
    clip = torch.randn(1, 3, clip_spec["num_frames"], size, size, generator=generator)
    network = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    with torch.inference_mode():
        out = network(clip)
    vector: Tensor = out if isinstance(out, Tensor) else out.cls
    return [round(value, 6) for value in vector[0, :8].tolist()]


def write_weights(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write one file atomically in the zoo's own format: safetensors with `config` in its metadata."""
    text = json.dumps(config, indent=2, sort_keys=True)
    write_tensors(path, state, {"format": "pt", "format_version": str(FORMAT_VERSION), "config": text})


def save_pretrained(
    model: ZooModel, folder: str | Path, *, repo: str = "ORG/NAME", dtype: StoredType = "float32"
) -> Path:
    """Write `model.safetensors`, `config.json` and `README.md` (the model card) into `folder`; returns it.

    `repo` is the Hub repository that the card tells its readers to load from. With `dtype="int8"`, the weights of the
    linear layers take 8 bits, and the file about a quarter of the space. It loads as a float32 network with rounded
    weights. `embed(..., dtype="int8")` computes with the same 8 bits.

    Raises:
        ValueError: `folder` is a file, no linear layers for int8, or the class names do not fit the classifier.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_pretrained writes a folder")
    config = config_of(model)
    for key in ("categories", "labels"):
        if isinstance(model, Classifier) and isinstance(config.get(key), list):
            check_labels(config[key], model.num_classes)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    if dtype == "int8":
        state = int8_state(model)
        model = copy.deepcopy(model)
        model.load_state_dict(to_float(state))  # as the file will be read
    write_weights(folder / WEIGHTS_NAME, state, config)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / CARD_NAME).write_text(model_card(config, golden_output(model), repo, dtype))
    return folder


def push_to_hub(
    model: ZooModel, repo: str, *, private: bool = False, message: str = "Upload weights", token: str | None = None
) -> str:
    """Upload the files of `save_pretrained` to the Hub repository `repo` (created if necessary).

    Returns:
        The full commit sha: the `revision` that pins these bytes.

    Raises:
        WeightsError: the Hub refused the upload, or cannot be reached.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, repo=repo)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # broad: versions of the client differ in HTTP library, hence in errors
            raise WeightsError(
                f"{repo}: the upload to {api.endpoint} failed ({one_line(error)}); check the name and the network, and "
                "log in with the right to write there (`hf auth login`, or HF_TOKEN)"
            ) from error
    return str(commit.oid)


def publish(model: ZooModel, repo: str, *, private: bool = False, progress: bool = True) -> tuple[HubFile, str]:
    """Upload a model, load it back from the Hub and compare its golden output.

    Returns:
        The file at the new commit, and its sha256: the values that a row of the weights table needs.

    Raises:
        WeightsError: the downloaded model differs from the uploaded one.
    """
    expected = golden_output(model)
    revision = push_to_hub(model, repo, private=private)
    outputs = golden_output(from_pretrained(repo, revision=revision, progress=progress))
    if outputs != expected:
        raise WeightsError(f"{repo}@{revision}: its golden output is {outputs}, not {expected}; delete that commit")
    file = HubFile(repo, WEIGHTS_NAME, revision)
    return file, sha256_of(fetch(file, progress=progress))


def model_card(
    config: Mapping[str, Any], golden: list[float], repo: str = "ORG/NAME", dtype: StoredType = "float32"
) -> str:
    """The README of a model on the Hub: origin, license, clip, numbers, how to load, golden output."""

    def stated(*keys: str) -> str:
        values = [config[key] for key in keys if config.get(key)]
        return _escaped(values[0]) if values else "not stated"

    clip = config.get("clip")
    lines = [
        "---",
        "library_name: svt_zoo",
        "pipeline_tag: video-classification",
        "tags: [video, self-supervised, vision-transformer]",
        f"license: {_HUB_LICENSES.get(config.get('license', ''), 'other')}",
        "---",
        "",
        f"# {stated('title', 'model')}",
        "",
        f"- architecture: {stated('model')} {_escaped(json.dumps(config.get('model_kwargs', {}), sort_keys=True))}",
        f"- trained on: {stated('pretrained_on')}",
        f"- origin: {stated('source', 'derived_from', 'weights')}",
        f"- paper: {stated('paper')}",
        f"- license of the weights: {stated('license')}",
        "- the data it was trained on has terms of its own",
        f"- clip: {_escaped(json.dumps(clip, sort_keys=True)) if clip else 'not stated'}",
        *([_INT8] if dtype == "int8" else []),
        *([f"- note: {stated('notes')}"] if config.get("notes") else []),
        "",
        "```python",
        "import svt_zoo",
        "",
        f"model = svt_zoo.from_pretrained({json.dumps(repo)})  # revision=FULL_COMMIT_SHA pins the bytes",
        "```",
        "",
        "Golden output (`svt_zoo.hub.publish.golden_output`): the first numbers for one clip of seeded noise, float32.",
        "",
        "```json",
        json.dumps(golden),
        "```",
    ]
    columns = ("dataset", "protocol", "metric", "value", "source")
    numbers = [
        f"| {kind} | {' | '.join(_escaped(number[column]) for column in columns)} |"
        for kind in ("published", "measured")
        for number in config.get(kind, ())
    ]
    if numbers:
        lines += ["", "| | data | protocol | metric | value | source |", "|---|---|---|---|---|---|", *numbers]
    return "\n".join(lines) + "\n"


def _escaped(value: object) -> str:
    """The text of a value on one line, without effect in Markdown or HTML."""
    return re.sub(r"([\\`|<>\[\]])", r"\\\1", " ".join(str(value).split()))
