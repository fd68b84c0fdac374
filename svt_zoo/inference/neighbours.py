"""Draws a query and its nearest neighbors as one picture."""

import os
from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image, ImageDraw

from ..data.datasets import FrameReader, frame_range
from ..data.lists import Row
from ..data.sampling import uniform_clip
from ..video import Limits, VideoReadError
from .captions import drawable, font
from .feature_table import FeatureTable
from .search import Neighbour, frame_rate_of, open_query

_HEIGHT, _GAP, _FONT_SIZE = 128, 6, 14  # pixels
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def neighbour_sheet(
    table: FeatureTable,
    query: str | os.PathLike[str],
    neighbours: Sequence[Neighbour],
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    num_frames: int = 4,
    limits: Limits | None = None,
) -> Image.Image:
    """Draw frames of the query, and below them those of each neighbor with its similarity and name.

    A neighbor without its file is shown as a caption only. `limits` applies to the query, as in `open_video`.
    """
    part = f", {start_sec or 0:.1f} to {end_sec:.1f} s" if end_sec is not None else ""
    strips = [(f"query: {os.path.basename(query)}{part}", Row(os.fspath(query), start_sec=start_sec, end_sec=end_sec))]
    for rank, (similarity, row) in enumerate(neighbours, start=1):
        caption = f"{rank}.  {similarity:.3f}  {row.video}, {row.start_sec:.1f} to {row.end_sec:.1f} s"
        strips.append((caption, Row(table.locate(row.video), start_sec=row.start_sec, end_sec=row.end_sec)))
    opener = partial(open_query, frame_rate=frame_rate_of(table))
    pictures = [_strip(*strips[0], num_frames, partial(opener, limits=limits))]
    pictures += [_strip(*strip, num_frames, opener) for strip in strips[1:]]
    width, height = max(picture.width for picture in pictures), sum(picture.height + _GAP for picture in pictures)
    sheet = Image.new("RGB", (width + 2 * _GAP, height + _GAP), _PAPER)
    top = _GAP
    for picture in pictures:
        sheet.paste(picture, (_GAP, top))
        top += picture.height + _GAP
    return sheet


def _strip(caption: str, row: Row, num_frames: int, opener: Callable[[Row], FrameReader]) -> Image.Image:
    """Draw the frames of a row side by side, below a caption."""
    try:
        frames = _frames(row, num_frames, opener)
    except VideoReadError as error:
        frames, caption = [], f"{caption}: {error.reason}"
    caption, letters = drawable(caption), font(_FONT_SIZE)
    line = _FONT_SIZE + _GAP
    width = max(sum(frame.width + _GAP for frame in frames), round(letters.getlength(caption)) + 1)
    strip = Image.new("RGB", (width, line + (_HEIGHT if frames else 0)), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), caption, fill=_INK, font=letters)
    left = 0
    for frame in frames:
        strip.paste(frame, (left, line))
        left += frame.width + _GAP
    return strip


def _frames(row: Row, num_frames: int, opener: Callable[[Row], FrameReader]) -> list[Image.Image]:
    with opener(row) as reader:
        first, last = frame_range(row, reader)
        numbers = sorted(set(uniform_clip(last - first, num_frames)))
        frames = reader.frames_at([first + number for number in numbers]).numpy()  # (n, H, W, 3)
    width = round(_HEIGHT * frames.shape[2] / frames.shape[1])
    return [Image.fromarray(frame).resize((width, _HEIGHT)) for frame in frames]
