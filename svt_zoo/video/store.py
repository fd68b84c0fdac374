"""Stored indexes: the format, and an optional folder where a long video is scanned once, not once per run.

The environment variable SVT_ZOO_VIDEO_INDEXES names the folder; without it nothing is stored there.
"""

import dataclasses
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..files import write_whole
from .packets import Packet, VideoIndex

VARIABLE = "SVT_ZOO_VIDEO_INDEXES"
_MIN_FRAMES = 5000  # a shorter video is scanned in a fraction of a second
NO_TIME = np.iinfo(np.int64).min
_VERSION = 1
_MAX_BYTES = 1 << 30  # of an index after decompression
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoredIndex:
    """An index and, if single packets are to be read from the file, what this needs.

    Attributes:
        index: the result of scanning the file.
        decoder: the properties of the decoder that the file's header states.
        places: `offset`, `size` (bytes), `crc` (CRC-32) and `pts` of each packet in decoding order.
    """

    index: VideoIndex
    decoder: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The content of an index file: a JSON header and columns of integers, compressed."""
        index, packets = self.index, self.index.packets or ()
        header = {f.name: getattr(index, f.name) for f in dataclasses.fields(index) if f.name not in ("pts", "packets")}
        columns = {
            "frames": np.array(index.pts, np.int64),
            "times": np.array([NO_TIME if p.pts is None else p.pts for p in packets], np.int64),
            "flags": np.array([p.shown + 2 * p.restart for p in packets], np.int64),
            **self.places,
        }
        header |= {"version": _VERSION, "time_base": str(index.time_base), "has_packets": index.packets is not None}
        header |= {"decoder": self.decoder, "columns": {name: len(column) for name, column in columns.items()}}
        # Differences, and first the lowest byte of each: most bytes are zeros.
        parts = (
            np.diff(column, prepend=0).astype("<i8").view(np.uint8).reshape(-1, 8).T for column in columns.values()
        )
        return zlib.compress(json.dumps(header).encode() + b"\n" + b"".join(part.tobytes() for part in parts), 9)

    @staticmethod
    def from_bytes(content: bytes) -> "StoredIndex":
        """Reads the content of an index file; ValueError if it is damaged or of another version."""
        try:
            text, _, rest = zlib.decompressobj().decompress(content, _MAX_BYTES).partition(b"\n")
            header = json.loads(text)
            if header.pop("version") != _VERSION:
                raise ValueError("it was made by another version of svt_zoo")
            columns, start = {}, 0
            for name, length in header.pop("columns").items():
                data = np.frombuffer(rest, np.uint8, 8 * length, start).reshape(8, -1)
                columns[name] = np.ascontiguousarray(data.T).view("<i8").ravel().cumsum(dtype=np.int64)
                start += 8 * length
            flags, times = columns.pop("flags").tolist(), columns.pop("times").tolist()
            packets = tuple(
                Packet(None if time == NO_TIME else time, bool(flag & 1), bool(flag & 2))
                for time, flag in zip(times, flags, strict=True)
            )
            header |= {"pts": tuple(columns.pop("frames").tolist()), "time_base": Fraction(header["time_base"])}
            header |= {"packets": packets if header.pop("has_packets") else None}
            header["orientation"] = tuple(header["orientation"])
            decoder = header.pop("decoder")
            return StoredIndex(VideoIndex(**header), decoder, columns)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"this stored index cannot be read ({error})") from error


def load_index(path: str, stream: int | None) -> VideoIndex | None:
    """The stored index of a file that has not changed since (its path, size and time); None if there is none."""
    file = _file_of(path, stream)
    if file is None or not file.is_file():
        return None
    try:
        return StoredIndex.from_bytes(file.read_bytes()).index
    except (OSError, ValueError) as error:
        _log.warning("%s: %s; the video is scanned again", file, error)
        return None


def save_index(path: str, stream: int | None, index: VideoIndex) -> None:
    """Store the index of a long video, if there is a folder for it; a folder that cannot be written is only logged."""
    file = _file_of(path, stream)
    if file is None or len(index.pts) < _MIN_FRAMES:
        return
    try:
        write_whole(file, StoredIndex(index).to_bytes())
    except OSError as error:
        _log.warning("%s: the index of %s cannot be stored (%s)", file, path, error)


def _file_of(path: str, stream: int | None) -> Path | None:
    """Where the index of a file in its present state belongs. Another PyAV may decode other frames."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    status = os.stat(path)
    key = [os.path.abspath(path), status.st_size, status.st_mtime_ns, stream, av.__version__]
    return Path(folder, hashlib.sha256(os.fsencode(json.dumps(key))).hexdigest()[:32] + ".index")
