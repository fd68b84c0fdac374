"""For a faulty file, the reader raises an error with its path and the reason, or returns the frames that exist."""

import errno
import os
import pickle
import stat
import wave
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image
from video_files import encode, moving_square, sequential

from svt_zoo.video import Limits, VideoReadError, errors, open_video


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MP4 of 60 frames in 5 groups with its index before the frames."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    encode(path, moving_square(60), g="12")
    with av.open(str(path)) as source, av.open(str(path) + ".mp4", "w", options={"movflags": "faststart"}) as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    return Path(str(path) + ".mp4").read_bytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(path: Path, reason: str, **options: Limits) -> None:
    with pytest.raises(VideoReadError, match=reason) as caught, open_video(path, **options) as video:
        video.frames_at(range(video.num_frames))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.mp4", "no such file or directory")


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_video(tmp_path / "missing.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, VideoReadError)
    assert str(copy) == str(caught.value) == f"{tmp_path / 'missing.mp4'}: no such file or directory"
    assert copy.errno == errno.ENOENT


def test_a_name_with_a_null_byte_is_refused() -> None:
    with pytest.raises(VideoReadError, match="null"):
        open_video("a\0b.mp4")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "a directory, not a video file")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "pipe, socket or device")


def test_a_device_is_refused() -> None:
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)
    refused(Path("/dev/zero"), "pipe, socket or device")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "empty.mp4", b""), "an empty file")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise av.error.PermissionError(13, "Permission denied", "secret.mp4")

    monkeypatch.setattr("av.open", denied)  # the tests may run as root, who may read everything
    refused(write(tmp_path / "secret.mp4", good), "Permission denied")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.mp4", b"This is not a video.\n" * 400),
        ("art.txt", b"FFmpeg would play text as ANSI art.\n" * 400),
        ("noise.mp4", np.random.default_rng(0).bytes(20_000)),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n/dev/zero\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile other.mp4\n"),
    ],
)
def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    refused(write(tmp_path / name, data), "not a video that FFmpeg can open")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n", "it is a playlist; fetch the video"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nt=0 0\nm=video 5004 RTP/AVP 96\n", r"it is a .*SDP"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nWorld\n", "subtitles"),
        (b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n", r"whitelist\); it is subtitles"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "it is an image; a folder of images can be read as a video"),
        (b"<!DOCTYPE html><title>Sign in</title>", "it is an HTML or XML page, such as a sign-in"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "it is a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "it is compressed by gzip; unpack it first"),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_a_foreign_file_is_named_for_what_it_is(tmp_path: Path, data: bytes, reason: str, name: str) -> None:
    refused(write(tmp_path / name, data), reason)


def test_a_png_and_a_sound_file_are_refused_by_their_format(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    refused(tmp_path / "image.png", r"\(Format not on whitelist\); it is an image")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    refused(tmp_path / "a.wav", r"\(Format not on whitelist\); it is a sound file")


def test_the_reported_playlist_is_refused_for_its_format(shared: Path) -> None:
    refused(shared / "reported" / "hls_file.m3u8", r"\(Format not on whitelist\); it is a playlist")


def one_frame(path: Path, width: int, height: int) -> Path:
    """A Motion JPEG video of one frame."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
        out.mux(stream.encode(av.VideoFrame(width, height, "yuvj420p")))
        out.mux(stream.encode())
    return path


def test_8k_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = one_frame(tmp_path / "8k.mp4", 7680, 4320)
    refused(path, r"Limits.max_pixels")
    with open_video(path, limits=Limits(max_pixels=7680 * 4320)) as video:
        assert (video.height, video.width) == (4320, 7680)


def test_a_file_without_the_index_at_its_end_is_refused(tmp_path: Path) -> None:
    data = encode(tmp_path / "full.mp4", moving_square(30)).read_bytes()
    refused(write(tmp_path / "cut.mp4", data[: len(data) // 2]), "not a video that FFmpeg can open")


def test_a_file_cut_after_its_index_is_refused(tmp_path: Path, good: bytes) -> None:
    for fraction in (0.5, 0.7, 0.95):
        refused(write(tmp_path / "cut.mp4", good[: int(len(good) * fraction)]), "packet|cut short")


def test_a_file_cut_between_two_packets_is_refused(tmp_path: Path, good: bytes) -> None:
    with av.open(str(write(tmp_path / "full.mp4", good))) as container:
        positions = [p.pos for p in container.demux(container.streams.video[0]) if p.size]
    assert positions[40]
    refused(write(tmp_path / "cut.mp4", good[: positions[40]]), "cut short: holds 40 of the 60 packets")


def test_a_damaged_middle(tmp_path: Path, good: bytes) -> None:
    damaged = bytearray(good)
    start = len(good) // 2
    damaged[start : start + 600] = np.random.default_rng(0).bytes(600)
    refused(write(tmp_path / "damaged.mp4", bytes(damaged)), "packet|damaged")


def test_zeros_in_the_middle(tmp_path: Path, good: bytes) -> None:
    damaged = bytearray(good)
    start = len(good) // 2
    damaged[start : start + 600] = bytes(600)
    refused(write(tmp_path / "damaged.mp4", bytes(damaged)), "packet|damaged")


def test_a_file_with_audio_only_is_refused(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    with av.open(str(tmp_path / "sound.wav")) as source, av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        for frame in source.decode(audio=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    refused(tmp_path / "sound.mp4", "no video stream$")


def with_cover(path: Path, *, and_video: bool) -> Path:
    """Writes a file with a cover picture, followed by a real video if `and_video`."""
    from av.stream import Disposition

    image = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 99, np.uint8), format="rgb24")
    with av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        video = out.add_stream("libx264", rate=25) if and_video else None
        if video:
            video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
        out.mux(cover.encode(image))
        out.mux(cover.encode())
        for frame in moving_square(10) if video else []:
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if video:
            out.mux(video.encode())
    return path


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    refused(with_cover(tmp_path / "cover.mp4", and_video=False), "no video stream, only a cover picture")


def test_a_cover_picture_before_the_video_is_skipped(tmp_path: Path) -> None:
    with open_video(with_cover(tmp_path / "cover.mp4", and_video=True)) as video:
        assert (video.num_frames, video.height, video.width) == (10, 96, 128)


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "one.mp4", moving_square(1))
    with open_video(path) as video:
        assert video.num_frames == 1
        assert video.duration == pytest.approx(1 / 25)
        assert video.fps == pytest.approx(25)
        assert np.array_equal(video.frames_at([0, 0])[1].numpy(), next(sequential(path)))


def test_the_frames_of_a_raw_stream_without_times_are_counted(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "raw.h264", moving_square(20))) as video:
        assert video.num_frames == 20
        assert video.pts == pytest.approx([i / 25 for i in range(20)])


def test_frames_of_100_megapixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = one_frame(tmp_path / "huge.mp4", 12000, 9000)
    refused(path, r"frames of more pixels than Limits.max_pixels|12000x9000 pixels, .* pass limits=Limits\(max_pixels=")


def test_the_size_of_frames_is_limited(tmp_path: Path) -> None:
    path = encode(tmp_path / "small.mp4", moving_square(2))
    with open_video(path, limits=Limits(max_pixels=96 * 128)) as video:
        assert video.num_frames == 2
    refused(path, "frames of 128x96 pixels, more than the 12000 of Limits.max_pixels", limits=Limits(max_pixels=12_000))


def test_a_size_change_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.ts", moving_square(20), g="10", bf="0")
    large = encode(tmp_path / "large.ts", moving_square(20, 192, 256), g="10", bf="0", pts=list(range(20, 40)))
    path = write(tmp_path / "both.ts", small.read_bytes() + large.read_bytes())
    refused(path, "packet 20 cannot be decoded", limits=Limits(max_pixels=96 * 128 * 2))


def test_the_duration_is_limited(tmp_path: Path) -> None:
    path = encode(tmp_path / "long.mp4", moving_square(4), pts=[0, 1, 2, 25 * 3600])
    refused(path, "lasts 3600 s, more than the 60 s of Limits.max_duration", limits=Limits(max_duration=60))
    raw = encode(tmp_path / "long.h264", moving_square(30))
    refused(raw, "lasts 1 s, more than the 1 s", limits=Limits(max_duration=1))


def test_the_time_of_the_scan_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "slow.mp4", moving_square(30))
    monkeypatch.setattr(errors, "time", SimpleNamespace(monotonic=count().__next__))  # one second per packet
    refused(path, "takes longer than the 9.5 s of Limits.max_decode_time", limits=Limits(max_decode_time=9.5))
    with open_video(path, limits=Limits(max_decode_time=40)) as video:
        assert len(video.frames_at(range(30))) == 30  # each pass has its own time limit


def test_the_time_of_a_request_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(encode(tmp_path / "slow.mp4", moving_square(30)), limits=Limits(max_decode_time=3600)) as video:
        monkeypatch.setattr(errors, "time", SimpleNamespace(monotonic=count(step=1000).__next__))
        with pytest.raises(VideoReadError, match=r"slow.mp4: takes longer than the 3600 s of Limits.max_decode_time"):
            video.frames_at(range(30))


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(VideoReadError("a.mp4", "an empty file")))
    assert isinstance(error, VideoReadError)
    assert (error.path, error.reason, str(error)) == ("a.mp4", "an empty file", "a.mp4: an empty file")


def test_a_file_with_tags_that_are_not_utf_8_is_read(tmp_path: Path, good: bytes) -> None:
    plain = write(tmp_path / "plain.mp4", good)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "tagged.mkv"), "w") as out:
        out.metadata["title"] = "a title"
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    tagged = (tmp_path / "tagged.mkv").read_bytes()
    assert tagged.count(b"a title") == 1
    latin = write(tmp_path / "latin.mkv", tagged.replace(b"a title", b"a titl\xe9"))
    with open_video(plain) as expected, open_video(latin) as video:
        assert np.array_equal(video.frames_at([0, 59]), expected.frames_at([0, 59]))
