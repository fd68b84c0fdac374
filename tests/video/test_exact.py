"""For every codec and container, the reader returns exactly the frames of a plain sequential decode."""

import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import KINDS, cut_by_edit_list, encode, make, moving_square, remux, sequential

from svt_zoo.video import VideoReadError, open_video

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
CLIP_NAMES = sorted(p.name for p in CLIPS.glob("*.*") if p.suffix != ".md")
# These files have most of the pixels, so only the slow tests read them.
LARGE = {name for name in CLIP_NAMES if (CLIPS / name).stat().st_size > 700_000} | {
    "ssv2_task41_0.webm",
    "ssv2_task93_0.webm",
    "tc_testsrc2_vp8.webm",
    "intel_bottle_detection_long.mp4",
    "dali_cfr_60fps.mov",
}


def assert_exact(path: Path, seed: int = 0) -> None:
    """Compares the number of frames and several random requests with the sequential decode."""
    rng = random.Random(seed)
    with open_video(path) as video:
        n = video.num_frames
        requests = [
            sorted(rng.sample(range(n), max(1, n // 4))),
            [rng.randrange(n) for _ in range(min(n, 12))],
            [n - 1],
            [rng.randrange(n)],
        ]
        got = [video.frames_at(request) for request in requests]
        assert len(video.pts) == n
        assert video.pts[0] == 0
        assert all(a < b for a, b in zip(video.pts, video.pts[1:], strict=False))
        assert video.duration > video.pts[-1]
    places = {(r, i): number for r, request in enumerate(requests) for i, number in enumerate(request)}
    total = 0
    for number, image in enumerate(sequential(path)):
        total += 1
        for (r, i), wanted in places.items():
            if wanted == number:
                assert np.array_equal(got[r][i].numpy(), image), f"frame {number} of request {r}"
    assert total == n


@pytest.mark.parametrize("name", [n for n in CLIP_NAMES if n not in LARGE and n != "decord_corrupted.mp4"])
def test_real_clips_are_exact(shared: Path, name: str) -> None:
    assert_exact(shared / "clips" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_real_clips_are_exact(shared: Path, name: str) -> None:
    assert_exact(shared / "clips" / name)


def test_the_error_for_a_damaged_packet_names_the_packet(shared: Path) -> None:
    with open_video(shared / "clips" / "decord_corrupted.mp4") as video:
        assert video.num_frames == 50
        with pytest.raises(VideoReadError, match=r"decord_corrupted.mp4: packet \d+ cannot be decoded"):
            video.frames_at(range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_video_is_exact(tmp_path: Path, kind: str) -> None:
    path = make(kind, tmp_path)
    for seed in range(3):
        assert_exact(path, seed)
    with open_video(path) as video:
        assert video.num_frames == KINDS[kind][1]


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    full = encode(tmp_path / "full.mp4", moving_square(60), g="30", bf="2")
    path = cut_by_edit_list(full, tmp_path / "cut.mp4", 20)
    with open_video(path) as video:
        assert video.num_frames == 40
        kept = video.frames_at(range(40))
    with open_video(full) as video:
        assert torch.equal(kept, video.frames_at(range(20, 60)))
    assert_exact(path)


def test_frames_before_the_first_key_frame_are_not_counted(tmp_path: Path) -> None:
    full = make("h264, open groups", tmp_path)
    seen = 0

    def from_second_key_frame(packet: av.Packet) -> av.Packet | None:
        nonlocal seen
        seen += packet.is_keyframe
        return packet if seen >= 2 else None

    path = remux(full, tmp_path / "cut.mkv", from_second_key_frame)
    assert_exact(path)


def test_the_times_of_a_variable_frame_rate_are_exact(tmp_path: Path) -> None:
    pts = [0, 1, 2, 5, 9, 10, 30, 31, 40, 41]
    path = encode(tmp_path / "video.mp4", moving_square(10), pts=pts)
    with open_video(path) as video:
        assert video.pts == pytest.approx([time / 25 for time in pts])
        assert video.indices_at([0.0, 0.2, 0.39, 1.2, 1.199]) == [0, 3, 4, 6, 5]
        assert video.indices_at(video.pts) == list(range(10))
    assert_exact(path)


def test_live_matroska_without_a_duration_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    with path.open("wb") as file, av.open(file, "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for image in moving_square(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as video:
        assert video.num_frames == 30
    assert_exact(path)


def test_after_a_size_change_frames_are_scaled_to_the_first_size(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.ts", moving_square(20), g="10", bf="0")
    large = encode(tmp_path / "large.ts", moving_square(20, 192, 256), g="10", bf="0", pts=list(range(20, 40)))
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (40, 96, 128)
        frames = video.frames_at([0, 39])
    assert frames.shape == (2, 96, 128, 3)
    assert (frames[1].float() - torch.from_numpy(moving_square(20)[19]).float()).abs().mean() < 40


def test_large_files_are_exact_without_keeping_their_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svt_zoo.video.index._MAX_KEPT", 1000)
    assert_exact(make("h264, short groups", tmp_path))


def test_frames_are_counted_if_the_decoder_contradicts_the_timestamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("h264, B-pyramid", tmp_path)
    reference = list(sequential(path))
    monkeypatch.setattr("svt_zoo.video.packets.plan", lambda packets, wanted: ["DEFAULT"] * 10)
    with open_video(path) as video:
        frame = video.frames_at([50])[0]
    assert np.array_equal(frame.numpy(), reference[50])
