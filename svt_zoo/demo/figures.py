"""Pictures of a report, as PNG: curves, bars, a confusion matrix, strips of frames, neighbors."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

_RIGHT, _WRONG, _PLAIN, _CHANCE = "#2a9d5c", "#c8442f", "#5b7db1", "#888888"
_NOTE = {"fontsize": 8, "color": _CHANCE, "ha": "right", "va": "bottom"}
_GAP, _FRAME = 3, 4  # pixels: gap between pictures, width of the colored border


class Strip(NamedTuple):
    """Frames of a video, uint8 (T, H, W, 3), and whether it is a correct answer; None if there is no answer."""

    frames: Tensor
    is_right: bool | None = None


def curves(metrics: Sequence[Mapping[str, float]], *, max_entropy: float) -> bytes:
    """Loss and entropy of the teacher's targets over the epochs, with the entropy of uniform targets."""
    figure = _figure(9, 2.8)
    for place, (name, title) in enumerate((("loss", "loss"), ("teacher_entropy", "entropy of the targets (nats)"))):
        axes = figure.add_subplot(1, 2, place + 1)
        points = [(line["epoch"], line[name]) for line in metrics if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=_PLAIN, linewidth=1.5)
        axes.axhline(max_entropy, color=_CHANCE, linestyle=":", linewidth=1)
        axes.text(0.99, max_entropy, "says nothing", transform=axes.get_yaxis_transform(), **_NOTE)
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def bars(scores: Sequence[tuple[str, float, float, float]], *, chance: float) -> bytes:
    """Draw a bar for each (name, percent, low, high), the last one in color, and a line at chance level."""
    figure = _figure(9, 0.6 + 0.6 * len(scores))
    axes = figure.add_subplot()
    for place, (_, percent, low, high) in enumerate(scores):
        colour = _RIGHT if place == len(scores) - 1 else "#b9c4d6"
        axes.barh(place, percent, color=colour, height=0.6)
        axes.plot((low, high), (place, place), color="#333333", linewidth=1.2)
        axes.text(high + 1.5, place, f"{percent:.0f} %", va="center", fontsize=12, fontweight="bold")
    axes.axvline(chance, color=_CHANCE, linestyle=":", linewidth=1.5)
    axes.text(chance, -0.45, "guessing", color=_CHANCE, fontsize=9, ha="center", va="bottom")
    axes.set_yticks(range(len(scores)), [name for name, *_ in scores], fontsize=11)
    axes.tick_params(left=False)
    axes.set(xlim=(0, 112), ylim=(len(scores) - 0.6, -0.8), xticks=[])
    axes.spines[:].set_visible(False)
    return _png(figure)


def confusion(matrix: Tensor, classes: Sequence[str]) -> bytes:
    """Draw predicted classes (columns) per true class (row), in percent of the row."""
    figure = _figure(2.4 + 0.7 * len(classes), 1.4 + 0.45 * len(classes))
    axes = figure.add_subplot()
    shares = (100 * matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*shares.shape):
        colour = "white" if shares[row, column] > 60 else "black"
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right", fontsize=9)
    axes.set_yticks(range(len(classes)), classes, fontsize=9)
    axes.set(xlabel="taken for", ylabel="is")
    return _png(figure)


def strip(frames: Tensor, side: int) -> bytes:
    """Frames (T, H, W, 3) next to each other, `side` pixels high."""
    return _image_png(_row([Strip(frames)], side))


def neighbours(rows: Sequence[tuple[Strip, Sequence[Strip]]], *, side: int = 48) -> bytes:
    """Draw a row per query: its frames, then its neighbors, with a green border if correct and a red one if not."""
    lines = []
    for query, found in rows:
        left, right = _row([query], side), _row(found, side)
        line = Image.new("RGB", (left.width + 5 * _GAP + right.width, left.height), "white")
        line.paste(left, (0, 0))
        line.paste(right, (left.width + 5 * _GAP, 0))
        lines.append(line)
    sheet = Image.new("RGB", (max(line.width for line in lines), sum(line.height + _GAP for line in lines)), "white")
    for place, line in enumerate(lines):
        sheet.paste(line, (0, place * (line.height + _GAP)))
    return _image_png(sheet)


def _row(strips: Sequence[Strip], side: int) -> Image.Image:
    """Join strips side by side, each with a colored border."""
    pictures = []
    for frames, is_right in strips:
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        images = [image.resize((round(side * image.width / image.height), side)) for image in images]
        width = sum(image.width for image in images) + len(images) - 1
        colour = "#dddddd" if is_right is None else _RIGHT if is_right else _WRONG
        picture = Image.new("RGB", (width + 2 * _FRAME, side + 2 * _FRAME), colour)
        left = _FRAME
        for image in images:
            picture.paste(image, (left, _FRAME))
            left += image.width + 1
        pictures.append(picture)
    row = Image.new("RGB", (sum(p.width + _GAP for p in pictures) - _GAP, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # slow to import (a second)

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _image_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
