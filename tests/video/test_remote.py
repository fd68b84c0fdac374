"""Videos in an object store are read by single packets: right or refused."""

import os
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from video_files import make, moving_square, numbered, numbers

from benchmarks.range_server import RangeServer
from svt_zoo.data.datasets import open_row
from svt_zoo.data.lists import Row
from svt_zoo.data.sampling import sample_rng
from svt_zoo.data.views import ViewsConfig
from svt_zoo.files import fetched_path
from svt_zoo.video import Limits, VideoReadError, open_video, ranges
from svt_zoo.video.decode import decode_frames
from svt_zoo.video.ranges import merge_ranges, read_ranges
from svt_zoo.video.remote import RemoteVideo, build_index, index_name, open_remote

CLIPS = [
    "kinetics_clean_and_jerk_340x256.mp4",  # H.264 in MP4
    "decord_flipping_a_pancake.mkv",
    "tc_nasa_13013_hdr.mp4",  # HEVC, ten bits
    "tc_av1_video.mkv",
    "ssv2_task93_0.webm",  # VP9
    "moviepy_fire2_rot180_vfr.mp4",  # turned
    "ucf101_v_Punch_g03_c01.avi",  # the decoder reads past the end of a packet
]
WITH_SOUND = ("decord_flipping_a_pancake.mkv", "ssv2_task93_0.webm")


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty folder in memory."""
    yield f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def server() -> Iterator[RangeServer]:
    pytest.importorskip("aiohttp", reason="byte ranges over http need pip install '.[remote]'")
    with RangeServer() as running:
        yield running


def put(bucket: str, path: Path, *, index: bool = True) -> str:
    """Uploads a video and its index; returns its URL."""
    url = f"{bucket}/{path.name}"
    fsspec.filesystem("memory").pipe_file(url, path.read_bytes())
    if index:
        fsspec.filesystem("memory").pipe_file(index_name(url), build_index(str(path)).to_bytes())
    return url


def ten_views(num_frames: int, seed: int = 0) -> list[int]:
    return sorted({i for view in ViewsConfig().sample(num_frames, 30.0, sample_rng(seed, 0, 0)) for i in view})


@pytest.mark.parametrize("name", CLIPS)
def test_ten_views_are_those_of_the_local_file_and_cost_the_bytes_of_their_packets(
    shared: Path, server: RangeServer, name: str
) -> None:
    path = shared / "clips" / name
    stored = build_index(str(path))
    server.files = {name: path.read_bytes(), index_name(name): stored.to_bytes()}
    local = open_video(path)
    for seed in range(3):
        wanted = ten_views(local.num_frames, seed)
        server.counts()
        frames = open_remote(f"{server.url}/{name}").frames_at(wanted)
        assert torch.equal(frames, local.frames_at(wanted))
        counts, sizes = server.counts(), stored.places["size"]
        if (actions := stored.index.actions(wanted)) is not None:
            sizes = sizes[[i for i, action in enumerate(actions) if action is not None]]
        assert counts["requests"] <= 17  # with the index
        assert counts["bytes"] <= path.stat().st_size
        if name not in WITH_SOUND:
            assert counts["bytes"] + counts["index_bytes"] <= 1.2 * sizes.sum()


@pytest.mark.parametrize("kind", ["h264, B-pyramid", "h264, avi", "vp8, hidden pictures"])
def test_any_frames_are_those_of_the_local_file(kind: str, bucket: str, tmp_path: Path) -> None:
    path = make(kind, tmp_path)
    local, remote = open_video(path), open_remote(put(bucket, path))
    assert (remote.pts, remote.fps, remote.duration, remote.cut) == (local.pts, local.fps, local.duration, local.cut)
    for wanted in ([0], [3, 0, 3], range(local.num_frames), [local.num_frames - 1]):
        assert torch.equal(remote.frames_at(wanted), local.frames_at(wanted))


def test_an_index_takes_at_most_20_bytes_a_frame(tmp_path: Path) -> None:
    from video_files import encode

    path = encode(tmp_path / "a.mp4", moving_square(150))
    assert len(build_index(str(path)).to_bytes()) <= 20 * 150


def test_prefetched_packets_are_not_fetched_again(server: RangeServer, tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", 20)
    server.files = {"a.mp4": path.read_bytes(), "a.mp4.index": build_index(str(path)).to_bytes()}
    video = open_remote(f"{server.url}/a.mp4")
    video.prefetch([5, 9])
    server.files.clear()
    assert numbers(video.frames_at([9, 5])) == [9, 5]


def test_failed_requests_are_repeated(server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_WAITS", (0.0,) * 10)
    path = numbered(tmp_path / "a.mp4", 20)
    server.files = {"a.mp4": path.read_bytes(), "a.mp4.index": build_index(str(path)).to_bytes()}
    server.fail = 0.5
    assert [numbers(open_remote(f"{server.url}/a.mp4").frames_at([i])) for i in range(10)] == [[i] for i in range(10)]
    assert server.counts()["failures"] >= 5
    server.fail = 1.0
    with pytest.raises(VideoReadError, match=r"a\.mp4: its index cannot be fetched \(ClientResponseError: 503"):
        open_remote(f"{server.url}/a.mp4")


def test_a_server_without_ranges_is_refused_by_name(server: RangeServer, tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", 20)
    server.files = {"a.mp4": path.read_bytes(), "a.mp4.index": build_index(str(path)).to_bytes()}
    server.ranges = False
    with pytest.raises(VideoReadError, match=r"a\.mp4: packet \d+ at byte \d+ is not .* ignores ranges"):
        open_remote(f"{server.url}/a.mp4").frames_at([3])


def test_a_file_that_became_shorter_on_a_web_server_is_refused_by_name(server: RangeServer, tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", 20)
    server.files = {"a.mp4": b"short", "a.mp4.index": build_index(str(path)).to_bytes()}
    with pytest.raises(VideoReadError, match=r"a\.mp4: packet \d+ at .* the file has changed since it was indexed"):
        open_remote(f"{server.url}/a.mp4").frames_at([3])


def test_a_web_server_that_denies_a_missing_index_means_no_index(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    server.files = {"a.mp4": numbered(tmp_path / "a.mp4", 20).read_bytes()}
    server.missing = 403  # as S3 for those who may not list the folder
    with open_row(Row(f"{server.url}/a.mp4")) as video:
        assert numbers(video.frames_at([7])) == [7]


@pytest.mark.parametrize("change", ["another video", "one bit", "shorter"])
def test_a_file_that_has_changed_is_refused_by_name(change: str, bucket: str, tmp_path: Path) -> None:
    url = put(bucket, numbered(tmp_path / "a.mp4", 20))
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    if change == "another video":
        content = bytearray(numbered(tmp_path / "a.mp4", 30).read_bytes())
    elif change == "one bit":
        content[content.index(b"mdat") + 400] ^= 1
    else:
        del content[content.index(b"mdat") + 20 :]
    fsspec.filesystem("memory").pipe_file(url, bytes(content))
    with pytest.raises(VideoReadError, match=rf"{url}: packet \d+ at .* is not the indexed one: the file has changed"):
        open_remote(url).frames_at(range(20))


def test_a_file_that_has_vanished_is_refused_by_name(bucket: str, tmp_path: Path) -> None:
    url = put(bucket, numbered(tmp_path / "a.mp4", 20))
    fsspec.filesystem("memory").rm(url)
    with pytest.raises(VideoReadError, match=rf"{url}: cannot be fetched \(FileNotFoundError"):
        open_remote(url).frames_at([0])


@pytest.mark.parametrize("damage", [b"", b"not an index", None])
def test_a_damaged_index_is_refused_by_name(damage: bytes | None, bucket: str, tmp_path: Path) -> None:
    url = put(bucket, numbered(tmp_path / "a.mp4", 20))
    content = fsspec.filesystem("memory").cat_file(index_name(url))[:200] if damage is None else damage
    fsspec.filesystem("memory").pipe_file(index_name(url), content)
    with pytest.raises(VideoReadError, match=rf"{url}\.index: .* cannot be read .* `svt-zoo index --again`"):
        open_remote(url)


def test_limits_hold_for_remote_videos(bucket: str, tmp_path: Path) -> None:
    url = put(bucket, numbered(tmp_path / "a.mp4", 20))
    with pytest.raises(VideoReadError, match=r"Limits\.max_pixels"):
        open_remote(url, limits=Limits(max_pixels=100))
    with pytest.raises(VideoReadError, match=r"Limits\.max_duration"):
        open_remote(url, limits=Limits(max_duration=0.1))


def test_a_video_without_an_index_is_downloaded_and_a_line_states_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = put(bucket, numbered(tmp_path / "a.mp4", 20), index=False)
    with open_row(Row(url)) as video:
        assert numbers(video.frames_at([7])) == [7]
    assert fetched_path(url).exists()
    assert f"videos in {bucket} are read without an index (FileNotFoundError)" in caplog.text
    with open_row(Row(put(bucket, numbered(tmp_path / "b.mp4", 20), index=False))):
        assert caplog.text.count("without an index") == 1
    with open_row(Row(put(bucket, numbered(tmp_path / "c.mp4", 20)))) as video:
        assert isinstance(video, RemoteVideo)


def test_packets_that_are_not_in_one_piece_have_no_index(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="its packets are not in one piece; make copies with `svt-zoo prepare`"):
        build_index(str(make("mpeg2", tmp_path)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_has_no_index_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoReadError, match="a pipe, socket or device, not a regular file"):
        build_index(str(tmp_path / "pipe.mp4"))


def test_an_index_is_refused_if_single_packets_give_other_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path / "a.mp4", 20)

    def changed(source: object, *args: object) -> Iterator[tuple[int, np.ndarray]]:
        for number, image in decode_frames(source, *args):  # type: ignore[arg-type]
            yield number, image + (type(source).__name__ == "PacketSource" and number == 19)

    monkeypatch.setattr("svt_zoo.video.remote.decode_frames", changed)
    with pytest.raises(VideoReadError, match="single packets decode to other frames"):
        build_index(str(path))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500)), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
    waste=st.floats(0, 1),
)
def test_merged_ranges_hold_every_part_and_little_else(sizes: list[tuple[int, int]], order, waste: float) -> None:  # type: ignore[no-untyped-def]
    ends = np.cumsum([gap + size for gap, size in sizes])
    parts = [(int(end) - size, size) for end, (_, size) in zip(ends, sizes, strict=True)]
    order.shuffle(parts)
    offsets, lengths = np.array(parts).T
    assert len(merge_ranges(offsets, lengths, waste=waste, most=3)) <= 3
    merged = merge_ranges(offsets, lengths, waste=waste, most=len(parts))
    assert all(any(a <= start and start + size <= b for a, b in merged) for start, size in parts)
    assert all(a[1] <= b[0] for a, b in pairwise(merged))
    assert sum(b - a for a, b in merged) <= (1 + waste) * lengths.sum() + 1e-6


def test_ranges_come_in_the_order_of_the_request(bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"{bucket}/a", bytes(range(100)))
    assert read_ranges(f"{bucket}/a", [(50, 53), (0, 2)]) == [bytes([50, 51, 52]), bytes([0, 1])]
