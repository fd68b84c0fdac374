"""What a file is, from its first bytes."""

import os
import re

_KINDS = {
    rb"<": "an HTML or XML page, such as a sign-in or error page",
    rb"version https://git-lfs": "a Git LFS pointer, the file itself was not fetched (git lfs pull)",
    rb"\x1f\x8b": "compressed by gzip; unpack it first",
    rb"\x89PNG|\xff\xd8\xff|BM|II\*\0|MM\0\*|RIFF....WEBP": "an image; a folder of images can be read as a video",
    rb"RIFF....WAVE|ID3|fLaC": "a sound file",
    rb"#EXTM3U|ffconcat": "a playlist; fetch the video that it names",
    rb"v=0\s": "a description of a stream (SDP); record the stream to a file",
    rb"WEBVTT|\[Script Info\]|\d+\s+[\d:,]+ -->": "subtitles",
    rb"[{\[]": "a JSON file",
}


def foreign_kind(path: str | os.PathLike[str]) -> str | None:
    """What a file is that is neither video nor weights, from its first bytes, and what to do; None if unknown."""
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip()
    except OSError:
        return None
    return next((kind for pattern, kind in _KINDS.items() if re.match(pattern, start, re.DOTALL)), None)
