from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from video_files import encode, moving_square

from svt_zoo import VideoReadError, open_video
from svt_zoo.data import encode as module
from svt_zoo.data.encode import Encoding, PreparedVideo, prepare_video
from svt_zoo.video import EncodedVideo
from svt_zoo.video.frames import FrameFolder

Gray = Callable[..., Path]


def levels(frames: torch.Tensor) -> list[int]:
    """The mean gray level of each frame."""
    return [round(level) for level in frames.float().mean((1, 2, 3)).tolist()]


def key_frames(path: Path) -> list[bool]:
    """Whether each packet, in file order, is a key frame."""
    with av.open(str(path)) as container:
        return [packet.is_keyframe for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("mode", ["short", "intra"])
def test_every_frame_comes_out_at_its_number_and_time(mode: module.Mode, gray_video: Gray, tmp_path: Path) -> None:
    source = gray_video(50)
    made = prepare_video(str(source), tmp_path / "a.mp4", Encoding(mode=mode))
    with open_video(source) as before, open_video(tmp_path / "a.mp4") as after:
        assert made.frames == after.num_frames == 50
        assert_close(after.pts, before.pts, atol=1e-4, rtol=0)
        assert after.duration == pytest.approx(before.duration, abs=1e-4)
        assert levels(after.frames_at(range(50))) == pytest.approx(levels(before.frames_at(range(50))), abs=1)


def test_frames_of_irregular_times_keep_them(tmp_path: Path) -> None:
    times = [0, 1, 2, 5, 6, 9, 15, 16]
    source = encode(tmp_path / "vfr.mkv", moving_square(8), pts=times)
    prepare_video(str(source), tmp_path / "a.mp4", Encoding())
    with open_video(tmp_path / "a.mp4") as after:
        assert_close(after.pts, tuple(time / 25 for time in times), atol=1e-3, rtol=0)


@pytest.mark.parametrize("suffix", [".avi", ".ts", ".mkv", ".h264"])
def test_other_containers_give_the_frames_that_the_reader_sees(suffix: str, gray_video: Gray, tmp_path: Path) -> None:
    source = gray_video(30, suffix=suffix)
    prepare_video(str(source), tmp_path / "a.mp4", Encoding(crf=4))
    with open_video(source) as before, open_video(tmp_path / "a.mp4") as after:
        assert levels(after.frames_at(range(30))) == pytest.approx(levels(before.frames_at(range(30))), abs=1)


def test_groups_of_pictures_are_short(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", moving_square(60), g="60")
    assert sum(key_frames(source)) == 1
    prepare_video(str(source), tmp_path / "a.mp4", Encoding())
    keys = [number for number, key in enumerate(key_frames(tmp_path / "a.mp4")) if key]
    assert keys[0] == 0
    assert np.diff([*keys, 60]).max() <= 12


def test_intra_only_has_key_frames_alone(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", moving_square(30))
    prepare_video(str(source), tmp_path / "a.mp4", Encoding(mode="intra"))
    assert key_frames(tmp_path / "a.mp4") == [True] * 30


def test_sound_is_left_out(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "source.mkv"), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000)
        video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
        for image in moving_square(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode())
    prepare_video(str(tmp_path / "source.mkv"), tmp_path / "a.mp4", Encoding())
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_rotation_is_applied(shared: Path, tmp_path: Path) -> None:
    source = shared / "clips" / "decord_video_90.mov"
    made = prepare_video(str(source), tmp_path / "a.mp4", Encoding())
    with open_video(source) as before, open_video(tmp_path / "a.mp4") as after:
        assert before.height > before.width
        assert (after.height, after.width) == (made.height, made.width) == (454, 256)
        small = torch.nn.functional.interpolate(
            before.frames_at([0]).permute(0, 3, 1, 2).float(), (454, 256), mode="bicubic", antialias=True
        )  # (1, 3, H, W)
        assert (after.frames_at([0]).permute(0, 3, 1, 2) - small).abs().mean() < 4


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((256, 340), (256, 340)),
        ((720, 1280), (256, 454)),
        ((1280, 720), (454, 256)),
        ((241, 321), (240, 320)),
        ((120, 160), (120, 160)),
        ((257, 257), (256, 256)),
    ],
)
def test_sizes_are_even_and_never_larger(source: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Encoding().size(*source) == expected


def test_images_are_what_a_folder_of_frames_reads(gray_video: Gray, tmp_path: Path) -> None:
    source = gray_video(30)
    made = prepare_video(str(source), tmp_path / "clip", Encoding(mode="frames", jpeg_quality=95))
    folder = FrameFolder(tmp_path / "clip", fps=made.fps)
    assert (folder.num_frames, folder.duration) == (30, pytest.approx(30 / 25))
    with open_video(source) as before:
        assert levels(folder.frames_at(range(30))) == pytest.approx(levels(before.frames_at(range(30))), abs=1)
    assert sorted(path.name for path in (tmp_path / "clip").iterdir())[::29] == ["img_00001.jpg", "img_00030.jpg"]


def test_a_folder_of_images_becomes_a_video(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (64, 48), (20 * i,) * 3).save(tmp_path / "images" / f"{i}.png")
    made = prepare_video(str(tmp_path / "images"), tmp_path / "a.mp4", Encoding(), num_frames=10, fps=12.5)
    with open_video(made.output) as video:
        assert (video.num_frames, video.fps) == (10, pytest.approx(12.5))
        assert levels(video.frames_at(range(10))) == pytest.approx(range(0, 200, 20), abs=2)


def test_quality_is_that_of_the_output_against_the_resized_source(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", moving_square(20), crf="0", preset="ultrafast")
    fine = prepare_video(str(source), tmp_path / "fine.mp4", Encoding(crf=1))
    with open_video(source) as before, open_video(tmp_path / "fine.mp4") as after:
        numbers = [1, 3, 6, 8, 11, 13, 16, 18]  # the middles of 8 parts of 20 frames
        error = before.frames_at(numbers).float() - after.frames_at(numbers).float()
    assert fine.psnr == pytest.approx(float(10 * torch.log10(255**2 / error.square().mean())), abs=0.01)
    assert prepare_video(str(source), tmp_path / "coarse.mp4", Encoding(crf=40)).psnr < fine.psnr - 5


def test_a_reader_that_begins_again_is_followed(
    monkeypatch: pytest.MonkeyPatch, gray_video: Gray, tmp_path: Path
) -> None:
    decode = EncodedVideo._decode

    def stumbling(video: EncodedVideo, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if wanted[0] == 0:
            wrong = np.full((video.height, video.width, 3), 200, np.uint8)
            yield from [(0, wrong), (1, wrong)]
        yield from decode(video, wanted)

    source = gray_video(20)
    monkeypatch.setattr(EncodedVideo, "_decode", stumbling)
    for mode, output in (("short", "a.mp4"), ("frames", "clip")):
        made = prepare_video(str(source), tmp_path / output, Encoding(mode=mode))
        assert made.frames == 20
    monkeypatch.undo()
    with (
        open_video(source) as before,
        open_video(tmp_path / "a.mp4") as video,
        FrameFolder(tmp_path / "clip") as folder,
    ):
        expected = levels(before.frames_at(range(20)))
        assert levels(video.frames_at(range(20))) == pytest.approx(expected, abs=1)
        assert levels(folder.frames_at(range(20))) == pytest.approx(expected, abs=1)


def test_an_output_with_other_frames_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, gray_video: Gray, tmp_path: Path
) -> None:
    add = module._FileWriter.add
    monkeypatch.setattr(module._FileWriter, "add", lambda self, number, frame: number == 5 or add(self, number, frame))
    with pytest.raises(VideoReadError, match="20 frames became 19"):
        prepare_video(str(gray_video(20)), tmp_path / "out" / "a.mp4", Encoding())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_broken_source_leaves_nothing_behind(gray_video: Gray, tmp_path: Path) -> None:
    source = tmp_path / "broken.mp4"
    source.write_bytes(gray_video(40).read_bytes()[:-900])
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        prepare_video(str(source), tmp_path / "out" / "a.mp4", Encoding())
    assert list((tmp_path / "out").iterdir()) == []


def test_bytes_are_counted_before_and_after(gray_video: Gray, tmp_path: Path) -> None:
    source = gray_video(20)
    made = prepare_video(str(source), tmp_path / "clip", Encoding(mode="frames"))
    assert made == PreparedVideo(
        source=str(source),
        output=str(tmp_path / "clip"),
        frames=20,
        fps=25.0,
        height=48,
        width=64,
        source_bytes=source.stat().st_size,
        bytes=sum(path.stat().st_size for path in (tmp_path / "clip").iterdir()),
        psnr=made.psnr,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode must be one of short, intra, frames, got 'fast'"),
        ({"short_side": 255}, "short_side must be even, got 255"),
        ({"crf": 52}, "crf must be >= 0 and <= 51, got 52"),
        ({"preset": "placebo"}, "preset must be one of ultrafast, .*, got 'placebo'"),
        ({"jpeg_quality": 0}, "jpeg_quality must be >= 1 and <= 95, got 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoding(**options)
