"""The reader in worker processes, in PyTorchVideo's dataset, and in thousands of calls in one process."""

import gc
import multiprocessing
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import torch
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from pytorchvideo.data.encoded_video import EncodedVideo as PyTorchVideoEncodedVideo
from pytorchvideo.data.video import Video
from torch.testing import assert_close
from torch.utils.data import DataLoader, SequentialSampler
from video_files import encode, moving_square, numbered, numbers

from svt_zoo.video import VideoPathHandler, VideoReadError, open_video


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered(tmp_path_factory.mktemp("numbered") / "fifty.mp4", 50)


class Frames(torch.utils.data.Dataset[torch.Tensor]):
    """Item i is frame i of a video opened in the worker and frame i + 1 of one opened in the parent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.video = open_video(path)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        gc.collect()  # frees objects of the parent: a decoder with threads would block here
        with open_video(self.path) as video:
            return torch.cat([video.frames_at([index]), self.video.frames_at([index + 1])])


def test_forked_workers_read_a_video_that_the_parent_has_used(video_path: Path) -> None:
    dataset = Frames(video_path)
    assert numbers(dataset[3]) == [3, 4]
    garbage = [open_video(video_path)]
    garbage.append(garbage)  # type: ignore[arg-type]  # a cycle: stays open until the GC runs in the worker
    del garbage
    fork = multiprocessing.get_context("fork")
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=fork, timeout=300)
    assert [numbers(frames) for frames in loader] == [[i, i + 1] for i in range(8)]


def test_a_spawned_worker_reads_a_pickled_video(video_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        video = open_video(video_path)
        assert numbers(pool.apply_async(video.frames_at, ([9, 2],)).get(timeout=120)) == [9, 2]


def test_a_read_error_in_a_worker_reaches_the_parent_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    loader = DataLoader([tmp_path / "empty.mp4"], batch_size=None, num_workers=1, collate_fn=open_video, timeout=300)
    with pytest.raises(RuntimeError, match=r"empty.mp4: an empty file"):
        next(iter(loader))


def memory_growth(path: Path, opens: int) -> float:
    """Growth of the process in MiB over `opens` rounds of opening, reading and refusing videos, after a warm-up."""
    broken = path.with_suffix(".broken.mp4")
    broken.write_bytes(path.read_bytes()[:-100])
    gc.collect()  # closes files of earlier tests
    process = psutil.Process()
    before, files = 0, 0
    for i in range(opens + 50):
        if i == 50:
            before, files = process.memory_info().rss, process.num_fds()
        with open_video(path) as video:
            if i % 3:
                video.frames_at([i % 10, 12])
        open_video(path)  # never closed explicitly
        with pytest.raises(VideoReadError):
            open_video(broken).frames_at([19])
    assert process.num_fds() <= files
    return (process.memory_info().rss - before) / 2**20


def short_video(folder: Path) -> Path:
    """A short video with its index at the end, so that a cut makes it unreadable."""
    return encode(folder / "short.mp4", moving_square(20), g="5")


def test_reading_hundreds_of_videos_leaks_neither_memory_nor_files(tmp_path: Path) -> None:
    assert memory_growth(short_video(tmp_path), 300) < 8


@pytest.mark.slow
def test_reading_ten_thousand_videos_leaks_neither_memory_nor_files(tmp_path: Path) -> None:
    assert memory_growth(short_video(tmp_path), 10_000) < 16


def dataset_of(path: Path, sampler_name: str, *arguments: float | Fraction) -> LabeledVideoDataset:
    dataset = LabeledVideoDataset(
        [(str(path), {"label": 7}), (str(path), {"label": 8})],
        make_clip_sampler(sampler_name, *arguments),
        video_sampler=SequentialSampler,
        decode_audio=False,
    )
    dataset.video_path_handler = VideoPathHandler()
    return dataset


def test_an_encoded_video_is_a_pytorchvideo_video(video_path: Path) -> None:
    assert isinstance(VideoPathHandler().video_from_path(str(video_path)), Video)


def test_pytorchvideo_samples_uniform_clips(video_path: Path) -> None:
    samples = list(dataset_of(video_path, "uniform", Fraction(2, 5)))
    assert [s["label"] for s in samples] == [7] * 5 + [8] * 5
    assert [s["clip_index"] for s in samples] == [0, 1, 2, 3, 4] * 2
    assert {s["video_name"] for s in samples} == {"fifty.mp4"}
    shown = [numbers(s["video"].permute(1, 2, 3, 0)) for s in samples[:5]]
    assert shown == [list(range(i, i + 10)) for i in range(0, 50, 10)]


@pytest.mark.parametrize(
    ("name", "arguments"), [("random", (0.4,)), ("constant_clips_per_video", (0.4, 3)), ("random_multi", (0.4, 2))]
)
def test_the_other_samplers_of_pytorchvideo_work(video_path: Path, name: str, arguments: tuple[float, ...]) -> None:
    samples = list(dataset_of(video_path, name, *arguments))
    assert len(samples) == (6 if name == "constant_clips_per_video" else 2)
    for sample in samples:
        for clip in sample["video"] if isinstance(sample["video"], list) else [sample["video"]]:
            shown = numbers(clip.permute(1, 2, 3, 0))
            assert shown == list(range(shown[0], shown[0] + len(shown)))
            assert len(shown) == 10


def test_a_pytorchvideo_dataset_reads_in_workers(video_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    dataset = dataset_of(video_path, "uniform", Fraction(2, 5))
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context=fork, timeout=300)
    assert sorted(int(label) for batch in loader for label in batch["label"]) == [7] * 5 + [8] * 5


def test_clips_equal_those_of_the_reader_of_pytorchvideo(tmp_path: Path) -> None:
    path = encode(tmp_path / "video.mp4", moving_square(50), g="12")
    theirs = PyTorchVideoEncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
    with open_video(path) as ours:
        assert ours.duration == pytest.approx(float(theirs.duration))
        for start, end in [(0, 0.5), (0.5, 1.21), (1.3, 99), (0, 2)]:
            assert_close(ours.get_clip(start, end)["video"], theirs.get_clip(start, end)["video"])
        assert ours.get_clip(5, 6) == theirs.get_clip(5, 6) == {"video": None, "audio": None}
    theirs.close()
