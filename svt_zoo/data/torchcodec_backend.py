"""Videos through torchcodec, an optional extra: the frames that PyAV gives, or a refusal that says to use PyAV.

Which frames a file has is found by PyAV in either case. torchcodec is refused where it is known to number or place
frames differently: where timestamps do not identify frames (AVI, raw streams), in MPEG transport and program streams,
and with edit lists; and where its conversion to RGB differs: more than 8 bits a colour, and odd sizes with subsampled
colour.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from .limits import VideoReadError
from .packets import VideoIndex

_FORMATS = ("mov", "matroska")
_SUBSAMPLED = ("yuv420p", "yuvj420p")
_FULL = ("yuv444p", "yuvj444p")
_INSTEAD = "open it with backend='pyav'"


def check(path: str, index: VideoIndex) -> None:
    """Refuses a file of which torchcodec's frames would not be PyAV's.

    Raises:
        VideoReadError: if it is such a file.
        ImportError: if torchcodec or the FFmpeg libraries that it loads are missing.
    """
    _decoder_class()
    if index.packets is None:
        raise VideoReadError(path, f"torchcodec would misplace frames: no usable timestamps; {_INSTEAD}")
    if index.container not in _FORMATS:
        raise VideoReadError(path, f"torchcodec is not exact for {index.container} files; {_INSTEAD}")
    even = index.height % 2 == 0 and index.width % 2 == 0
    if index.pixel_format not in _FULL and not (index.pixel_format in _SUBSAMPLED and even):
        size = f"{index.width}x{index.height}"
        raise VideoReadError(path, f"torchcodec converts {index.pixel_format} of {size} otherwise; {_INSTEAD}")
    if not all(packet.shown for packet in index.packets):
        raise VideoReadError(path, f"torchcodec does not honour its edit list or hidden pictures; {_INSTEAD}")


def decode(path: str, index: VideoIndex, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The frames of the numbers `wanted` (ascending, without repeats) as (number, RGB uint8 (H, W, 3), upright).

    Raises:
        VideoReadError: if torchcodec cannot decode them, or counts or sizes frames differently from PyAV.
    """
    try:
        decoder = _decoder_class()(
            path, stream_index=index.stream, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        found = len(decoder)
        if found != len(index.pts):
            raise VideoReadError(path, f"torchcodec finds {found} of {len(index.pts)} frames; {_INSTEAD}")
        frames = decoder.get_frames_at(list(wanted)).data.numpy()  # (len(wanted), H, W, 3)
    except VideoReadError:
        raise
    except RuntimeError as error:
        raise VideoReadError(path, f"torchcodec cannot decode it ({error}); {_INSTEAD}") from error
    yield from zip(wanted, frames, strict=True)


def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # RuntimeError: FFmpeg's shared libraries are missing
        raise ImportError(
            "backend='torchcodec' needs `pip install torchcodec` and FFmpeg's shared libraries; "
            "backend='pyav' needs neither"
        ) from error
    return VideoDecoder
