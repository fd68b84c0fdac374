"""Exports weights in the names of the original code, or as a folder for transformers, and checks the result."""

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import atomic, write_tensors
from ..hub.convert import convert, to_hf_timesformer, to_motionformer, to_svt, to_timesformer, to_xvit
from ..hub.convert_cpc import to_cpc
from ..hub.loading import WEIGHTS_NAME
from ..hub.state_dicts import from_classifier
from ..models import Backbone, Classifier, ZooModel, backbone_of
from ..models.cpc import CPCNetwork
from ..models.layers import LAYER_NORM_EPS
from ..models.motionformer import Motionformer
from ..models.timesformer import JointTimeSformer, SpaceOnlyTimeSformer, TimeSformer
from ..models.xvit import XViT
from .export import Exported, ExportError, Run, Shape, clip_shape, max_difference

_log = logging.getLogger(__name__)


def export_original(model: ZooModel, path: str | os.PathLike[str]) -> Path:
    """Write a PyTorch file with the names and the nesting of the original code.

    A backbone of SVT has the names of SVT's released file. Other TimeSformers (classifiers of SVT too) and
    Motionformers have Facebook's names, X-ViT and CPC those of their authors. The file is kept only if it reads back
    with equal tensors.

    Raises:
        ExportError: a network without an original, or the file reads back with other tensors.
    """
    path = Path(path)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    with atomic(path) as temporary:
        torch.save(_in_original_names(model, state), temporary)
        again = convert(torch.load(temporary, weights_only=True)).state
        ours = from_classifier(state)
        if set(again) != set(ours) or not all(torch.equal(again[key], value) for key, value in ours.items()):
            raise ExportError(f"{path}: the file would read back with other tensors")
    return path


def _in_original_names(model: ZooModel, state: dict[str, Tensor]) -> dict[str, Any]:
    backbone = backbone_of(model)
    if isinstance(backbone, TimeSformer):
        is_svt = isinstance(model, Backbone) and model.meta.get("model", "").startswith("svt_")
        return to_svt(state) if is_svt else to_timesformer(state)
    if isinstance(backbone, Motionformer):
        is_epic = isinstance(model, Classifier) and model.meta.get("name") == "motionformer_vitb_epic"
        return to_motionformer(state, heads=(97, 300) if is_epic else ())
    if isinstance(backbone, XViT):
        return to_xvit(state, original=True)
    if isinstance(backbone, CPCNetwork):
        return {"state_dict": to_cpc(state)}
    raise ExportError(f"no original code has a {type(backbone).__name__}; export it as onnx")


def export_transformers(model: ZooModel, folder: str | os.PathLike[str]) -> Exported:
    """Write a TimeSformer as a folder for transformers: `TimesformerForVideoClassification.from_pretrained(folder)`.

    A backbone becomes a `TimesformerModel`. In transformers, the number of frames comes from the config, and another
    number than that of the position tables gives silently wrong outputs. So only a network with the clip of its tables
    is exported. The folder is kept only if transformers gives the same outputs.

    Raises:
        ExportError: the network is not suitable, the outputs differ, or transformers is not installed.
        ValueError: `folder` exists and is not empty.
    """
    try:
        import transformers
    except ImportError as error:
        raise ExportError(f"transformers needs {error.name}: pip install transformers") from error
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; name a new folder")
    network = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    backbone = backbone_of(network)
    if not isinstance(backbone, TimeSformer):
        raise ExportError(
            f"transformers takes the TimeSformer family, not a {type(backbone).__name__}; export it as onnx"
        )
    frames, height, width = clip_shape(model)
    rows, columns = (side // backbone.patch_size for side in (height, width))
    if (frames, (rows, columns)) != (backbone.num_frames, backbone.grid_size) or rows != columns:
        sizes = [side * backbone.patch_size for side in backbone.grid_size]
        fits = f"--num-frames {backbone.num_frames} --img-size {sizes[0]} (in load_model num_frames=, img_size=)"
        raise ExportError(
            f"transformers would be silently wrong: its TimeSformer cannot stretch tables, which here are made for "
            f"{backbone.num_frames} x {sizes[0]} x {sizes[1]} (frames, pixels), and the clip is {frames} x {height} x "
            f"{width}; export it " + (f"as a network of that clip: {fits}" if sizes[0] == sizes[1] else "as onnx")
        )
    if isinstance(backbone, SpaceOnlyTimeSformer):
        raise ExportError("transformers' space-only TimeSformer does not average frames, so it is another network")
    config = _config(network, backbone, height)
    state = to_hf_timesformer(network.state_dict())
    if isinstance(network, Backbone):
        state = {key.removeprefix("timesformer."): value for key, value in state.items()}
    with atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (temporary / "preprocessor_config.json").write_text(json.dumps(_preprocessor(model), indent=2) + "\n")
        write_tensors(temporary / WEIGHTS_NAME, state, {"format": "pt"})
        theirs = getattr(transformers, config["architectures"][0])
        loaded, keys = theirs.from_pretrained(temporary, output_loading_info=True)
        if keys["missing_keys"] or keys["unexpected_keys"]:
            raise ExportError(f"transformers misses {keys['missing_keys']}, does not know {keys['unexpected_keys']}")
        shapes: tuple[Shape, ...] = tuple((batch, 3, frames, height, width) for batch in (1, 2, 3))
        difference = max_difference(_first(network), _run_transformers(loaded.eval()), shapes)
    return Exported(folder, ("batch",), difference, shapes)


def _first(network: nn.Module) -> Run:
    """The network with only the output that is compared: the class feature, or the logits."""
    return lambda clip: [out if isinstance(out := network(clip), Tensor) else out.cls]


def _run_transformers(loaded: Any) -> Run:
    def run(clip: Tensor) -> list[Tensor]:
        out = loaded(pixel_values=clip.transpose(1, 2))  # (B, T, 3, H, W)
        return [out.logits if "logits" in out else out.last_hidden_state[:, 0]]

    return run


def _config(network: ZooModel, backbone: TimeSformer, size: int) -> dict[str, Any]:
    """The fields of transformers' `TimesformerConfig`."""
    block: Any = backbone.blocks[0]
    joint = isinstance(backbone, JointTimeSformer)
    config = {
        "model_type": "timesformer",
        "architectures": ["TimesformerModel"],
        "attention_type": "joint_space_time" if joint else "divided_space_time",
        "num_frames": backbone.num_frames,
        "image_size": size,
        "patch_size": backbone.patch_size,
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": LAYER_NORM_EPS,
    }
    if isinstance(network, Classifier):
        config["architectures"] = ["TimesformerForVideoClassification"]
        names = network.meta.get("categories") or [str(i) for i in range(network.head.out_features)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def _preprocessor(model: ZooModel) -> dict[str, Any]:
    clip = model.meta.get("clip")
    if not clip:
        return {}
    if clip["channel_order"] != "RGB":
        _log.warning("this network wants %s frames; transformers' processor gives RGB", clip["channel_order"])
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "size": {"shortest_edge": clip["resize_size"]},
        "crop_size": {"height": clip["crop_size"], "width": clip["crop_size"]},
        "image_mean": list(clip["mean"]),
        "image_std": list(clip["std"]),
    }
