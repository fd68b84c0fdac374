"""Pictures with file names in them: captions, and sheets of neighbors, of duplicates and of training views."""

import os
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.augment import Augment
from ..data.datasets import FrameReader, VideoDataset, frame_range
from ..data.list_formats import escape, printable
from ..data.lists import Row
from ..data.loader import collate
from ..data.sampling import uniform_clip
from ..evaluation.views import faults_as_read_errors
from ..video import Limits, VideoReadError
from .dedup import Duplicates
from .feature_table import FeatureTable
from .search import Neighbor, frame_rate_of, open_query

_FONT_SIZE, _MARGIN, _GAP = 16, 8, 6  # pixels
_HEIGHT = 128  # pixels, of the frames in a sheet
_INK, _PAPER = 40, 255
_FONT = Path("fonts", "ttf", "DejaVuSans.ttf")  # from matplotlib; has Latin, Greek, Cyrillic and more


def caption(text: str, height: int, width: int) -> Tensor:
    """Draw text in the center of an empty picture, reduced if necessary to fit: uint8 (height, width, 3)."""
    text = "\n".join(map(drawable, text.split("\n")))
    image = Image.new("L", (width, height), _PAPER)
    size = min(_FONT_SIZE, _FONT_SIZE * (width - _MARGIN) / max(1, text_width(text)))
    middle = (width // 2, height // 2)
    ImageDraw.Draw(image).multiline_text(middle, text, fill=_INK, anchor="mm", align="center", font=_font(size))
    return torch.from_numpy(np.array(image)).unsqueeze(-1).repeat(1, 1, 3)


def text_width(text: str) -> int:
    """Width of the longest line, in pixels."""
    return max(round(_font(_FONT_SIZE).getlength(drawable(line))) for line in text.split("\n"))


def drawable(text: str) -> str:
    """As `printable`; characters that the font lacks also become escapes."""
    letters = _letters()
    return "".join(letter if ord(letter) in letters else escape(letter) for letter in printable(text))


@lru_cache(maxsize=32)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path()) / _FONT, size)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(Path(get_data_path()) / _FONT)).get_charmap())


def neighbor_sheet(
    table: FeatureTable,
    query: str | os.PathLike[str],
    neighbors: Sequence[Neighbor],
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    num_frames: int = 4,
    limits: Limits | None = None,
) -> Image.Image:
    """Draw frames of the query, and below them those of each neighbor with its similarity and name.

    A neighbor without its file is shown as a caption only. `limits` applies to the query, as in `open_video`.
    """
    opener = partial(open_query, frame_rate=frame_rate_of(table))
    part = f", {start_sec or 0:.1f} to {end_sec:.1f} s" if end_sec is not None else ""
    row = Row(os.fspath(query), start_sec=start_sec, end_sec=end_sec)
    strips = [_strip(f"query: {os.path.basename(query)}{part}", row, num_frames, partial(opener, limits=limits))]
    for rank, (similarity, neighbor) in enumerate(neighbors, start=1):
        video, start, end, _ = neighbor
        title = f"{rank}.  {similarity:.3f}  {video}, {start:.1f} to {end:.1f} s"
        strips.append(_strip(title, Row(table.locate(video), start_sec=start, end_sec=end), num_frames, opener))
    return paste(strips, vertical=True, margin=_GAP)


def duplicate_sheet(table: FeatureTable, found: Duplicates, *, most: int = 12, num_frames: int = 4) -> Image.Image:
    """Draw pairs of a kept and a removed row below each other: at most `most`, from the most to the least similar."""
    order = found.similarity.argsort()[::-1]
    order = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    opener = partial(open_query, frame_rate=frame_rate_of(table))
    strips = []
    for i in order:
        for name, number in (("kept", found.kept[i]), (f"{found.similarity[i]:.4f}  removed", found.removed[i])):
            [(video, start, end, _)] = table.rows([number])
            title = f"{name}: {video}, {start:.1f} to {end:.1f} s"
            strips.append(_strip(title, Row(table.locate(video), start_sec=start, end_sec=end), num_frames, opener))
    return paste(strips, vertical=True, margin=_GAP)


def preview_sheet(dataset: VideoDataset, indices: Sequence[int], augment: Augment, *, side: int = 96) -> Image.Image:
    """Draw the augmented views of some training videos, one row per view; the largest is `side` pixels high.

    Raises:
        VideoReadError: a video cannot be read.
    """
    rows = []
    for index in indices:
        sample = dataset[0, index]
        if sample["failures"]:
            raise VideoReadError(*sample["failures"][0])
        batch = collate([sample])
        largest = max(view.shape[2] for view in batch.views)
        for i, (view, params) in enumerate(zip(batch.views, batch.params, strict=True)):
            kind = "clip" if len(batch.views) == 1 else "global view" if i < 2 else "local view"
            number = i - 1 if kind == "local view" else i + 1
            _, num_frames, height, width, _ = view.shape
            title = f"{Path(batch.names[0]).name}: {kind} {number}, {num_frames} frames of {height}x{width}"
            pixels = augment(view, params)[0] * augment.std + augment.mean  # (3, T, H, W)
            frames = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 3, 0)
            rows.append(_titled(title, frames, max(24, round(side * height / largest))))
    return paste(rows, vertical=True, margin=_GAP)


def _strip(title: str, row: Row, num_frames: int, opener: Callable[[Row], FrameReader]) -> Image.Image:
    """Draw the frames of a row side by side, below a title."""
    try:
        with faults_as_read_errors(row.path), opener(row) as reader:
            first, last = frame_range(row, reader)
            numbers = sorted(set(uniform_clip(last - first, num_frames)))
            return _titled(title, reader.frames_at([first + number for number in numbers]), _HEIGHT)
    except VideoReadError as error:
        return _titled(f"{title}: {error.reason}", torch.empty(0), 0)


def _titled(title: str, frames: Tensor, height: int) -> Image.Image:
    """Draw frames uint8 (T, H, W, 3), `height` pixels high, side by side, below a title."""
    pictures = [Image.fromarray(frame) for frame in frames.numpy()]
    pictures = [picture.resize((round(height * picture.width / picture.height), height)) for picture in pictures]
    line = Image.new("RGB", (text_width(title) + 1, _FONT_SIZE + _GAP), (_PAPER,) * 3)
    ImageDraw.Draw(line).text((0, 0), drawable(title), fill=(_INK,) * 3, font=_font(_FONT_SIZE))
    return paste([line, paste(pictures)], vertical=True, gap=0) if pictures else line


def paste(pictures: Sequence[Image.Image], *, vertical: bool = False, gap: int = _GAP, margin: int = 0) -> Image.Image:
    """Join pictures from left to right, or from top to bottom."""
    space = gap * (len(pictures) - 1) + 2 * margin
    widths, heights = [picture.width for picture in pictures], [picture.height for picture in pictures]
    if vertical:
        size = max(widths) + 2 * margin, sum(heights) + space
    else:
        size = sum(widths) + space, max(heights) + 2 * margin
    sheet = Image.new("RGB", size, (_PAPER,) * 3)
    left = top = margin
    for picture in pictures:
        sheet.paste(picture, (left, top))
        if vertical:
            top += picture.height + gap
        else:
            left += picture.width + gap
    return sheet
