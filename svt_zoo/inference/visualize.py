"""Visualizes the attention of the class token over a clip, as a video and as a contact sheet.

    models = load_models("svt_vitb_k400", compare=["dino"])
    visualize_attention("video.mp4", models, "attention")        # attention.mp4 and attention.png

These functions also work separately: `attention_maps`, `unnormalize`, `overlay`, `contact_sheet`, `write_video`.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

from ..data.transforms import EvalTransform
from ..device import choose_device
from ..evaluation.views import faults_as_read_errors
from ..hub import entrypoints
from ..hub.loading import load_model
from ..hub.table import list_weights
from ..models import ZooModel
from ..models.attention import attention_rollout, class_attention
from ..models.base import backbone_of
from ..models.timesformer import TimeSformer
from ..video import Limits, open_video
from .pictures import caption, text_width

_log = logging.getLogger(__name__)

Method = Literal["last", "rollout"]
_METHODS = {"last": class_attention, "rollout": attention_rollout}
_GAP = 8  # pixels between and around pictures
_LINE = 24  # pixels: height of a line of text
_BAR = 24  # pixels: width of a color bar
_PAPER = 255
_SMALL = 96  # pixels: smaller clips are enlarged up to this size, so that captions fit


def attention_maps(model: nn.Module, clip: Tensor, *, method: Method = "last") -> Tensor:
    """Attention of the class token of `model` to clip (B, 3, T, H, W): (B, T, rows, columns), one value per patch.

    "last" is the attention of the last block, averaged over heads (as in SVT's Figure I). "rollout" multiplies the
    attention of all blocks (Abnar and Zuidema, ACL 2020), so early blocks also contribute.

    Raises:
        ValueError: not a TimeSformer (or its classifier), in training mode, or without this kind of attention.
    """
    network = backbone_of(model)
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if not isinstance(network, TimeSformer):
        raise ValueError(f"attention maps need a TimeSformer, got a {type(network).__name__}")
    if network.training:
        raise ValueError("attention maps of a network in training mode are random; call model.eval() first")
    with torch.inference_mode():
        return _METHODS[method](network, clip)


def unnormalize(clip: Tensor, transform: EvalTransform) -> Tensor:
    """Undo the normalization of clip (3, T, H, W): the input of the network as uint8 RGB frames (T, H, W, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (transform.mean, transform.std))
    pixels = clip.float() * std + mean
    if transform.channel_order == "BGR":
        pixels = pixels.flip(0)
    return pixels.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)  # (T, H, W, 3)


def scale_maps(maps: Tensor) -> Tensor:
    """Scale maps (T, rows, columns) to [0, 1], with one range for the clip so that its frames are comparable.

    The 1st percentile of the clip maps to 0 and the 99th to 1, so a few extreme patches do not hide the others. The
    range is at least the median, so that a uniform map stays flat and does not show noise.
    """
    low, high = _value_range(maps)
    return ((maps.float() - low) / (high - low)).clamp(0, 1)


def _value_range(maps: Tensor) -> tuple[float, float]:
    low, median, high = np.percentile(maps.float().numpy(), (1, 50, 99)).tolist()
    return low, low + max(high - low, median, 1e-12)


def overlay(frames: Tensor, maps: Tensor) -> Tensor:
    """Color frames (T, H, W, 3) by maps (T, rows, columns), scaled over the clip: uint8 (T, H, W, 3).

    Low attention makes a region dark and gray; high attention makes it bright and colored.
    """
    size = frames.shape[1:3]
    heat = F.interpolate(scale_maps(maps).unsqueeze(1), size=size, mode="bicubic").clamp(0, 1)[:, 0]  # (T, H, W)
    gray = frames.float().mean(dim=-1, keepdim=True)  # (T, H, W, 1): the frame's own colors would mix with the map's
    return _paint(gray, heat)


def _paint(gray: Tensor, heat: Tensor) -> Tensor:
    """Gray levels (..., 1) in the colors of heat (...) in [0, 1]: uint8 (..., 3)."""
    palette = torch.from_numpy(colormaps["inferno"](np.arange(256), bytes=True)[:, :3])  # (256, 3)
    colors = palette[(heat * 255).round().long()]  # (..., 3)
    return (0.5 * gray + 0.6 * colors).round().clamp(0, 255).to(torch.uint8)


