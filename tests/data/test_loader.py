import csv
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svt_zoo.batch import Batch
from svt_zoo.data.augment import Augment
from svt_zoo.data.crops import ViewSpec, ViewTransform
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import (
    EpochSampler,
    TooManyFailures,
    VideoLoader,
    WorkerError,
    WorkerLoader,
    collate,
)
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import EvalViews, TrainViews, VideoViews, ViewsConfig
from svt_zoo.video import VideoReadError

BROKEN = (3, 7, 11)
EVAL = EvalTransform(
    num_frames=2, sampling_rate=2, crop_size=8, resize_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fps=25
)


class FakeVideo:
    """Ten frames of noise, different for each video; some videos are broken."""

    num_frames, fps = 10, 25.0
    pts = tuple(i / 25 for i in range(10))

    def __init__(self, row: Row) -> None:
        self.number = int(Path(row.path).stem)
        if self.number in BROKEN:
            raise VideoReadError(row.path, "broken on purpose")

    def frames_at(self, indices: Sequence[int]) -> torch.Tensor:
        noise = np.random.default_rng(self.number).integers(0, 255, (10, 12, 16, 3), dtype=np.uint8)
        return torch.from_numpy(noise[list(indices)])

    def __enter__(self) -> "FakeVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def sample_views(total: int, fps: float, rng: np.random.Generator) -> list[list[int]]:
    return ViewsConfig(global_frames=(2, 4), local_frames=(2,)).sample(total, fps, rng)


def make_dataset(n: int = 22, *, train: bool = True, seed: int = 5) -> VideoDataset:
    videos = VideoList(tuple(Row(f"/v/{i}.mp4", i % 3) for i in range(n)), ("a", "b", "c"))
    views = TrainViews(sample_views, [ViewTransform(ViewSpec(size=size, blur=0.5)) for size in (12, 12, 8)])
    return VideoDataset(videos, views if train else EvalViews(EVAL), train=train, seed=seed, open_row=FakeVideo)


def make_loader(n: int = 22, *, train: bool = True, batch_size: int = 4, **options: Any) -> VideoLoader:
    return VideoLoader(make_dataset(n, train=train), batch_size=batch_size, **{"max_failure_fraction": 1.0} | options)


def digest(batch: Batch) -> tuple[list[int], str, list[tuple[str, str]]]:
    """A short summary of a batch, for comparing and printing."""
    content = hashlib.sha256()
    for tensor in (*batch.views, batch.labels, *(field for params in batch.params for field in params)):
        content.update(tensor.numpy().tobytes())
    return batch.video_index.tolist(), content.hexdigest(), list(batch.failures)


def stream(batches: Iterable[Batch]) -> list[tuple[list[int], str, list[tuple[str, str]]]]:
    return [digest(batch) for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_workers_gives_the_same_stream(num_workers: int) -> None:
    alone, parallel = make_loader(), make_loader(num_workers=num_workers)
    for _ in range(2):  # the second epoch comes from the same workers
        assert stream(parallel) == stream(alone)
    assert parallel.epoch == 2


def test_epochs_differ_in_order_and_views() -> None:
    loader = make_loader()
    first, second = stream(loader), stream(loader)
    assert [indices for indices, _, _ in first] != [indices for indices, _, _ in second]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_share_what_one_would_see(num_workers: int) -> None:
    alone = [sample for batch in make_loader(batch_size=4) for sample in batch.video_index.tolist()]
    halves = [make_loader(batch_size=2, rank=rank, world_size=2, num_workers=num_workers) for rank in (0, 1)]
    shared = [
        index
        for pair in zip(*halves, strict=True)
        for both in zip(*(batch.video_index.tolist() for batch in pair), strict=True)
        for index in both
    ]
    assert shared == alone


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 2)])
def test_a_run_stopped_in_mid_epoch_resumes_with_the_next_batch(before: int, after: int) -> None:
    straight = make_loader()
    expected = stream(straight) + stream(straight)
    stopped = make_loader(num_workers=before)
    seen = stream(islice(stopped, 3))
    resumed = make_loader(num_workers=after)
    resumed.load_state_dict(stopped.state_dict())
    seen += stream(resumed)
    assert seen + stream(resumed) == expected


