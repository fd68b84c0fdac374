"""File names as printable text: for one line of a terminal, and for captions in pictures."""

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_FONT_SIZE, _MARGIN = 16, 8  # pixels
_INK, _PAPER = 40, 255
_FONT = Path("fonts", "ttf", "DejaVuSans.ttf")  # from matplotlib; has Latin, Greek, Cyrillic and more


def printable(text: str) -> str:
    """The text in one line: line ends, control characters and undecodable bytes become escapes such as `\\n`."""
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def drawable(text: str) -> str:
    """As `printable`; characters that the font lacks also become escapes."""
    letters = _letters()
    return "".join(letter if ord(letter) in letters else _escape(letter) for letter in printable(text))


def caption(text: str, height: int, width: int) -> Tensor:
    """Draw text in the center of an empty picture, reduced if necessary to fit: uint8 (height, width, 3)."""
    text = "\n".join(map(drawable, text.split("\n")))
    image = Image.new("L", (width, height), _PAPER)
    size = min(_FONT_SIZE, _FONT_SIZE * (width - _MARGIN) / max(1, text_width(text)))
    middle = (width // 2, height // 2)
    ImageDraw.Draw(image).multiline_text(middle, text, fill=_INK, anchor="mm", align="center", font=font(size))
    return torch.from_numpy(np.array(image)).unsqueeze(-1).repeat(1, 1, 3)


def text_width(text: str) -> int:
    """Width of the longest line, in pixels."""
    return max(round(font(_FONT_SIZE).getlength(drawable(line))) for line in text.split("\n"))


@lru_cache(maxsize=32)
def font(size: float) -> ImageFont.FreeTypeFont:
    """Load the font of captions; `size` is in pixels."""
    return ImageFont.truetype(Path(get_data_path()) / _FONT, size)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(Path(get_data_path()) / _FONT)).get_charmap())


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
