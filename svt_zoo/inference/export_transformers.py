"""Exports a model as a folder for transformers that gives the same numbers from the video file on, and checks it."""

import ast
import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..files import atomic, write_tensors
from ..hub.convert import to_hf_timesformer
from ..hub.loading import WEIGHTS_NAME
from ..hub.publish import config_of
from ..models import OURS, Classifier, ZooModel, backbone_of, find_builder
from ..models.base import Backbone
from ..models.layers import LAYER_NORM_EPS
from ..models.timesformer import JointTimeSformer, TimeSformer
from .export import Exported, ExportError, Run, Shape, clip_shape, max_difference
from .predict import label_names

_PACKAGE = Path(__file__).resolve().parents[1]
_COPIED = ("models", "data", "video", "signatures.py")  # parts of the package whose modules may be copied
_FAMILY = "from ..models.timesformer import timesformer as build_backbone"  # in hf_model.py


def export_transformers(model: ZooModel, folder: str | os.PathLike[str]) -> Exported:
    """Write a folder that transformers loads and that gives the numbers of `predict(views="1x1")`.

    `pipeline("video-classification", folder, trust_remote_code=True)` classifies files. The folder holds the weights,
    the labels, and a video processor: a copy of this package's reader and transform, so svt_zoo is not needed. A
    TimeSformer with the clip of its tables becomes transformers' own TimeSformer, which takes that clip alone. Any
    other network of the zoo comes with its code, and takes any clip. A backbone without a classifier is loaded by
    `AutoModel`. The folder is kept only if transformers gives the same outputs. `from_pretrained` reads it back.

    Raises:
        ExportError: the outputs differ, the network is not one of the zoo, or transformers is not installed.
        ValueError: `folder` exists and is not empty, or the model has no clip specification.
    """
    try:
        import transformers
    except ImportError as error:
        raise ExportError(f"transformers needs {error.name}: pip install 'transformers>=5.11'") from error
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; name a new folder")
    network = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    frames, height, width = clip_shape(model)
    own_code = not _is_timesformer(network)
    with atomic(folder) as temporary:
        temporary.mkdir()
        _write_files(network, temporary, own_code=own_code)
        auto = "AutoModelForVideoClassification" if isinstance(network, Classifier) else "AutoModel"
        theirs, keys = getattr(transformers, auto).from_pretrained(
            temporary, trust_remote_code=True, output_loading_info=True
        )
        if keys["missing_keys"] or keys["unexpected_keys"]:
            raise ExportError(f"transformers misses {keys['missing_keys']}, does not know {keys['unexpected_keys']}")
        lengths = (frames, 3, 1) if own_code else (frames,) * 3
        shapes: tuple[Shape, ...] = tuple((i + 1, 3, length, height, width) for i, length in enumerate(lengths))
        difference = max_difference(_first(network), _run(theirs.eval()), shapes)
    return Exported(folder, ("batch", "frames", "height", "width") if own_code else ("batch",), difference, shapes)


