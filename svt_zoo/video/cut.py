"""Files that were cut, for example by a broken download: they are shorter than their container states."""

import os
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MP4_BOXES = {b"ftyp", b"styp", b"sidx", b"moov", b"moof", b"mfra", b"mdat", b"free", b"skip", b"wide", b"uuid"}


def ends_early(path: str) -> bool:
    """Whether a Matroska, AVI or MP4 file has fewer bytes than it states, or MPEG-TS ends inside a packet."""
    total = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        head = file.read(1024)
        for start, size in ((0, 188), (4, 192)):  # MPEG-TS, M2TS: each packet has the same first byte
            if len(head) == 1024 and set(head[start::size]) == {0x47}:
                return total % size > 0
        return (_matroska_end(head) if head.startswith(_EBML) else _chunks_end(file, total)) > total


def _matroska_end(head: bytes) -> int:
    length, size = _variable_length(head[4:])
    start = 4 + length + size
    if head[start : start + 4] != _SEGMENT:
        return 0
    length, size = _variable_length(head[start + 4 :])
    unknown = (1 << 7 * length) - 1  # a live recording
    return 0 if size == unknown else start + 4 + length + size


def _variable_length(data: bytes) -> tuple[int, int]:
    """The length of a Matroska number in bytes, and the number (RFC 8794, section 4)."""
    length = 9 - data[0].bit_length() if data else 1
    return length, int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1


def _chunks_end(file: BinaryIO, total: int) -> int:
    """The end of the last RIFF chunk or MP4 box that starts in the file, or that an MP4's index of segments lists."""
    end = listed = 0
    while end < total:
        file.seek(end)
        head = file.read(16)
        if head.startswith(b"RIFF"):
            size = int.from_bytes(head[4:8], "little")
            size += 8 if size else 0
        elif head[4:8] in _MP4_BOXES:
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:16], "big") if size == 1 else size
        else:
            return 0
        if size < 8:  # not stated, or nonsense
            return 0
        end += size
        if head[4:8] == b"sidx" and len(head) == 16 < size:  # ISO/IEC 14496-12, 8.16.3
            version, body = head[8], file.read(min(size, 1 << 20) - 16)  # from the time scale on
            offset = int.from_bytes(body[12:20] if version else body[8:12], "big")
            entries = body[24 if version else 16 :]
            sizes = (int.from_bytes(entries[i : i + 4], "big") & 0x7FFFFFFF for i in range(0, len(entries) - 11, 12))
            listed = max(listed, end + offset + sum(sizes))
    return max(end, listed)
