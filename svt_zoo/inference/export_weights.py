"""Exports TimeSformer weights in the format of transformers, and checks the result."""

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import atomic
from ..hub.convert import to_hf_timesformer
from ..hub.loading import WEIGHTS_NAME
from ..models import Backbone, Classifier, ZooModel
from ..models.base import backbone_of
from ..models.layers import LAYER_NORM_EPS
from ..models.timesformer import JointTimeSformer, SpaceOnlyTimeSformer, TimeSformer
from .export import Exported, ExportError, Run, Shape, clip_shape, max_difference

_log = logging.getLogger(__name__)


def export_transformers(model: ZooModel, folder: str | os.PathLike[str]) -> Exported:
    """Write a TimeSformer as a folder for transformers: `TimesformerForVideoClassification.from_pretrained(folder)`.

    A backbone becomes a `TimesformerModel`. In transformers, the number of frames
    comes from the config, and another number than that of the position tables gives silently wrong outputs. So only a
    network with the clip of its tables is exported. The folder is kept only if transformers gives the same outputs.

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
    network, backbone = _timesformer(model)
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
        _save(state, temporary / WEIGHTS_NAME)
        theirs = getattr(transformers, config["architectures"][0])
        loaded, said = theirs.from_pretrained(temporary, output_loading_info=True)
        if said["missing_keys"] or said["unexpected_keys"]:
            raise ExportError(f"transformers misses {said['missing_keys']}, does not know {said['unexpected_keys']}")
        shapes: tuple[Shape, ...] = tuple((batch, 3, frames, height, width) for batch in (1, 2, 3))
        difference = max_difference(_first(network), _run_transformers(loaded.eval()), shapes)
    return Exported(folder, ("batch",), difference, shapes)


def _timesformer(model: ZooModel) -> tuple[ZooModel, TimeSformer]:
    """A float32 copy of the network on the CPU, and its backbone."""
    network = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    backbone = backbone_of(network)
    if not isinstance(backbone, TimeSformer):
        raise ExportError(
            f"transformers takes the TimeSformer family, not a {type(backbone).__name__}; export it as onnx"
        )
    return network, backbone


def _first(network: nn.Module) -> Run:
    """Returns the output that is compared: the class feature, or the logits."""
    return lambda clip: [out if isinstance(out := network(clip), Tensor) else out.cls]


def _run_transformers(loaded: Any) -> Run:
    def run(clip: Tensor) -> list[Tensor]:
        out = loaded(pixel_values=clip.transpose(1, 2))  # (B, T, 3, H, W)
        return [out.logits if "logits" in out else out.last_hidden_state[:, 0]]

    return run


def _config(network: ZooModel, backbone: TimeSformer, size: int) -> dict[str, Any]:
    """The sizes of this network as fields of transformers' `TimesformerConfig`."""
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
    """Preprocessor config of transformers for the network's clip: resize, center crop, normalize."""
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


def _save(state: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    path.write_bytes(save({key: value.contiguous() for key, value in state.items()}, metadata={"format": "pt"}))
