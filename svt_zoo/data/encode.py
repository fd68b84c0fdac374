"""Re-encodes one video frame by frame: to H.264 that is fast to decode, or to a folder of JPEG images."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from ..files import atomic, local_path, remove
from ..options import bounds
from ..video import Limits, VideoReadError, open_video
from ..video.frames import FrameFolder
from .pool import fingerprint

Mode = Literal["short", "intra", "frames"]

_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
KEY_FRAME_EVERY = 12  # frames; a decoder reads at most this many for one frame
_SAMPLES = 8  # frames of each video whose quality is measured
_NO_NOISE = 100.0  # dB, for equal images
_TIME_TOLERANCE = 1e-3  # seconds
_RESIZE = Interpolation.BICUBIC  # FFmpeg's scaler, which filters before it downsamples
_BT601 = 6  # SMPTE 170M in ITU-T H.273: how RGB becomes YUV


@dataclass(frozen=True)
class Encoding:
    """Settings for the output videos.

    Attributes:
        mode: "short" is H.264 with a key frame every 12 frames, "intra" is H.264 with only key frames, "frames" is a
            folder of JPEG images.
        short_side: short side of the frames in pixels; smaller videos keep their size. Sizes are rounded down to even.
        crf: quality of H.264, 0 (exact) to 51; lower is better.
        preset: x264 preset, from "ultrafast" to "veryslow"; slower presets give smaller files.
        jpeg_quality: 1 to 95.

    Raises:
        ValueError: a value is invalid.
    """

    mode: Mode = "short"
    short_side: int = 256
    crf: int = 20
    preset: str = "fast"
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        for name, value, choices in (("mode", self.mode, get_args(Mode)), ("preset", self.preset, _PRESETS)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        bounds(self, "short_side", low=16)
        bounds(self, "crf", low=0, high=51)
        bounds(self, "jpeg_quality", low=1, high=95)
        if self.short_side % 2:
            raise ValueError(f"short_side must be even, got {self.short_side}")

    @property
    def suffix(self) -> str:
        """Suffix of the output files; empty for folders."""
        return "" if self.mode == "frames" else ".mp4"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Output height and width for frames of `height` x `width` pixels: even, and never larger."""
        short = min(height, width)
        scale = Fraction(min(short, self.short_side), short)
        return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


@dataclass(frozen=True)
class PreparedVideo:
    """The output for one video.

    Attributes:
        source, output: paths.
        frames: number of frames.
        fps: average frames per second. A folder of frames does not store it.
        height, width: size of the output frames in pixels.
        source_bytes, bytes: size of the source and of the output.
        psnr: PSNR of the output against the resized source, in dB, over the RGB values of 8 frames spread over the
            video; 100 for equal images.
    """

    source: str
    output: str
    frames: int
    fps: float
    height: int
    width: int
    source_bytes: int
    bytes: int
    psnr: float


def prepare_video(
    source: str, output: str | os.PathLike[str], encoding: Encoding, *, num_frames: int | None = None, fps: float = 30.0
) -> PreparedVideo:
    """Re-encodes `source` (a file, a URL or a folder of frames) to `output`, an .mp4 file or a folder.

    The output appears only when it is complete and checked. A folder of frames needs `num_frames` and `fps`.

    Raises:
        VideoReadError: the source cannot be read to its end, or the output has other frames or other times.
        OSError: a file cannot be fetched or written.
    """
    target = Path(output)
    with atomic(target) as part, _open(local_path(source), num_frames, fps) as reader:
        size = encoding.size(reader.height, reader.width)
        psnr = _compare(part, reader, _write(reader, part, encoding, size), fps)
        return PreparedVideo(
            source=source,
            output=os.fspath(output),
            frames=len(reader.ticks),
            fps=len(reader.ticks) / float(reader.end * reader.time_base),
            height=size[0],
            width=size[1],
            source_bytes=fingerprint(reader.path)[0],
            bytes=fingerprint(part)[0],
            psnr=psnr,
        )


class _Reader(NamedTuple):
    """All frames of a source and their times: `ticks` of `time_base` seconds from the first frame."""

    path: Path
    frames: Iterator[tuple[int, NDArray[Any]]]
    ticks: list[int]
    end: int
    time_base: Fraction
    height: int
    width: int


