"""What the bytes of a packet state about its picture: presentation order, restart points, hidden pictures.

A container's timestamps can contradict the stream, for example after AVI was copied into MP4. A decoder obeys the
headers of the stream, so they decide in which order pictures are returned.
"""

from collections.abc import Iterator
from typing import NamedTuple

# NAL unit types of H.264 (table 7-1) and HEVC (table 7-1). IDR: no later picture refers to one before it.
_SLICES = {"h264": {1, 5}, "hevc": {*range(10), 19, 20, 21}}
_IDR = {"h264": {5}, "hevc": {19, 20}}
_PARAMETER_SETS = {"h264": {7}, "hevc": {33, 34}}
# After these a decoder may drop pictures: H.264 data partitions, ends of a sequence, HEVC's broken links.
_UNKNOWN = {"h264": {2, 3, 4, 10}, "hevc": {16, 17, 18, 36, 37}}
_FIRST_SLICE_SIZE = 20  # bytes, more than what is read of a slice header
_H264_PROFILES_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}

# Start code and bits of the picture type; the type of B-pictures.
_MPEG_START = {"mpeg1video": b"\0\0\1\0", "mpeg2video": b"\0\0\1\0", "mpeg4": b"\0\0\1\xb6"}
_MPEG4_GROUP = b"\0\0\1\xb3"  # start code of the header of a group of pictures, which states a time
HEADER_CODECS = frozenset({*_SLICES, *_MPEG_START, "vp8", "vp9"})  # those whose headers are read
_MAX_EMPTY_VOP = 19  # FFmpeg treats an MPEG-4 picture of at most this many bytes as empty
_LAST = 1 << 62


class Picture(NamedTuple):
    """What one packet holds.

    Attributes:
        order: sorts pictures as the decoder returns them: (sequence, number). None if the packet does not state it.
        restart: whether no later packet refers to a picture before this one.
        hidden: whether the picture is never shown (alternate references of VP8 and VP9).
    """

    order: tuple[int, int] | None
    restart: bool = False
    hidden: bool = False


