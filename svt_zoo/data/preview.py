"""An image of a recipe's training views: one row per view, with all frames."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..video import VideoReadError
from .augment import Augment
from .datasets import VideoDataset
from .loader import collate

_LABEL = 18  # pixels above each row


def augmented_views(dataset: VideoDataset, index: int, augment: Augment, *, epoch: int = 0) -> list[Tensor]:
    """The network's input for video `index`: normalized views (3, T, H, W).

    Raises:
        VideoReadError: the video cannot be read.
    """
    sample = dataset[epoch, index]
    if sample["failures"]:
        raise VideoReadError(*sample["failures"][0])
    batch = collate([sample])
    return [augment(view, params)[0] for view, params in zip(batch.views, batch.params, strict=True)]


def preview_sheet(
    dataset: VideoDataset, indices: Sequence[int], augment: Augment, *, mean: Sequence[float], std: Sequence[float]
) -> Image.Image:
    """Draws the views of some training videos, one video below another. Raises the errors of `augmented_views`."""
    sheets = []
    for index in indices:
        views = augmented_views(dataset, index, augment)
        video = Path(dataset.videos.rows[index].path).name
        kinds = ["clip"] if len(views) == 1 else ["global view"] * 2 + ["local view"] * (len(views) - 2)
        names = [
            f"{video}: {kind} {i + 1}, {view.shape[1]} frames of {view.shape[2]}x{view.shape[3]}"
            for i, (kind, view) in enumerate(zip(kinds, views, strict=True))
        ]
        sheets.append(views_sheet(views, names=names, mean=mean, std=std))
    picture = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    for i, sheet in enumerate(sheets):
        picture.paste(sheet, (0, sum(s.height for s in sheets[:i])))
    return picture


def views_sheet(
    views: Sequence[Tensor], *, names: Sequence[str], mean: Sequence[float], std: Sequence[float], side: int = 96
) -> Image.Image:
    """Draws one row per view, frames from left to right, in proportional sizes (the largest is `side` pixels high).

    Args:
        views: normalized views (3, T, H, W).
        names: text above each row.
        mean, std: of the normalization, which is undone.
        side: height of the largest view in the image, in pixels.
    """
    largest = max(view.shape[-2] for view in views)
    scale = torch.tensor(std).view(3, 1, 1, 1), torch.tensor(mean).view(3, 1, 1, 1)
    rows = []
    for view in views:
        pixels = (view.cpu() * scale[0] + scale[1]).clamp(0, 1).mul(255).round().byte()  # (3, T, H, W)
        height = max(24, round(side * view.shape[-2] / largest))
        width = round(height * view.shape[-1] / view.shape[-2])
        frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in pixels.unbind(1)]
        rows.append([frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames])
    width = max(sum(frame.width + 2 for frame in row) for row in rows)
    sheet = Image.new("RGB", (width + 8, sum(row[0].height + _LABEL for row in rows) + 8), "white")
    draw, top = ImageDraw.Draw(sheet), 4
    for name, row in zip(names, rows, strict=True):
        draw.text((4, top + 3), name, fill="black")
        for place, frame in enumerate(row):
            sheet.paste(frame, (4 + place * (frame.width + 2), top + _LABEL))
        top += row[0].height + _LABEL
    return sheet