@contextmanager
def _open(path: str, num_frames: int | None, fps: float) -> Iterator[_Reader]:
    if os.path.isdir(path):
        folder = FrameFolder(path, num_frames=num_frames, fps=fps)
        total = folder.num_frames
        height, width = folder.frames_at([0]).shape[1:3]
        time_base = 1 / Fraction(fps).limit_denominator(100_000)
        yield _Reader(Path(path), folder._decode(range(total)), list(range(total)), total, time_base, height, width)
        return
    with open_video(path, limits=Limits(max_pixels=8192 * 4352)) as video:
        index = video._index
        ticks = [pts - index.pts[0] for pts in index.pts]
        frames = video._decode(range(video.num_frames))  # one at a time: a long video would not fit in memory
        end = index.end - index.pts[0]
        yield _Reader(Path(path), frames, ticks, end, index.time_base, video.height, video.width)


def _write(reader: _Reader, part: Path, encoding: Encoding, size: tuple[int, int]) -> dict[int, NDArray[Any]]:
    """Writes all frames; returns the resized frames, by number, that are used to measure the quality."""
    total = len(reader.ticks)
    sampled = {total * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)}
    samples: dict[int, NDArray[Any]] = {}
    resizer = VideoReformatter()
    writer_class = _FolderWriter if encoding.mode == "frames" else _FileWriter
    with ExitStack() as open_writer:
        for number, image in reader.frames:
            if number == 0:  # the reader restarts if timestamps are wrong
                open_writer.close()
                writer = writer_class(part, encoding, reader)
                open_writer.callback(writer.close)
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = resizer.reformat(frame, size[1], size[0], "rgb24", interpolation=_RESIZE, threads=1)
            if number in sampled:
                samples[number] = frame.to_ndarray()
            writer.add(number, frame)
    return samples


class _FileWriter:
    """H.264 in MP4, without sound."""

    def __init__(self, path: Path, encoding: Encoding, reader: _Reader) -> None:
        self._reader = reader
        self._converter = VideoReformatter()
        self._container = av.open(str(path), "w", format="mp4")
        rate = Fraction(len(reader.ticks)) / (reader.end * reader.time_base)
        options = {
            "preset": encoding.preset,
            "crf": str(encoding.crf),
            "tune": "fastdecode",
            # Three of four frames are not reference frames, so a reader can skip them.
            "bf": "3",
            "b_strategy": "0",
            "b-pyramid": "none",
            "g": str(1 if encoding.mode == "intra" else KEY_FRAME_EVERY),
        }
        self._stream = self._container.add_stream("libx264", rate=rate.limit_denominator(1001), options=options)
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = reader.time_base
        codec.thread_count = 1
        codec.colorspace, codec.color_range = _BT601, ColorRange.MPEG

    def add(self, number: int, frame: VideoFrame) -> None:
        if number == 0:
            self._stream.height, self._stream.width = frame.height, frame.width
        reader = self._reader
        frame = self._converter.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.time_base = reader.time_base
        frame.pts = reader.ticks[number]
        frame.duration = (reader.ticks[number + 1] if number + 1 < len(reader.ticks) else reader.end) - frame.pts
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with self._container:
            self._container.mux(self._stream.encode())


class _FolderWriter:
    """JPEG images in a folder: img_00001.jpg, img_00002.jpg, ..."""

    def __init__(self, path: Path, encoding: Encoding, reader: _Reader) -> None:
        remove(path)  # frames from before a restart of the reader
        path.mkdir()
        self._path, self._quality = path, encoding.jpeg_quality

    def add(self, number: int, frame: VideoFrame) -> None:
        Image.fromarray(frame.to_ndarray()).save(self._path / f"img_{number + 1:05d}.jpg", quality=self._quality)

    def close(self) -> None:
        """Does nothing: every image is complete."""


def _compare(part: Path, reader: _Reader, samples: dict[int, NDArray[Any]], fps: float) -> float:
    """Checks that the output has the same frames and times; returns the PSNR in dB over some frames."""
    with FrameFolder(part, fps=fps) if part.is_dir() else open_video(part) as video:
        if video.num_frames != len(reader.ticks):
            raise VideoReadError(reader.path, f"{len(reader.ticks)} frames became {video.num_frames}")
        times = [float(tick * reader.time_base) for tick in reader.ticks]
        if not part.is_dir() and max(abs(a - b) for a, b in zip(times, video.pts, strict=True)) > _TIME_TOLERANCE:
            raise VideoReadError(reader.path, "frames would be shown at other times; re-encode it at a constant rate")
        numbers = sorted(samples)
        frames = video.frames_at(numbers).numpy()  # (n, H, W, 3)
    error = np.square(frames.astype(np.float32) - np.stack([samples[i] for i in numbers])).mean()
    return min(_NO_NOISE, float(10 * np.log10(255**2 / error))) if error else _NO_NOISE