class PictureReader:
    """Reads the headers of a stream's packets in decoding order.

    Attributes:
        exact_nonref: whether no picture refers to one that is marked as non-reference. In HEVC, the mark of a picture
            holds for its own temporal layer.
    """

    def __init__(self, codec: str, extradata: bytes | None = None) -> None:
        self.exact_nonref = True
        self._codec = codec
        self._count = 0
        self._sequence = self._next_frame_num = 0
        self._headers: bytes | None = b""  # of all MPEG-4 packets that have headers
        self._previous = 0  # the picture order count of the previous reference picture
        self._sps: tuple[int, ...] = ()
        self._pps: tuple[int, ...] = ()
        self._max_layer, self._min_nonref_layer = 0, 7
        self._length_size = nal_length_size(codec, extradata)
        tables = (_SLICES, _IDR, _PARAMETER_SETS, _UNKNOWN)
        self._slices, self._idr, self._parameter_sets, self._unknown = (table.get(codec, set()) for table in tables)
        self._known = True  # whether all parameter sets were understood
        for unit in _extradata_units(codec, extradata) if codec in _SLICES else ():
            self._read_parameter_set(unit)

    def read(self, data: bytes) -> Picture:
        """Describes the next packet."""
        self._count += 1
        try:
            if self._codec in _SLICES:
                return self._read_nal_units(data)
            if self._codec in _MPEG_START:
                return self._read_mpeg(data)
            return Picture((0, self._count), self._codec == "mjpeg", is_hidden(self._codec, data))
        except (ValueError, IndexError):
            return Picture(None)

    def _read_mpeg(self, data: bytes) -> Picture:
        """A reference picture is shown after the B-pictures that follow it."""
        if count_pictures(self._codec, data) != 1:
            return Picture(None)
        start = data.index(_MPEG_START[self._codec]) + 4
        is_b = data[start] >> 6 == 2 if self._codec == "mpeg4" else data[start + 1] >> 3 & 7 == 3
        self._sequence += not is_b
        restart = self._codec == "mpeg4" and self._is_mpeg4_restart(data[: start - 4], data[start])
        return Picture((self._sequence - 1, self._count if is_b else _LAST), restart)

    def _is_mpeg4_restart(self, headers: bytes, picture: int) -> bool:
        """Whether it is an intra picture with the headers of the first packet. Only for streams without B-pictures."""
        headers = headers.partition(_MPEG4_GROUP)[0]
        if self._count == 1:
            self._headers = headers
        elif headers and headers != self._headers:
            self._headers = None  # pictures after this one need these headers
        return picture >> 6 == 0 and headers == self._headers

    def _read_nal_units(self, data: bytes) -> Picture:
        firsts = []
        hevc, slices = self._codec == "hevc", self._slices
        for start in _nal_starts(data, self._length_size):
            kind = data[start] >> 1 & 63 if hevc else data[start] & 31
            if hevc and (data[start] & 1 or data[start + 1] >> 3):
                continue  # a second layer, for example the other eye
            if kind in slices:
                if data[start + 1 + hevc] & 0x80:
                    firsts.append(data[start : start + _FIRST_SLICE_SIZE])
            elif kind in self._unknown:
                return Picture(None)
            elif kind in self._parameter_sets:
                self._read_parameter_set(data[start:])
        if len(firsts) != 1 or not self._known:
            return Picture(None)
        restart = self._kind(firsts[0][0]) in self._idr
        if restart:
            self._sequence, self._previous = self._sequence + 1, 0
        number = self._hevc_number(firsts[0]) if hevc else self._h264_number(firsts[0])
        return Picture(None if number is None else (self._sequence, number), restart)

    def _kind(self, header: int) -> int:
        return header & 31 if self._codec == "h264" else header >> 1 & 63

    def _read_parameter_set(self, unit: bytes) -> None:
        kind = self._kind(unit[0]) if unit else None
        if kind not in self._parameter_sets:
            return
        before = self._sps, self._pps
        try:
            if kind == 34:
                self._pps = _hevc_pps(unit)
            else:
                self._sps = _h264_sps(unit) if kind == 7 else _hevc_sps(unit)
        except ValueError:
            self._known = False
        if any(old and old != new for old, new in zip(before, (self._sps, self._pps), strict=True)):
            self._known = False  # the decoder starts again

    def _h264_number(self, unit: bytes) -> int | None:
        """The picture order count of a frame (H.264 7.3.3), None for a field or after a lost reference picture."""
        poc_type, frame_num_bits, poc_bits, frames_only, planes = self._sps[:5]
        idr, reference = self._kind(unit[0]) == 5, unit[0] & 0x60 != 0
        bits = _Bits(unit[1:])
        bits.golombs(3)
        bits.read(2 * planes)
        frame_num = bits.read(frame_num_bits)
        lost = not idr and self._count > 1 and frame_num != self._next_frame_num
        if lost or (not frames_only and bits.read(1)):
            return None
        self._next_frame_num = (frame_num + reference) % (1 << frame_num_bits)
        if poc_type == 2:
            return self._count
        if idr:
            bits.golombs(1)
        return self._order_count(bits.read(poc_bits), poc_bits, reference=reference)

    def _hevc_number(self, unit: bytes) -> int | None:
        """The picture order count (HEVC 7.3.6.1), None for a picture that is not shown or discards earlier ones."""
        poc_bits, planes = self._sps[:2]
        has_output_flag, extra_bits = self._pps
        kind, layer = self._kind(unit[0]), (unit[1] & 7) - 1
        nonref = kind < 16 and kind % 2 == 0
        self._max_layer = max(self._max_layer, layer)
        if nonref:
            self._min_nonref_layer = min(self._min_nonref_layer, layer)
        self.exact_nonref = self._min_nonref_layer >= self._max_layer
        bits = _Bits(unit[2:])
        bits.read(1)
        if kind >= 16 and bits.read(1) and self._count > 1:
            return None
        bits.golombs(1)
        bits.read(extra_bits)
        bits.golombs(1)
        if has_output_flag and not bits.read(1):
            return None
        if kind in _IDR["hevc"]:
            return 0
        bits.read(2 * planes)
        return self._order_count(
            bits.read(poc_bits), poc_bits, reference=layer == 0 and not nonref and kind not in (7, 9)
        )

    def _order_count(self, lsb: int, size: int, *, reference: bool) -> int:
        """The number with these lowest bits that is next to the previous one (H.264 8.2.1.1, HEVC 8.3.1)."""
        half = 1 << size - 1
        number = self._previous + (lsb - self._previous + half - 1) % (2 * half) - half + 1
        if reference:
            self._previous = number
        return number


