"""Names of files as text: in one line of a terminal, and in letters that a picture can show."""

from functools import cache, lru_cache
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

_FONT = Path("fonts", "ttf", "DejaVuSans.ttf")  # Latin, Greek, Cyrillic and more come with matplotlib


def printable(text: str) -> str:
    """The text in one line: line ends, control characters and stray bytes become escapes such as `\\n`."""
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def drawable(text: str) -> str:
    """As `printable`, and letters that the font lacks become escapes, too."""
    letters = _letters()
    return "".join(letter if ord(letter) in letters else _escape(letter) for letter in printable(text))


@lru_cache(maxsize=32)
def font(size: float) -> ImageFont.FreeTypeFont:
    """The font of captions; `size` is in pixels."""
    return ImageFont.truetype(Path(get_data_path()) / _FONT, size)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(Path(get_data_path()) / _FONT)).get_charmap())


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
