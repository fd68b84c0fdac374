"""Videos of many kinds for tests of the reader, and the sequential decode that is the reference."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch


def sequential(path: Path) -> Iterator[np.ndarray]:
    """Decodes every frame of the preferred video stream in order, turned as `rotation` states: uint8 (H, W, 3)."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def moving_square(num_frames: int, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Frames uint8 (T, H, W, 3): a bright square moves over noise, so that encoders use all kinds of pictures."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 90, (1, height, width, 3), dtype=np.uint8), num_frames, axis=0)
    for t in range(num_frames):
        y, x = (3 * t) % (height - 24), (5 * t) % (width - 24)
        frames[t, y : y + 24, x : x + 24] = 120 + t % 120
    return frames


def numbered(path: Path, num_frames: int) -> Path:
    """Writes a video of up to 50 frames: frame i has gray level 20 + 4 i. `numbers` reads i."""
    grays = np.array([20 + 4 * i for i in range(num_frames)], np.uint8)
    return encode(path, np.broadcast_to(grays[:, None, None, None], (num_frames, 48, 64, 3)), crf="4")


def numbers(frames: torch.Tensor) -> list[int]:
    """Returns the number of each frame (T, H, W, 3) of a `numbered` video."""
    return [round((level - 20) / 4) for level in frames.float().mean((1, 2, 3)).tolist()]


def encode(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: list[int] | None = None,
    container_format: str | None = None,
    **options: str,
) -> Path:
    """Writes frames (T, H, W, 3) at 25 per second, or at the times `pts` in units of 1/25 s."""
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source: Path, target: Path, change: Callable[[av.Packet], av.Packet | None]) -> Path:
    """Copies the video packets of `source`, changed by `change`, without encoding them again. None drops a packet."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in container.demux(stream):
            changed = change(packet) if packet.size else None
            if changed is not None:
                changed.stream = copy
                out.mux(changed)
    return target


def cut_by_edit_list(source: Path, target: Path, first: int) -> Path:
    """Copies an MP4 so that its edit list hides all frames before number `first`."""

    def earlier(packet: av.Packet) -> av.Packet:
        shift = int(first / 25 / packet.time_base)
        packet.pts -= shift
        packet.dts -= shift
        return packet

    return remux(source, target, earlier)


X264 = {"preset": "fast", "crf": "20"}

# name: (suffix, number of frames, options of `encode`)
KINDS: dict[str, tuple[str, int, dict[str, str]]] = {
    "h264, B-pyramid": (".mp4", 60, X264 | {"x264-params": "bframes=5:b-pyramid=normal:keyint=24:b-adapt=0"}),
    "h264, short groups": (".mp4", 60, X264 | {"g": "12"}),
    "h264, open groups": (".mp4", 60, X264 | {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3"}),
    "h264, intra refresh": (".mp4", 60, X264 | {"x264-params": "intra-refresh=1:keyint=12"}),
    "h264, baseline": (".mp4", 40, X264 | {"profile": "baseline"}),
    "h264, intra only": (".mp4", 40, X264 | {"g": "1"}),
    "h264, interlaced": (".mp4", 40, X264 | {"flags": "+ildct+ilme", "x264-params": "interlaced=1:tff=1"}),
    "h264, 4:4:4": (".mp4", 40, X264 | {"pix_fmt": "yuv444p"}),
    "h264, transport stream": (".ts", 60, X264 | {"g": "24"}),
    "h264, matroska": (".mkv", 60, X264 | {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "h264, avi": (".avi", 40, X264),
    "h264, raw": (".h264", 40, X264),
    "h264, fragmented": (".mp4", 60, X264 | {"g": "12"}),
    "hevc, open groups": (".mp4", 40, {"codec": "libx265", "x265-params": "log-level=none:keyint=12:open-gop=1"}),
    "hevc, closed groups": (".mp4", 40, {"codec": "libx265", "x265-params": "log-level=none:keyint=12:open-gop=0"}),
    "mpeg1": (".mpg", 40, {"codec": "mpeg1video", "bf": "2", "g": "12"}),
    "mpeg2": (".mpg", 40, {"codec": "mpeg2video", "bf": "2", "g": "12"}),
    "mpeg2, transport stream": (".ts", 40, {"codec": "mpeg2video", "bf": "2", "g": "12"}),
    "mpeg4": (".mp4", 40, {"codec": "mpeg4", "bf": "2", "g": "12"}),
    "mpeg4, avi": (".avi", 40, {"codec": "mpeg4", "bf": "2", "g": "12"}),
    "mpeg4, matroska": (".mkv", 40, {"codec": "mpeg4", "bf": "2", "g": "12"}),
    "motion jpeg": (".mov", 40, {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "motion jpeg, avi": (".avi", 40, {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "vp8, hidden pictures": (".webm", 60, {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k"}),
    "vp9": (".webm", 40, {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}),
    "flash": (".flv", 40, {"codec": "flv"}),
    "windows media": (".wmv", 40, {"codec": "wmv2"}),
    "gif": (".gif", 20, {"codec": "gif", "pix_fmt": "rgb8"}),
}


def make(kind: str, folder: Path) -> Path:
    """Writes a video of a kind in `KINDS`."""
    suffix, num_frames, options = KINDS[kind]
    path = folder / f"video{suffix}"
    if kind == "h264, fragmented":
        full = encode(folder / "full.mp4", moving_square(num_frames), **options)
        with (
            av.open(str(full)) as source,
            av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as out,
        ):
            copy = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
        return path
    return encode(path, moving_square(num_frames), **options)