def test_broken_files_are_among_what_is_compared() -> None:
    assert sum(len(failures) for _, _, failures in stream(make_loader())) >= len(BROKEN) - 2


def test_a_run_may_resume_with_another_number_of_processes() -> None:
    straight = make_loader(24, batch_size=4)
    expected = [index for batch in islice(straight, 1, None) for index in batch.video_index.tolist()]
    stopped = make_loader(24, batch_size=4)
    stream(islice(stopped, 1))
    halves = [make_loader(24, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict(stopped.state_dict())
    seen = [index for half in halves for batch in half for index in batch.video_index.tolist()]
    assert sorted(seen) == sorted(expected)


def test_a_run_stopped_after_the_last_batch_goes_on_with_the_next_epoch() -> None:
    straight = make_loader()
    stream(straight)
    expected = stream(straight)
    stopped = make_loader()
    stream(islice(stopped, len(stopped)))
    resumed = make_loader()
    resumed.load_state_dict(stopped.state_dict())
    assert stream(resumed) == []
    assert stream(resumed) == expected


def test_another_list_cannot_resume_in_mid_epoch() -> None:
    state = make_loader(22).state_dict()
    with pytest.raises(ValueError, match="cannot resume in the middle of an epoch: list_sha256 is"):
        make_loader(21).load_state_dict(state)


def test_the_state_is_plain_data(tmp_path: Path) -> None:
    loader = make_loader()
    stream(islice(loader, 2))
    state = loader.state_dict()
    assert (state["epoch"], state["position"], state["seed"]) == (0, 8, 5)
    torch.save(state, tmp_path / "state.pth")
    assert torch.load(tmp_path / "state.pth", weights_only=True) == state


def test_set_epoch_keeps_the_place_that_a_resumed_loader_is_at() -> None:
    expected = stream(make_loader())
    stopped, resumed = make_loader(), make_loader()
    stream(islice(stopped, 2))
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(0)
    assert stream(resumed) == expected[2:]
    resumed.set_epoch(0)
    assert stream(resumed) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_that_was_left_early_starts_anew(num_workers: int) -> None:
    loader, expected = make_loader(num_workers=num_workers), stream(make_loader())
    assert stream(islice(loader, 1)) == expected[:1]
    assert stream(loader) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_global_random_state_alone(num_workers: int) -> None:
    before = torch.get_rng_state()
    stream(make_loader(num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_feeds_the_augmentation() -> None:
    batch = next(iter(make_loader(num_workers=1)))
    for view, params, size, num_frames in zip(batch.views, batch.params, (12, 12, 8), (2, 4, 2), strict=True):
        assert Augment()(view, params).shape == (4, 3, num_frames, size, size)


# Evaluation


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    start=st.integers(0, 3),
    train=st.booleans(),
)
def test_no_sample_comes_twice_and_evaluation_leaves_none_out(
    size: int, batch_size: int, world_size: int, start: int, train: bool
) -> None:
    if train and size < batch_size * world_size:
        with pytest.raises(ValueError, match="are fewer than one batch"):
            EpochSampler(size, batch_size, train=True, world_size=world_size)
        return
    samplers = [EpochSampler(size, batch_size, train=train, rank=r, world_size=world_size) for r in range(world_size)]
    whole = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in whole] == [len(sampler) for sampler in samplers]
    seen = [index for batches in whole for batch in batches for _, index in batch]
    assert len(set(seen)) == len(seen)
    if train:
        assert {len(batch) for batches in whole for batch in batches} == {batch_size}
        assert size - len(seen) < batch_size * world_size
    else:
        assert sorted(seen) == list(range(size))
    for sampler, batches in zip(samplers, whole, strict=True):
        sampler.position = start * sampler.samples_per_step
        assert list(sampler) == batches[start:]


def test_evaluation_reports_what_is_missing_and_shows_the_rest(tmp_path: Path) -> None:
    loader = make_loader(13, train=False, batch_size=1, max_failure_fraction=0.0, output_dir=tmp_path, num_workers=1)
    shown = [index for batch in loader for index in batch.video_index.tolist()]
    assert shown == [i for i in range(13) if i not in BROKEN]
    assert loader.failures == {f"/v/{i}.mp4": "broken on purpose" for i in BROKEN}


def test_evaluation_is_in_the_order_of_the_list() -> None:
    batches = list(make_loader(6, train=False))
    assert [batch.video_index.tolist() for batch in batches] == [[0, 1, 2], [4, 5]]
    assert batches[0].views[0].shape == (3, 3, 2, 8, 8)


# Failures


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_failures_stop_training_with_the_list(num_workers: int, tmp_path: Path) -> None:
    loader = make_loader(max_failure_fraction=0.1, num_workers=num_workers, output_dir=tmp_path)
    with pytest.raises(
        TooManyFailures, match=r"(?s)3 of 22 videos cannot be read, at most 2\.2 may fail .*/7\.mp4: broken"
    ):
        stream(loader)


def test_failures_below_the_share_are_written_once_an_epoch(tmp_path: Path) -> None:
    loader = make_loader(max_failure_fraction=0.2, output_dir=tmp_path / "run")
    stream(loader)
    first = loader.failures
    stream(loader)
    rows = list(csv.reader((tmp_path / "run" / "failures.csv").open()))
    assert rows[0] == ["epoch", "path", "reason"]
    assert {tuple(row) for row in rows[1:] if row[0] == "0"} == {("0", path, why) for path, why in first.items()}
    assert len({tuple(row) for row in rows}) == len(rows)
    assert {row[0] for row in rows[1:]} == {"0", "1"}


def test_each_process_writes_a_file_of_its_own(tmp_path: Path) -> None:
    stream(make_loader(12, batch_size=6, rank=1, world_size=2, output_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["failures_rank1.csv"]


def test_a_sample_that_finds_no_stand_in_stops_training() -> None:
    dataset = make_dataset()
    dataset.max_attempts = 1
    with pytest.raises(TooManyFailures, match="of 22 videos cannot be read"):
        stream(VideoLoader(dataset, batch_size=4, max_failure_fraction=1.0))


def test_failures_before_a_stop_count_after_the_resume() -> None:
    stopped = make_loader()
    stream(islice(stopped, 4))
    resumed = make_loader()
    resumed.load_state_dict(stopped.state_dict())
    stream(resumed)
    straight = make_loader()
    stream(straight)
    assert resumed.failures == straight.failures


def test_failures_of_an_epoch_that_is_over_do_not_count_after_a_resume() -> None:
    straight, resumed = make_loader(), make_loader()
    stream(straight)
    resumed.load_state_dict(straight.state_dict())
    resumed.dataset.open_row = lambda row: FakeVideo(Row("/v/0.mp4"))  # all videos can be read from here on
    stream(resumed)
    assert resumed.failures == {}


# Collating


def test_views_of_different_shapes_name_both_videos() -> None:
    samples = [
        {"video": torch.zeros(n, 4, 4, 3), "label": 0, "video_index": n, "video_name": f"{n}.mp4", "failures": []}
        for n in (2, 3)
    ]
    with pytest.raises(ValueError, match=r"3\.mp4 has \[\(3, 4, 4, 3\)\], 2\.mp4 has \[\(2, 4, 4, 3\)\]"):
        collate(samples)


# Workers


def test_workers_run_on_one_thread() -> None:
    dataset = make_dataset(4, train=False)
    dataset.views = ThreadCount()
    assert [int(batch.views[0][0]) for batch in VideoLoader(dataset, batch_size=1, num_workers=1)] == [1, 1, 1]


class ThreadCount:
    """Returns the number of threads of a worker instead of views."""

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> list[list[int]]:
        return [[0]]

    def make(self, frames: torch.Tensor, places: object, rng: np.random.Generator) -> VideoViews:
        return VideoViews([torch.tensor(torch.get_num_threads())], [])


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_workers_start_by_any_method(start_method: str) -> None:
    assert stream(make_loader(num_workers=2, start_method=start_method)) == stream(make_loader())


LEAVES = """
import sys
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.views import TrainViews
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import VideoLoader
from svt_zoo.video import open_video
from svt_zoo.data.crops import ViewSpec, ViewTransform

def sampler(total, fps, rng):
    return [[0, 5]]

if __name__ == "__main__":
    movie, start_method = sys.argv[1:]
    open_video(movie).frames_at([0])  # the parent has decoded before it forks
    views = TrainViews(sampler, [ViewTransform(ViewSpec(size=16))])
    dataset = VideoDataset(VideoList((Row(movie),) * 100), views, train=True)
    loader = VideoLoader(dataset, batch_size=2, num_workers=2, start_method=start_method)
    for batch in loader:
        print(len(batch), *(worker.pid for worker in loader.batches._iterator._workers), flush=True)
        if not sys.stdin.readline():
            break
"""


def start_program(tmp_path: Path, movie: Path, start_method: str) -> subprocess.Popen[str]:
    """Starts a program that prints a line per batch, then waits for an input line; it exits at the end of its input."""
    (tmp_path / "program.py").write_text(LEAVES)
    command = [sys.executable, str(tmp_path / "program.py"), str(movie), start_method]
    root, pipe = Path(__file__).resolve().parents[2], subprocess.PIPE
    return subprocess.Popen(command, cwd=root, env={"PYTHONPATH": str(root)}, stdin=pipe, stdout=pipe, text=True)


def wait_until_all_ended(program: subprocess.Popen[str]) -> str:
    """Returns the remaining output of the program and its workers, which keep the pipe open until they end."""
    return program.communicate(timeout=300)[0]


def test_a_program_that_leaves_in_mid_epoch_ends(tmp_path: Path, gray_video: Callable[..., Path]) -> None:
    program = start_program(tmp_path, gray_video(12), "fork")
    out = wait_until_all_ended(program)
    assert program.returncode == 0
    assert out.split()[0] == "2"


@pytest.mark.parametrize("start_method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_do_not_outlive_a_program_that_is_killed(
    tmp_path: Path, gray_video: Callable[..., Path], start_method: str
) -> None:
    program = start_program(tmp_path, gray_video(12), start_method)
    assert program.stdout is not None
    assert len(program.stdout.readline().split()) == 3
    program.kill()
    wait_until_all_ended(program)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="signals with a sender need Linux")
def test_workers_leave_a_signal_to_all_processes_to_their_parent(
    tmp_path: Path, gray_video: Callable[..., Path]
) -> None:
    program = start_program(tmp_path, gray_video(12), "fork")
    assert program.stdout is not None
    assert program.stdin is not None
    first = program.stdout.readline()
    for turn in range(20):  # more batches than were prefetched: the workers continue
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == first
        if turn == 0:  # each worker has returned a batch
            for pid in first.split()[1:]:
                os.kill(int(pid), signal.SIGTERM)
                os.kill(int(pid), signal.SIGUSR1)
    wait_until_all_ended(program)
    assert program.returncode == 0


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"), "--shm-size=8g"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "--shm-size=8g"),
        (OSError(24, "Too many open files"), "ulimit -n 4096"),
    ],
)
def test_workers_that_lack_memory_or_files_name_the_way_out(error: Exception, advice: str) -> None:
    def fail(samples: list[int]) -> None:
        raise error

    loader = WorkerLoader([1, 2], num_workers=0, batch_size=2, collate_fn=fail)
    with pytest.raises(WorkerError, match=rf"the workers .* lack .*{advice}\)?, or set data\.num_workers=0"):
        list(loader)


def test_another_error_of_a_worker_stays_as_it_is() -> None:
    loader = WorkerLoader([1, 2], num_workers=0, batch_size=2, collate_fn=lambda samples: [][0])
    with pytest.raises(IndexError):
        list(loader)


@pytest.mark.skipif(sys.platform != "linux", reason="file descriptors carry tensors on Linux only")
def test_workers_read_where_few_files_may_be_open(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("""
import resource
import torch
from svt_zoo.data.loader import WorkerLoader

class Views(torch.utils.data.Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, i):
        return [torch.full((4, 4), i) for _ in range(10)]

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    print(len(list(WorkerLoader(Views(), num_workers=2, batch_size=2))))
""")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "8\n", done.stderr
