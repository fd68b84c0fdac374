import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svt_zoo.batch import Failure
from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig, RandomClips
from svt_zoo.data.crops import ViewSpec, ViewTransform
from svt_zoo.data.datasets import VideoDataset, frame_range
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import EvalViews, TrainViews, ViewsConfig
from svt_zoo.data.views import train_views as pretraining
from svt_zoo.video import VideoReadError, open_video

EVAL = EvalTransform(
    num_frames=4, sampling_rate=2, crop_size=16, resize_size=20, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fps=25
)


class FakeVideo:
    """Frame i of video v has gray level 10 v + i; videos 3 and 7 are broken."""

    def __init__(self, row: Row, num_frames: int = 10) -> None:
        self.number = int(Path(row.path).stem)
        self.num_frames = num_frames
        self.fps = 25.0
        self.pts = [i / self.fps for i in range(num_frames)]
        self.asked: list[int] = []
        if self.number in (3, 7):
            raise VideoReadError(row.path, "broken on purpose")

    def frames_at(self, indices: Sequence[int]) -> torch.Tensor:
        self.asked += indices
        levels = torch.tensor([10 * self.number + i for i in indices], dtype=torch.uint8)
        return levels.view(-1, 1, 1, 1).expand(-1, 24, 32, 3).contiguous()

    def __enter__(self) -> "FakeVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def sample_views(total: int, fps: float, rng: np.random.Generator) -> list[list[int]]:
    return ViewsConfig(global_frames=(4, 8), local_frames=(2,)).sample(total, fps, rng)


def train_views() -> TrainViews:
    return TrainViews(sample_views, [ViewTransform(ViewSpec(size=size)) for size in (16, 16, 8)])


def fake_list(n: int = 12) -> VideoList:
    return VideoList(tuple(Row(f"/v/{i}.mp4", i % 2) for i in range(n)), ("even", "odd"))


def train_dataset(n: int = 12, **options: Any) -> VideoDataset:
    return VideoDataset(fake_list(n), train_views(), train=True, open_row=FakeVideo, **options)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    same = all(torch.equal(x, y) for x, y in zip(a["video"], b["video"], strict=True))
    drawn = all(
        torch.equal(x, y) for p, q in zip(a["params"], b["params"], strict=True) for x, y in zip(p, q, strict=True)
    )
    return same and drawn and a["video_index"] == b["video_index"]


def test_a_sample_is_a_dictionary_in_the_words_of_pytorchvideo() -> None:
    sample = train_dataset()[5]
    assert [tuple(view.shape) for view in sample["video"]] == [(4, 16, 16, 3), (8, 16, 16, 3), (2, 8, 8, 3)]
    assert (sample["label"], sample["video_name"], sample["video_index"], sample["clip_index"]) == (1, "/v/5.mp4", 5, 0)
    assert sample["failures"] == []


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    dataset = train_dataset(seed=1)
    first = dataset[4]
    torch.manual_seed(99)
    assert equal(dataset[4], first)
    assert equal(dataset[0, 4], first)
    assert not equal(dataset[1, 4], first)
    assert not equal(train_dataset(seed=2)[4], first)


def test_set_epoch_is_the_epoch_of_a_plain_index() -> None:
    dataset = train_dataset()
    dataset.set_epoch(3)
    assert equal(dataset[4], train_dataset()[3, 4])


def test_each_frame_is_decoded_once_for_all_views() -> None:
    opened: list[FakeVideo] = []

    def open_row(row: Row) -> FakeVideo:
        opened.append(FakeVideo(row))
        return opened[-1]

    VideoDataset(fake_list(), train_views(), train=True, open_row=open_row)[0]
    assert len(opened) == 1
    assert opened[0].asked == sorted(set(opened[0].asked))


def test_a_broken_video_is_replaced_in_training_and_named() -> None:
    sample = train_dataset()[3]
    assert sample["failures"][0] == Failure("/v/3.mp4", "broken on purpose")
    assert sample["video_index"] not in (3, 7)
    assert sample["label"] == sample["video_index"] % 2
    assert equal(sample, train_dataset()[3])


