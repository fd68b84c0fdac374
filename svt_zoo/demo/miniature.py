"""Makes a small copy of a user's videos: a few hundred at most, re-encoded, and split into two lists."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from ..data.encode import Encoding
from ..data.lists import VideoList, read_list
from ..data.prepare import prepare_videos

_log = logging.getLogger(__name__)
_HELD_OUT = 0.25  # fraction of the groups of a class


def make_miniature(
    source: str | os.PathLike[str], output: Path, *, limit: int = 300, short_side: int = 64, workers: int = 0
) -> tuple[VideoList, VideoList | None]:
    """Make small copies of up to `limit` videos: a training list and, if they have classes, a validation list.

    `part` selects the validation videos. A stopped run continues.

    Args:
        source: a list or a folder, in any format of `read_list`.
        output: another folder.
        limit: maximum number of videos; a larger list is reduced to a fixed random choice.
        short_side: short side of the copies, in pixels.
        workers: processes that re-encode; 0 works in this one.

    Raises:
        ListError: there are no videos, or the list is invalid.
        ValueError: fewer than two of the videos can be read.
    """
    videos = read_list(source)
    if len(videos) > limit:
        _log.info("%s has %d videos; %d of them are used", source, len(videos), limit)
        videos = videos.subset(limit)
    encoding = Encoding(short_side=short_side)
    made = prepare_videos(videos, output, encoding, workers=workers)
    for failure in made.failures:
        _log.warning("%s is left out, because it cannot be read: %s", *failure)
    if len(made.videos) < 2:
        raise ValueError(f"{source}: {len(made.videos)} of {len(videos)} videos can be read, the demo needs 2 and more")
    written = {os.path.realpath(output / video.output) for video in made.videos}
    copies = read_list(made.list)
    copies = replace(copies, rows=tuple(row for row in copies.rows if os.path.realpath(row.path) in written))
    return part(copies)


def part(videos: VideoList) -> tuple[VideoList, VideoList | None]:
    """Split videos into training and held-out ones: a quarter of each class; groups stay together.

    Holds out nothing (None) if there are fewer than two classes, a video has no label, or a class has only one group.
    """
    groups: dict[int | None, set[str]] = {}
    for row in videos.rows:
        groups.setdefault(row.label, set()).add(row.group or row.path)
    if len(groups) < 2 or None in groups or min(map(len, groups.values())) < 2:
        return videos, None
    return videos.hold_out(_HELD_OUT)