def _write_files(network: ZooModel, folder: Path, *, own_code: bool) -> None:
    transform = vars(network.transforms())
    config, state = _with_code(network) if own_code else _as_timesformer(network)
    config |= {"num_frames": transform["num_frames"], "dtype": "float32", **_labels(network)}
    config["svt_zoo"] = {key: value for key, value in config_of(network).items() if key not in ("categories", "labels")}
    processor = {
        "video_processor_type": "SvtZooVideoProcessor",
        "auto_map": {"AutoVideoProcessor": "hf_processor.SvtZooVideoProcessor"},
        "clip": transform,
        "any_length": own_code,
    }
    for name, content in (("config.json", config), ("video_preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(content, indent=2, default=str) + "\n")
    for name, text in _code(backbone_of(network) if own_code else None):
        (folder / name).write_text(text)
    write_tensors(folder / WEIGHTS_NAME, state, {"format": "pt"})


def _first(network: nn.Module) -> Run:
    """The network with only the output that is compared: the class feature, or the logits."""
    return lambda clip: [out if isinstance(out := network(clip), Tensor) else out.cls]


def _run(theirs: Any) -> Run:
    def run(clip: Tensor) -> list[Tensor]:
        out = theirs(pixel_values=clip.transpose(1, 2))  # (B, T, 3, H, W)
        return [out[name] if (name := "logits") in out or (name := "pooler_output") in out else out[0][:, 0]]

    return run


def _labels(network: ZooModel) -> dict[str, Any]:
    if not isinstance(network, Classifier):
        return {}
    names = label_names(network)
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _is_timesformer(network: ZooModel) -> bool:
    """Whether transformers' own TimeSformer gives the same outputs: it takes square clips of the tables' size alone.

    Its space-only attention does not average frames, so it is another network.
    """
    backbone, (frames, height, width) = backbone_of(network), clip_shape(network)
    return (
        type(backbone) in (TimeSformer, JointTimeSformer)
        and height == width
        and (frames, height // backbone.patch_size) == (backbone.num_frames, backbone.grid_size[0])
        and backbone.grid_size[0] == backbone.grid_size[1]
    )


def _as_timesformer(network: ZooModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields of transformers' `TimesformerConfig`, and the weights in its names."""
    backbone = backbone_of(network)
    block: Any = backbone.blocks[0]
    joint, classifier = isinstance(backbone, JointTimeSformer), isinstance(network, Classifier)
    config = {
        "model_type": "timesformer",
        "architectures": ["TimesformerForVideoClassification" if classifier else "TimesformerModel"],
        "attention_type": "joint_space_time" if joint else "divided_space_time",
        "image_size": clip_shape(network)[1],
        "patch_size": backbone.patch_size,
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": LAYER_NORM_EPS,
    }
    state = to_hf_timesformer(network.state_dict())
    return config, state if classifier else {key.removeprefix("timesformer."): state[key] for key in state}


def _with_code(network: ZooModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config of `hf_model.py`, and the weights in its names."""
    name = network.meta.get("model") or type(network).__name__
    if name not in OURS:
        raise ExportError(f"{name} is not a network of the zoo, so its code cannot be copied; export it as onnx")
    keywords = {**cast(Any, find_builder(name)).keywords, **(network.meta.get("model_kwargs") or {})}
    config = {
        "model_type": "svt_zoo",
        "architectures": ["SvtZooForVideoClassification" if isinstance(network, Classifier) else "SvtZooModel"],
        "auto_map": {
            "AutoConfig": "hf_model.SvtZooConfig",
            "AutoModel": "hf_model.SvtZooModel",
            "AutoModelForVideoClassification": "hf_model.SvtZooForVideoClassification",
        },
        "network": {key: value for key, value in keywords.items() if key != "table_std"},  # how it was initialized
    }
    state = network.state_dict()
    return config, state if isinstance(network, Classifier) else {f"backbone.{key}": state[key] for key in state}


def _code(backbone: Backbone | None) -> Iterator[tuple[str, str]]:
    """Names and texts of the folder's modules: the processor, code for `backbone` if given, and what they import."""
    modules, line = [Path(__file__).with_name("hf_processor.py")], _FAMILY
    if backbone is not None:
        modules.append(Path(__file__).with_name("hf_model.py"))
        module, name = type(backbone).__module__.rpartition(".")[2], type(backbone).__name__
        if not isinstance(backbone, TimeSformer):
            line = f"from ..models.{module} import {name} as build_backbone"
    for path in modules:  # grows
        text, needed = _flat(path, path.read_text().replace(_FAMILY, line))
        modules += [other for other in needed if other not in modules]
        yield path.name, f"# A copy from svt_zoo (Apache-2.0), without what needs the rest of that package.\n{text}"


def _flat(path: Path, text: str) -> tuple[str, list[Path]]:
    """The text of a module for a folder without subfolders, and the modules of this package that it imports there.

    Left out are imports of other parts of the package, and the functions that use them.
    """
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    only_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typing = {inner for node in only_types for inner in ast.walk(node)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    needed: list[Path] = []
    cut: list[ast.stmt] = [*only_types]
    for node in imports:
        target = path.parents[node.level - 1].joinpath(*str(node.module).split(".")).with_suffix(".py")
        if node in typing or target.relative_to(_PACKAGE).parts[0] not in _COPIED:
            cut.append(node)
        else:
            needed.append(target)
            row = node.lineno - 1
            lines[row] = re.sub(r"from \.[\w.]+", f"from .{target.stem}", lines[row])
    names = {alias.name for node in imports if node in cut for alias in node.names}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    cut += [function for function in functions if any(_uses(inner, names) for inner in ast.walk(function))]
    for part in cut:
        first = min(each.lineno for each in (part, *getattr(part, "decorator_list", [])))
        lines[first - 1 : part.end_lineno] = [""] * (cast(int, part.end_lineno) - first + 1)
    return re.sub(r"\n{4,}", "\n\n\n", "".join(lines)), needed


def _uses(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in names for alias in node.names)
    return isinstance(node, ast.Name) and node.id in names
