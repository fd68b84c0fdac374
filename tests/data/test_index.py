"""Indexes of a list, and training that reads its videos through them."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from video_files import encode, moving_square, numbered, numbers

from benchmarks.range_server import RangeServer
from svt_zoo.batch import Batch
from svt_zoo.config import ViewsConfig
from svt_zoo.data.datasets import VideoDataset, shared_frames
from svt_zoo.data.index import index_videos
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import VideoLoader
from svt_zoo.data.pool import CommonFailure
from svt_zoo.data.views import train_views
from svt_zoo.video import ranges
from svt_zoo.video.remote import open_remote


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty folder in memory."""
    yield f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").store.clear()


def put(bucket: str, path: Path) -> str:
    url = f"{bucket}/{path.name}"
    fsspec.filesystem("memory").pipe_file(url, path.read_bytes())
    return url


def test_indexes_of_a_list_are_written_beside_the_videos_and_kept(bucket: str, tmp_path: Path) -> None:
    paths = [str(numbered(tmp_path / f"{i}.mp4", 20)) for i in range(3)]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = VideoList(tuple(Row(path) for path in [*paths, str(tmp_path / "broken.mp4"), paths[0]]))
    report = index_videos(videos, workers=0)
    assert (report.new, report.kept, report.frames, [f.path for f in report.failures]) == (
        (3, 0, 60, [str(tmp_path / "broken.mp4")])
    )
    numbered(tmp_path / "1.mp4", 30)  # newer than its index
    report = index_videos(videos, workers=0)
    assert (report.new, report.kept, report.frames) == (1, 2, 30)


def test_indexes_of_urls_are_uploaded(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = put(bucket, numbered(tmp_path / "a.mp4", 20))
    assert index_videos(VideoList((Row(url),)), workers=0).new == 1
    assert index_videos(VideoList((Row(url),)), workers=0).kept == 1
    assert numbers(open_remote(url).frames_at([4])) == [4]
    assert not (tmp_path / "torch").exists()


def test_a_server_that_takes_no_files_is_an_error_that_states_where_to_make_the_indexes(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="an upload over http needs pip install '.[remote]'")
    with RangeServer() as server:
        server.files = {"a.mp4": numbered(tmp_path / "a.mp4", 20).read_bytes()}
        with pytest.raises(CommonFailure, match=r"does not take the index .* make the indexes where the files are"):
            index_videos(VideoList((Row(f"{server.url}/a.mp4"),)), workers=0)


def test_two_colons_in_the_name_of_a_local_file_are_not_a_chain_of_urls(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a::b.mp4", 20)
    index_videos(VideoList((Row(str(path)),)), workers=0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a::b.mp4", "a::b.mp4.index"]


def list_of(paths: list[str]) -> VideoList:
    return VideoList(tuple(Row(path, i % 2) for i, path in enumerate(paths)), ("a", "b"))


def views() -> ViewsConfig:
    return ViewsConfig(global_size=32, local_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos with their indexes."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [encode(folder / f"{i}.mp4", moving_square(40 + i, 48, 64, seed=i)) for i in range(6)]
    assert index_videos(list_of(list(map(str, paths))), workers=0).new == 6
    return folder


def loader_of(paths: list[str], num_workers: int = 0):  # type: ignore[no-untyped-def]
    return VideoLoader(
        VideoDataset(list_of(paths), train_views(views()), train=True), batch_size=2, num_workers=num_workers
    )


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one.views, two.views, strict=True)
    )


def test_training_from_a_server_that_fails_sees_the_same_batches_and_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="byte ranges over http need pip install '.[remote]'")
    monkeypatch.setattr(ranges, "_WAITS", (0.0,) * 10)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    local = list(loader_of([str(folder / f"{i}.mp4") for i in range(6)]))
    assert len(local) == 3
    with RangeServer(fail=0.4) as server:
        server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        urls = [f"{server.url}/{i}.mp4" for i in range(6)]
        assert same(list(loader_of(urls)), local)
        assert server.counts()["failures"] > 0
        stopped = loader_of(urls)
        assert same([next(iter(stopped))], local[:1])
        resumed = loader_of(urls, num_workers=2)
        resumed.load_state_dict(stopped.state_dict())
        assert same(list(resumed), local[1:])
    assert list(tmp_path.iterdir()) == []  # nothing is written to disk


def test_the_next_videos_are_fetched_while_one_is_decoded(
    folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.iterdir():
        put(bucket, path)
    dataset = VideoDataset(list_of([f"{bucket}/{i}.mp4" for i in range(6)]), train_views(views()), train=True)
    opened: list[int] = []
    ahead = threading.Event()
    plain = VideoDataset._open

    def opening(self: VideoDataset, video: int, epoch: int, index: int) -> object:
        ready = plain(self, video, epoch, index)
        opened.append(video)
        if video == 2:
            ahead.set()
        return ready

    def decoding(reader: object, *args: object) -> object:
        if "/0.mp4" in reader.path:  # type: ignore[attr-defined]
            assert ahead.wait(20)  # video 2 is fetched before video 0 is decoded
            assert 3 not in opened  # and no more than two ahead
        return shared_frames(reader, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoDataset, "_open", opening)
    monkeypatch.setattr("svt_zoo.data.datasets.shared_frames", decoding)
    samples = dataset.__getitems__([(0, i) for i in range(6)])
    assert [sample["video_index"] for sample in samples] == list(range(6))
    assert not any(sample["failures"] for sample in samples)


def test_a_video_that_changed_is_replaced_and_named(folder: Path, bucket: str) -> None:
    urls = [put(bucket, folder / f"{i}.mp4") for i in range(6)]
    for i in range(6):
        put(bucket, folder / f"{i}.mp4.index")
    fsspec.filesystem("memory").pipe_file(urls[1], (folder / "2.mp4").read_bytes())
    sample = VideoDataset(list_of(urls), train_views(views()), train=True).__getitems__([(0, 1)])[0]
    assert sample["video_index"] != 1
    (failure,) = sample["failures"]
    assert failure.path == urls[1]
    assert "the file has changed since it was indexed" in failure.reason
