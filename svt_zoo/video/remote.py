"""Videos in an object store or on a web server: an index beside each file names the packets that a request needs.

Only these packets are fetched, and nothing is written to disk. The decoder gets the same packets as from a local file.
Each packet is compared with its checksum in the index. Frames are those of the local file, or the request fails.
"""

import mmap
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from .decode import Actions, Source, Step, decode_frames, open_source
from .errors import Limits, VideoReadError
from .index import check_duration, scan
from .ranges import merge_ranges, read_file, read_ranges
from .reader import EncodedVideo, check_file
from .store import NO_TIME, StoredIndex

_CHUNK = 32 << 20  # bytes of packets that are in memory at a time
# What a header states about the stream, beside `extradata`. Without the colors, frames would be converted differently.
_PROPERTIES = ("width", "height", "pix_fmt", "color_range", "color_primaries", "color_trc", "colorspace")
_AGAIN = "the file has changed since it was indexed, or the server ignores ranges; run `svt-zoo index --again`"

Fetch = Callable[[Sequence[tuple[int, int]]], list[bytes]]


def index_name(path: str) -> str:
    """The path or URL of a video's index: `.index` is appended, before the query of a URL."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    return f"{base}.index{mark}{query}"


def open_remote(url: str, *, limits: Limits | None = None) -> "RemoteVideo":
    """Opens a video by its index beside it.

    Raises:
        FileNotFoundError, PermissionError, ImportError, ValueError: there is no index, or the scheme is not known.
        VideoReadError: the index cannot be fetched or read, or the video exceeds the limits.
    """
    limits = limits or Limits()
    name = index_name(url)
    try:
        content = read_file(name)
    except (FileNotFoundError, PermissionError, ImportError, ValueError):
        raise
    except Exception as error:
        raise VideoReadError(url, f"its index cannot be fetched ({type(error).__name__}: {error})") from error
    try:
        stored = StoredIndex.from_bytes(content)
    except ValueError as error:
        raise VideoReadError(url, f"{name}: {error}; run `svt-zoo index --again`") from error
    index = stored.index
    check_duration(url, (index.end - index.pts[0]) * index.time_base, limits)
    if index.height * index.width > limits.max_pixels:
        size = f"{index.width}x{index.height}"
        raise VideoReadError(url, f"frames of {size} pixels, more than the {limits.max_pixels} of Limits.max_pixels")
    return RemoteVideo(url, stored, limits)


class RemoteVideo(EncodedVideo):
    """A video in an object store. Made by `open_remote`; see `EncodedVideo`."""

    def __init__(self, url: str, stored: StoredIndex, limits: Limits) -> None:
        super().__init__(url, stored.index, None, limits=limits)
        self._stored = stored

    def prefetch(self, indices: Iterable[int]) -> None:
        """Fetches the packets of these frames, up to 32 MB, for the next request."""
        source = self._open()
        source.prefetch(self._index.actions(indices))
        self._source = source

    def _open(self) -> "PacketSource":
        return PacketSource(self.path, self._stored, self._limits, lambda ranges: read_ranges(self.path, ranges))


class PacketSource(Source):
    """A stream whose packets are fetched one by one; `fetch` returns the bytes of ranges of the file."""

    def __init__(self, path: str, stored: StoredIndex, limits: Limits, fetch: Fetch) -> None:
        self.path, self.limits, self.number = path, limits, stored.index.stream
        self.stored, self._fetch = stored, fetch
        self._ready: tuple[list[int], list[bytes]] | None = None
        decoder = dict(stored.decoder)
        try:
            self.codec = VideoCodecContext.create(decoder.pop("codec"), "r")
            self.codec.extradata = b64decode(decoder.pop("extradata")) or None
            for name, value in decoder.items():
                setattr(self.codec, name, value)
        except (KeyError, ValueError, TypeError) as error:
            raise VideoReadError(path, f"its index does not fit this FFmpeg ({error}); {_AGAIN}") from error
        self.codec.thread_type, self.codec.thread_count = "NONE", 1
        self.codec.options = {"max_pixels": str(limits.max_pixels)}

    def prefetch(self, actions: Actions | None) -> None:
        """Fetches the first chunk of the packets of a plan."""
        chunk = next(self._chunks(actions), None)
        if chunk:
            self._ready = chunk, self._contents(chunk)

    def read(self, actions: Actions | None) -> Iterator[Step]:
        """As in `Source`; a packet that is not decoded comes as None and is not fetched."""
        times = self.stored.places["pts"]
        position = 0
        for chunk in self._chunks(actions):
            ready, self._ready = self._ready, None
            contents = ready[1] if ready and ready[0] == chunk else self._contents(chunk)
            for number, content in zip(chunk, contents, strict=True):
                yield from ((None, None) for _ in range(position, number))
                packet: Any = av.Packet(len(content))  # av.Packet(content) would lack the padding that decoders read
                packet.update(content)
                packet.pts = None if times[number] == NO_TIME else int(times[number])
                packet.time_base = self.stored.index.time_base
                yield "DEFAULT" if actions is None else actions[number], packet
                position = number + 1

    def reopen(self) -> "PacketSource":
        """The same stream from its start."""
        return PacketSource(self.path, self.stored, self.limits, self._fetch)

    def close(self) -> None:
        """Frees the prefetched packets."""
        self._ready = None

    def _chunks(self, actions: Actions | None) -> Iterator[list[int]]:
        """The numbers of the packets to decode, in groups of at most `_CHUNK` bytes."""
        sizes = self.stored.places["size"]
        chunk: list[int] = []
        total = 0
        for number in range(len(sizes) if actions is None else len(actions)):
            if actions is None or actions[number] is not None:
                if chunk and total + sizes[number] > _CHUNK:
                    yield chunk
                    chunk, total = [], 0
                chunk.append(number)
                total += int(sizes[number])
        if chunk:
            yield chunk

    def _contents(self, numbers: list[int]) -> list[bytes]:
        """The bytes of these packets, compared with their checksums."""
        offsets, sizes, checksums = (self.stored.places[name][numbers] for name in ("offset", "size", "crc"))
        ranges = merge_ranges(offsets, sizes)
        try:
            parts = self._fetch(ranges)
        except Exception as error:  # file systems raise different error types
            raise VideoReadError(self.path, f"cannot be fetched ({type(error).__name__}: {error})") from error
        starts = np.array([start for start, _ in ranges])
        contents = []
        for i, offset in enumerate(offsets.tolist()):
            part = int(np.searchsorted(starts, offset, side="right")) - 1
            begin = offset - ranges[part][0]
            content = parts[part][begin : begin + int(sizes[i])]
            if zlib.crc32(content) != checksums[i]:
                raise VideoReadError(
                    self.path, f"packet {numbers[i]} at byte {offset} is not the indexed one: {_AGAIN}"
                )
            contents.append(content)
        return contents


def build_index(path: str, *, limits: Limits | None = None) -> StoredIndex:
    """Makes the index of a local file. Decodes it twice, to check that single packets give the same frames.

    Raises:
        VideoReadError: the file cannot be read, or its packets are not stored in one piece (MPEG program streams).
    """
    limits = limits or Limits()
    check_file(path)
    index, opened = scan(path, limits)
    if opened is not None:
        opened.close()
    with closing(open_source(path, limits, index.stream)) as source:
        codec = source.codec
        decoder = {name: getattr(codec, name) for name in (*_PROPERTIES, "reorder_depth", "codec_tag")}
        decoder |= {"codec": codec.codec.name, "extradata": b64encode(codec.extradata or b"").decode()}
        places: list[tuple[int, int, int, int]] = []
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for _, packet in source.read(None):
                assert packet is not None
                data = bytes(packet)
                start = packet.pos if packet.pos is not None else -1  # Matroska and AVI: of the packet's own header
                offset = content.find(data, start, start + len(data) + 64) if start >= 0 else -1
                if offset < 0:
                    raise VideoReadError(path, "its packets are not in one piece; make copies with `svt-zoo prepare`")
                places.append((offset, len(data), zlib.crc32(data), NO_TIME if packet.pts is None else packet.pts))
            columns = dict(zip(("offset", "size", "crc", "pts"), np.array(places, np.int64).T.copy(), strict=True))
            stored = StoredIndex(index, decoder, columns)
            _verify(path, stored, limits, lambda ranges: [content[start:end] for start, end in ranges])
    return stored


def _verify(path: str, stored: StoredIndex, limits: Limits, fetch: Fetch) -> None:
    """Raises VideoReadError unless all frames, decoded from single packets, are those of the file."""
    numbers = range(len(stored.index.pts))
    expected = decode_frames(open_source(path, limits, stored.index.stream), stored.index, numbers)
    found = decode_frames(PacketSource(path, stored, limits, fetch), stored.index, numbers)
    with closing(expected), closing(found):
        pairs = zip_longest(expected, found, fillvalue=(-1, np.empty(0)))
        same = all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in pairs)
    if not same:
        raise VideoReadError(path, "single packets decode to other frames; make a copy with `svt-zoo prepare`")