def color_bar(maps: Tensor, height: int) -> Tensor:
    """The scale of `overlay`'s colors for these maps, on mid-gray, with numbers: uint8 (height, width, 3).

    The numbers are the attention of the class token to one patch, in percent. If the picture is too small,
    they are cut off.
    """
    line = min(_LINE, height // 4)
    heat = torch.linspace(1, 0, height - 2 * line).unsqueeze(1).expand(-1, _BAR)  # highest attention at the top
    percent = [100 * value for value in _value_range(maps)]
    decimals = max(0, 1 - math.floor(math.log10(percent[1])))  # two digits of the highest
    low, high = (caption(f"{value:.{decimals}f} %", line, 4 * _BAR) for value in percent)
    bar = F.pad(_paint(torch.full((*heat.shape, 1), 128.0), heat), (0, 0, 0, 3 * _BAR), value=_PAPER)
    words = [caption(word, _LINE, 3 * _BAR) for word in ("highest", "attention", "lowest")]
    space = (len(bar) - 3 * _LINE) // 2
    if space >= 0:
        for word, top in zip(words, (0, _LINE + space, len(bar) - _LINE), strict=True):
            bar[top : top + _LINE, _BAR:] = word
    return torch.cat((high, bar, low))


def contact_sheet(
    frames: Tensor, rows: Mapping[str, Tensor], *, seconds: Sequence[float] | None = None, num_columns: int = 4
) -> Image.Image:
    """Draw a clip as one picture: a row with `num_columns` uniform frames, below it one row per model's attention.

    Each model has a separate scale, at the right.

    Args:
        frames: uint8 (T, H, W, 3).
        rows: label -> attention maps (T, rows, columns); the label may have several lines.
        seconds: time of each of the T frames, written above its column.
    """
    num_frames, height, width, _ = frames.shape
    num_columns = min(num_columns, num_frames)
    columns = [(2 * i + 1) * num_frames // (2 * num_columns) for i in range(num_columns)]  # centers of equal parts
    pictures = _pictures(frames, rows)
    label_width = max(text_width(label) for label in pictures) + 2 * _GAP
    lines = []
    if seconds is not None:
        times = [caption(f"{seconds[column]:.1f} s", _LINE, width) for column in columns]
        lines.append([caption("", _LINE, label_width), *times, caption("", _LINE, 4 * _BAR)])
    for label, picture in pictures.items():
        scale = color_bar(rows[label], height) if label in rows else caption("", height, 4 * _BAR)
        lines.append([caption(label, height, label_width), *(picture[column] for column in columns), scale])
    sheet = _join([_join(line, dim=1) for line in lines], dim=0)
    return Image.fromarray(F.pad(sheet, (0, 0, _GAP, _GAP, _GAP, _GAP), value=_PAPER).numpy())


def side_by_side(frames: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """Join frames (T, H, W, 3) with each model's overlay to their right, below captions: uint8 (T, H', W', 3)."""
    num_frames, _, width, _ = frames.shape
    height = _LINE * max(label.count("\n") + 1 for label in rows)
    panels = []
    for label, picture in _pictures(frames, rows).items():
        title = caption(label, height, width).expand(num_frames, -1, -1, -1)
        panels.append(torch.cat((title, picture), dim=1))
    return F.pad(_join(panels, dim=2), (0, 0, _GAP, _GAP, 0, _GAP), value=_PAPER)


def write_video(path: str | os.PathLike[str], frames: Tensor, fps: float) -> None:
    """Write uint8 frames (T, H, W, 3) as H.264 in yuv420p, for all players; odd sizes grow by one pixel."""
    pixels = np.pad(frames.numpy(), ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000), options={"crf": "16"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def load_models(
    model: str,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    compare: Sequence[str] = (),
    num_frames: int | None = None,
    img_size: int | None = None,
) -> dict[str, ZooModel]:
    """Load the models of a visualization, in eval mode and on the GPU if there is one: label -> model, `model` first.

    Args:
        model: a name of `svt_zoo.hub.entrypoints`, or one for `load_model` (a row of the table, a path, an address).
        weights: other weights for `model`, which is then an entry point or one of `list_models()`.
        pretrained: False gives random weights to entry points.
        compare: more models, as `model`; `dino` means the only row of that family with the size of `model`.
        num_frames, img_size: the clip, in frames and pixels; by default that of the weights.

    Raises:
        WeightsError: weights cannot be loaded or do not fit.
        ValueError: a model does not exist, or is given twice.
    """
    size = {"num_frames": num_frames, "img_size": img_size}
    options: dict[str, Any] = {name: value for name, value in size.items() if value is not None}
    models: dict[str, ZooModel] = {}
    for name in (model, *compare):
        file = None if models else weights
        if models:
            name = _full_name(name, size=models[next(iter(models))].meta["model"].split("_")[-1])
        label = "/\n".join(Path(name).parts[-2:])  # for a path, the folder is needed besides "model.safetensors"
        if name in entrypoints.__all__:
            network = getattr(entrypoints, name)(pretrained=pretrained, weights=file, **options)
            if not (pretrained or file):
                _log.warning("%s has random weights: its attention means nothing", name)
                label += "\n(random weights)"
        else:
            network = load_model(file or name, model=name if file else None, **options)
        if label in models:
            raise ValueError(f"{name} is asked for twice; compare different models")
        models[label] = network.eval().to(choose_device(None))
    return models


def _full_name(name: str, size: str) -> str:
    """The row that `name` is short for ("dino" -> "dino_vitb16" beside a "vitb"), or `name` itself."""
    rows = list_weights(f"{name}_{size}*")
    return rows[0] if len(rows) == 1 else name


def visualize_attention(
    path: str | os.PathLike[str],
    models: Mapping[str, ZooModel],
    output: str | os.PathLike[str],
    *,
    method: Method = "last",
    limits: Limits | None = None,
) -> tuple[Path, Path]:
    """Write the attention of `models` over the central clip of a video: `<output>.mp4` and `<output>.png`.

    The first model determines the frames and the crop; the others get the same ones, with their own normalization. The
    video is as long as the clip. Returns the two files; folders are created, older files replaced.

    Args:
        path: the video.
        models: label -> model with a clip specification, on any device.
        output: the files' common stem; in a folder (one that exists, or ends in `/`) they are named after the video.
        limits: as of `open_video`.

    Raises:
        VideoReadError: the video cannot be read.
        ValueError: a model without attention maps or clip specification, or an output that is the video itself.
    """
    is_folder = os.fspath(output).endswith("/") or Path(output).is_dir()
    stem = Path(output) / f"{Path(path).stem}_attention" if is_folder else Path(output)
    mp4, png = (stem.with_name(stem.name.removesuffix(".mp4").removesuffix(".png") + end) for end in (".mp4", ".png"))
    if mp4.resolve() == Path(path).resolve():
        raise ValueError(f"{mp4} is the video itself; choose another output")
    first = next(iter(models.values()))
    transform = _transform(first, like=first)
    with faults_as_read_errors(path), open_video(path, limits=limits) as video:
        indices = transform.clip_indices(video.num_frames, fps=video.fps)
        source = video.frames_at(indices)
        seconds = [video.pts[index] for index in indices]
        rate = transform.sampling_rate
        duration = min(video.duration, len(indices) * rate / transform.fps) if rate else video.duration
    clips = {label: _transform(model, like=first)(source) for label, model in models.items()}  # each (3, T, H, W)
    maps = {}
    for label, model in models.items():
        clip = clips[label].unsqueeze(0).to(next(model.parameters()))  # (1, 3, T, H, W)
        maps[label] = attention_maps(model, clip, method=method)[0].float().cpu()  # (T, rows, columns)
    frames = unnormalize(next(iter(clips.values())), transform)
    patch = backbone_of(first).patch_size
    covered = [side - side % patch for side in frames.shape[1:3]]  # the model does not see pixels outside its patches
    frames = frames[:, : covered[0], : covered[1]]
    enlarged = max(1, _SMALL // min(covered))
    frames = frames.repeat_interleave(enlarged, dim=1).repeat_interleave(enlarged, dim=2)
    mp4.parent.mkdir(parents=True, exist_ok=True)
    write_video(mp4, side_by_side(frames, maps), fps=len(frames) / duration)
    contact_sheet(frames, maps, seconds=seconds).save(png)
    return mp4, png


def _transform(model: ZooModel, like: ZooModel) -> EvalTransform:
    """The frames and the crop of `like`, with the model's own mean, std and order of channels."""
    geometry, own = vars(like.transforms()), vars(model.transforms())
    return EvalTransform(**{**geometry, **{key: own[key] for key in ("mean", "std", "channel_order")}})


def _pictures(frames: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"frames": frames} | {label: overlay(frames, maps) for label, maps in rows.items()}


def _join(pictures: Sequence[Tensor], dim: int) -> Tensor:
    """Join pictures along `dim`, with a gap between them."""
    shape = list(pictures[0].shape)
    shape[dim] = _GAP
    gap = torch.full(shape, _PAPER, dtype=torch.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return torch.cat(parts[1:], dim=dim)
