"""An optional folder of indexes: a long video is scanned once, not once per run.

The environment variable SVT_ZOO_VIDEO_INDEXES names the folder; without it nothing is stored.
"""

import dataclasses
import hashlib
import json
import logging
import os
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..files import atomic
from .packets import Packet, VideoIndex

VARIABLE = "SVT_ZOO_VIDEO_INDEXES"
_MIN_FRAMES = 5000  # a shorter video is scanned in a fraction of a second
_NO_TIME = np.iinfo(np.int64).min
_log = logging.getLogger(__name__)


def load_index(path: str, stream: int | None) -> VideoIndex | None:
    """The stored index of a file that has not changed since (its path, size and time); None if there is none."""
    file = _file_of(path, stream)
    if file is None or not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            times, flags = stored["packets"].tolist(), stored["flags"].tolist()
            header |= {"pts": tuple(stored["pts"].tolist()), "time_base": Fraction(header["time_base"])}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: this stored index cannot be read (%s); the video is scanned again", file, error)
        return None
    header["orientation"] = tuple(header["orientation"])
    packets = (
        Packet(None if time == _NO_TIME else time, bool(flag & 1), bool(flag & 2))
        for time, flag in zip(times, flags, strict=True)
    )
    has_packets = header.pop("has_packets")
    return VideoIndex(**header, packets=tuple(packets) if has_packets else None)


def save_index(path: str, stream: int | None, index: VideoIndex) -> None:
    """Store the index of a long video, if there is a folder for it; a folder that cannot be written is only logged."""
    file = _file_of(path, stream)
    if file is None or len(index.pts) < _MIN_FRAMES:
        return
    options = {f.name: getattr(index, f.name) for f in dataclasses.fields(index) if f.name not in ("pts", "packets")}
    options |= {"time_base": str(index.time_base), "has_packets": index.packets is not None}
    packets = index.packets or ()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as part, part.open("wb") as output:
            np.savez(
                output,
                header=np.array(json.dumps(options)),
                pts=np.array(index.pts, np.int64),
                packets=np.array([_NO_TIME if p.pts is None else p.pts for p in packets], np.int64),
                flags=np.array([p.shown + 2 * p.restart for p in packets], np.uint8),
            )
    except OSError as error:
        _log.warning("%s: the index of %s cannot be stored (%s)", file, path, error)


def _file_of(path: str, stream: int | None) -> Path | None:
    """Where the index of a file in its present state belongs. Another PyAV may decode other frames."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    status = os.stat(path)
    key = [os.path.abspath(path), status.st_size, status.st_mtime_ns, stream, av.__version__]
    return Path(folder, hashlib.sha256(os.fsencode(json.dumps(key))).hexdigest()[:32] + ".npz")
