"""Builds a self-contained HTML page of texts and pictures."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple


class Picture(NamedTuple):
    """A PNG, and optionally a video (MP4) that plays to its left."""

    name: str
    png: bytes
    mp4: bytes = b""


class Section(NamedTuple):
    """A headline, a text below it, and pictures; several pictures have their names next to them."""

    title: str
    text: str
    pictures: Sequence[Picture]


def page(title: str, answer: str, sections: Sequence[Section], commands: str) -> str:
    """Build the page: title, result, sections, and the commands to try next; plain texts are escaped."""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style></head>
<body><main>
<h1>{html.escape(title)}</h1>
<p class="answer">{html.escape(answer)}</p>
{body}
<section><h2>What to do next</h2><pre>{html.escape(commands)}</pre></section>
</main></body></html>
"""


def _section(section: Section) -> str:
    figures = "\n".join(_figure(picture, caption=len(section.pictures) > 1) for picture in section.pictures)
    return f"<section><h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>\n{figures}</section>"


def _figure(picture: Picture, *, caption: bool) -> str:
    name = html.escape(picture.name)
    below = f"<figcaption>{name}</figcaption>" if caption else ""
    movie = f'<video autoplay loop muted playsinline src="{_data("video/mp4", picture.mp4)}"></video>'
    image = f'<img alt="{name}" src="{_data("image/png", picture.png)}">'
    return f"<figure>{below}{movie if picture.mp4 else ''}{image}</figure>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


_STYLE = """
body { margin: 0; background: #f3f4f6; color: #22272e; font: 17px/1.55 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 0 0 .4rem; }
.answer { font-size: 1.25rem; border-left: 6px solid #2a9d5c; padding: .2rem 0 .2rem 1rem; margin: 0 0 2rem; }
section { background: white; border-radius: 10px; padding: 1.3rem 1.6rem; margin: 1.2rem 0;
          box-shadow: 0 1px 3px rgba(0, 0, 0, .12); }
section p { margin: 0 0 .8rem; max-width: 46rem; }
figure { margin: .5rem 0; display: flex; align-items: center; gap: 1rem; }
figcaption { width: 9rem; flex: none; font-size: .95rem; overflow-wrap: anywhere; }
img { max-width: 100%; min-width: 0; }
video { height: 92px; border-radius: 6px; flex: none; }
pre { background: #22272e; color: #e6edf3; padding: 1rem; border-radius: 8px; overflow-x: auto; font-size: .85rem; }
"""