def test_stand_ins_differ_from_epoch_to_epoch() -> None:
    assert len({train_dataset()[epoch, 3]["video_index"] for epoch in range(20)}) > 3


def test_a_stand_in_shows_other_views_than_the_video_itself() -> None:
    dataset = train_dataset()
    stand_in = dataset[3]
    assert not equal(stand_in, dataset[stand_in["video_index"]])


def test_training_gives_up_after_the_attempts_allowed() -> None:
    def refuse(row: Row) -> FakeVideo:
        raise VideoReadError(row.path, "no")

    sample = VideoDataset(fake_list(), train_views(), train=True, open_row=refuse, max_attempts=4)[0]
    assert sample["video"] is None
    assert len({path for path, _ in sample["failures"]}) == 4


def test_nothing_is_replaced_in_evaluation() -> None:
    sample = VideoDataset(fake_list(), EvalViews(EVAL), train=False, open_row=FakeVideo)[3]
    assert sample["video"] is None
    assert (sample["video_index"], sample["label"]) == (3, 1)
    assert sample["failures"] == [Failure("/v/3.mp4", "broken on purpose")]


def test_evaluation_views_are_the_transforms_own_whatever_the_epoch() -> None:
    dataset = VideoDataset(fake_list(), EvalViews(EVAL), train=False, open_row=FakeVideo)
    indices = EVAL.clip_indices(10, fps=25)
    expected = EVAL(FakeVideo(Row("/v/2.mp4")).frames_at(indices))
    assert torch.equal(dataset[0, 2]["video"], expected)
    assert torch.equal(dataset[5, 2]["video"], expected)


def test_evaluation_goes_through_clips_and_the_crops_of_each() -> None:
    dataset = VideoDataset(fake_list(), EvalViews(EVAL, num_clips=2, num_crops=3), train=False, open_row=FakeVideo)
    views = dataset[1]["video"]
    frames = FakeVideo(Row("/v/1.mp4")).frames_at(EVAL.clip_indices(10, fps=25, clip=1, num_clips=2))
    assert len(views) == 6
    assert torch.equal(views[5], EVAL.resized(EVAL.crop_size[0])(frames, crop=2, num_crops=3))


def test_a_video_without_label_has_label_minus_one() -> None:
    videos = VideoList((Row("/v/1.mp4"),))
    assert VideoDataset(videos, EvalViews(EVAL), train=False, open_row=FakeVideo)[0]["label"] == -1


def test_only_the_part_of_a_video_that_its_row_names_is_seen() -> None:
    row = Row("/v/1.mp4", start_sec=0.1, end_sec=0.28)
    assert frame_range(row, FakeVideo(row)) == (3, 7)
    opened: list[FakeVideo] = []

    def open_row(row: Row) -> FakeVideo:
        opened.append(FakeVideo(row))
        return opened[-1]

    VideoDataset(VideoList((row,)), train_views(), train=True, open_row=open_row)[0]
    assert set(opened[0].asked) <= {3, 4, 5, 6}


def test_a_part_beyond_the_end_fails_like_a_broken_video() -> None:
    videos = VideoList((Row("/v/1.mp4", start_sec=2.0, end_sec=3.0),))
    sample = VideoDataset(videos, EvalViews(EVAL), train=False, open_row=FakeVideo)[0]
    assert sample["failures"][0].reason == "no frame from 2.0 s to 3.0 s; the last is shown at 0.36 s"


def test_an_index_beyond_the_list_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="video 12 of a list of 12"):
        train_dataset()[12]


def test_any_exception_is_a_failure_of_its_video_with_type_and_message() -> None:
    views = TrainViews(sample_views, [ViewTransform(ViewSpec(size=8))])
    sample = VideoDataset(fake_list(), views, train=True, open_row=FakeVideo)[0]
    reason = "ValueError: the sampler makes 3 views, there are 1 transforms"
    assert sample["failures"][0] == Failure("/v/0.mp4", reason)