class _Bits:
    """Reads a header bit by bit; raises ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, size: int) -> int:
        self._left -= size
        if self._left < 0:
            raise ValueError("the header is too short")
        return self._value >> self._left & (1 << size) - 1

    def golomb(self) -> int:
        zeros = self._left - (self._value & (1 << self._left) - 1).bit_length()
        return self.read(2 * zeros + 1) - 1

    def golombs(self, count: int) -> None:
        value, left = self._value, self._left
        for _ in range(count):
            zeros = left - (value & (1 << left) - 1).bit_length()
            left -= 2 * zeros + 1  # if negative, the next shift raises ValueError
        self._left = left


def _h264_sps(unit: bytes) -> tuple[int, ...]:
    """(type of order count, bits of frame_num and of the order count, only frames, planes, size), H.264 7.3.2.1.1."""
    bits = _Bits(unit[1:512])
    profile, planes = bits.read(8), 0
    bits.read(16)
    bits.golombs(1)
    if profile in _H264_PROFILES_WITH_CHROMA:
        chroma = bits.golomb()
        planes = bits.read(1) if chroma == 3 else 0
        bits.golombs(2)
        bits.read(1)
        if bits.read(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_num_bits, poc_type = bits.golomb() + 4, bits.golomb()
    if poc_type == 1:
        raise ValueError("a rare type of order count, which is long to compute")
    poc_bits = bits.golomb() + 4 if poc_type == 0 else 0
    bits.golombs(1)
    bits.read(1)
    width, height = bits.golomb(), bits.golomb()
    return poc_type, frame_num_bits, poc_bits, bits.read(1), planes, width, height


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    scale = 8
    for _ in range(size):
        code = bits.golomb()
        scale = (scale + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        if scale == 0:
            return


def _hevc_sps(unit: bytes) -> tuple[int, ...]:
    """(bits of the order count, separate planes, size), HEVC 7.3.2.2.1."""
    bits = _Bits(unit[2:512])
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 96)
    flags = [bits.read(2) for _ in range(8 if layers else 0)][:layers]
    for flag in flags:
        bits.read((88 if flag & 2 else 0) + (8 if flag & 1 else 0))
    bits.golombs(1)
    planes = bits.read(1) if bits.golomb() == 3 else 0
    width, height = bits.golomb(), bits.golomb()
    if bits.read(1):
        bits.golombs(4)
    bits.golombs(2)
    return bits.golomb() + 4, planes, width, height


def _hevc_pps(unit: bytes) -> tuple[int, ...]:
    """(whether slices state if they are shown, number of extra bits in a slice header), HEVC 7.3.2.3.1."""
    bits = _Bits(unit[2:64])
    bits.golombs(2)
    bits.read(1)
    return bits.read(1), bits.read(3)


def nal_length_size(codec: str, extradata: bytes | None) -> int | None:
    """Size in bytes of the length field before each NAL unit (ISO/IEC 14496-15); None with start codes (Annex B)."""
    position = {"h264": 4, "hevc": 21}.get(codec)
    if position and extradata and len(extradata) > position and extradata[0] == 1:
        return (extradata[position] & 3) + 1
    return None


def _extradata_units(codec: str, extradata: bytes | None) -> Iterator[bytes]:
    """The NAL units in the decoder configuration."""
    extradata = extradata or b""
    if nal_length_size(codec, extradata) is None:
        yield from (extradata[start:] for start in _nal_starts(extradata, None))
        return
    position, arrays = (5, 1) if codec == "h264" else (23, extradata[22] if len(extradata) > 22 else 0)
    for _ in range(arrays):
        if codec == "hevc":
            position += 1
        field = extradata[position : position + (1 if codec == "h264" else 2)]
        position += len(field)
        for _ in range(int.from_bytes(field, "big") & (31 if codec == "h264" else 0xFFFF)):
            size = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + size]
            position += 2 + size


def _nal_starts(data: bytes, length_size: int | None) -> Iterator[int]:
    """The position of the header of each NAL unit in a packet."""
    if length_size is None:
        position = data.find(b"\0\0\1") + 3
        while 3 <= position < len(data):
            yield position
            position = data.find(b"\0\0\1", position) + 3
    else:
        position = 0
        while position + length_size < len(data):
            yield position + length_size
            position += length_size + int.from_bytes(data[position : position + length_size], "big")


def is_hidden(codec: str, data: bytes) -> bool:
    """Whether a packet holds only a reference picture that is never shown."""
    if codec == "vp8":
        return not data[0] & 0x10  # RFC 6386, section 9.1: show_frame
    if codec == "vp9":  # VP9 specification, 6.2: show_existing_frame, show_frame; annex B: a superframe shows one
        flags = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has a bit more before them
        return not flags & 0x0A and data[-1] & 0xE0 != 0xC0
    return False


def count_pictures(codec: str, data: bytes) -> int:
    """Number of pictures in a packet of MPEG-1, 2 or 4; 0 if the MPEG-4 picture is empty and repeats the one before."""
    if codec == "mpeg4" and len(data) <= _MAX_EMPTY_VOP:
        return 0
    return data.count(_MPEG_START[codec])


def one_frame_per_packet(counts: list[int]) -> bool:
    """Whether an MPEG-4 stream certainly gives one frame per packet, from `count_pictures` of each packet.

    With "packed B-frames", common in AVI, a packet can also hold the picture of the next packet. An empty packet ends
    such a sequence. The decoder buffers at most one picture and drops a picture that remains at the end.
    """
    buffered = 0
    for count in counts:
        buffered += count - 1
        if not 0 <= buffered <= 1:
            return False
    return True