def test_a_dataset_can_be_sent_to_a_worker() -> None:
    dataset = train_dataset()
    assert equal(pickle.loads(pickle.dumps(dataset))[2, 5], dataset[2, 5])


def test_files_folders_of_frames_and_broken_files_are_read_from_one_list(
    tmp_path: Path, gray_video: Callable[..., Path]
) -> None:
    movie = gray_video(20)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "movie one.mp4").write_bytes(movie.read_bytes())
    (tmp_path / "a b" / "frames").mkdir()
    for i in range(6):
        Image.new("RGB", (32, 24), (20 * i,) * 3).save(tmp_path / "a b" / "frames" / f"{i}.png")
    (tmp_path / "cut.mp4").write_bytes(movie.read_bytes()[:1000])
    videos = read_list(tmp_path, frame_rate=25)
    dataset = VideoDataset(videos, EvalViews(EVAL), train=False)
    frames, film, cut = (dataset[i] for i in range(3))
    assert [Path(row.path).name for row in videos.rows] == ["frames", "movie one.mp4", "cut.mp4"]
    with open_video(movie) as video:
        expected = EVAL(video.frames_at(EVAL.clip_indices(20, fps=video.fps)))
    assert torch.equal(film["video"], expected)
    assert (frames["video"][:, :, 8, 8][0] * 255 / 20).round().int().tolist() == EVAL.clip_indices(6, fps=25)
    assert cut["video"] is None
    assert cut["failures"][0].path == str(tmp_path / "cut.mp4")


def test_a_video_that_cannot_be_fetched_fails_like_a_broken_one() -> None:
    videos = VideoList((Row("memory://nowhere/a.mp4"),))
    sample = VideoDataset(videos, EvalViews(EVAL), train=False)[0]
    assert "cannot be fetched" in sample["failures"][0].reason


def test_a_cut_file_fails_in_training_unless_it_is_allowed() -> None:
    class CutVideo(FakeVideo):
        cut = True

    def dataset(**options: Any) -> VideoDataset:
        views = train_views() if options["train"] else EvalViews(EVAL)
        return VideoDataset(fake_list(1), views, open_row=CutVideo, **options)

    refused = dataset(train=True)[0]
    assert refused["video"] is None
    assert "it ends before the duration that it states; repair the file, or set data.allow_cut=true" in str(
        refused["failures"]
    )
    for options in ({"train": True, "allow_cut": True}, {"train": False}):
        assert dataset(**options)[0]["failures"] == []


@pytest.mark.parametrize("rate", [0.05, 1e-6, 1e6])
def test_a_clip_takes_what_frames_there_are_at_any_rate(rate: float) -> None:
    class Odd(FakeVideo):
        def __init__(self, row: Row) -> None:
            super().__init__(row)
            self.fps = rate

    clip = EvalTransform(num_frames=8, sampling_rate=32, crop_size=16, resize_size=20, mean=(0,) * 3, std=(1,) * 3)
    for views in (
        EvalViews(clip, num_clips=2),
        RandomClips(clip, num_clips=2),
        FinetuneViews(clip, FinetuneViewsConfig()),
        *(pretraining(ViewsConfig(sampling=name, global_frames=(8, 8))) for name in ("paper", "code", "cvrl")),
    ):
        sample = VideoDataset(fake_list(1), views, train=False, open_row=Odd)[0]
        assert sample["failures"] == []


def test_a_time_lapse_with_a_frame_in_twenty_seconds_is_read(shared: Path) -> None:
    clip = EvalTransform(num_frames=8, sampling_rate=32, crop_size=32, resize_size=32, mean=(0,) * 3, std=(1,) * 3)
    videos = VideoList((Row(str(shared / "reported" / "timelapse_0.05fps.mp4")),))
    for views in (EvalViews(clip), FinetuneViews(clip, FinetuneViewsConfig())):
        sample = VideoDataset(videos, views, train=False)[0]
        assert sample["failures"] == []
