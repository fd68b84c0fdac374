"""Views of pre-training (SVT, CPC), and datasets built from a recipe."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svt_zoo.data.augment import Augment
from svt_zoo.data.datasets import training_dataset
from svt_zoo.data.list_formats import ListError
from svt_zoo.data.lists import DataConfig, evaluation_list, training_list
from svt_zoo.data.views import CPCViewsConfig, ViewsConfig, train_views

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


class Legacy:
    """The original's random generator with the interface of numpy's new generators."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)

    def integers(self, high: int) -> int:
        return self.random.randint(high)


def cpc_views(num_frames: int, frame_step: int) -> CPCViewsConfig:
    return CPCViewsConfig(context_frames=num_frames - 1, pred_frames=1, frame_step=frame_step)


def test_frames_equal_the_originals(oracle: Oracle) -> None:
    cases = oracle("cpc/oracle")[1]["index_sampling"]
    assert len(cases) > 10
    for case in cases:
        if case["zero_based_frames"] is None:
            continue  # the original drops such short videos
        views = cpc_views(case["num_seq"], case["ds"])
        frames = views.sample(case["vlen"], 25.0, Legacy(case["numpy_seed"]))  # type: ignore[arg-type]
        assert frames == [case["zero_based_frames"]], case


@given(total=st.integers(1, 60), num_frames=st.integers(2, 8), step=st.integers(1, 5), seed=st.integers(0, 99))
def test_frames_lie_in_the_video_in_order_and_one_step_apart_where_that_fits(
    total: int, num_frames: int, step: int, seed: int
) -> None:
    (clip,) = cpc_views(num_frames, step).sample(total, 25.0, np.random.default_rng(seed))
    assert len(clip) == num_frames
    assert clip == sorted(clip)
    assert 0 <= clip[0] <= clip[-1] < total
    if total > num_frames * step:
        assert set(np.diff(clip).tolist()) <= {step}


def view_of(frames: Tensor, **options: Any) -> Any:
    views = train_views(CPCViewsConfig(context_frames=3, pred_frames=2, frame_step=1, size=32, **options))
    made, params, *_ = views.make(frames, [list(range(5))], np.random.default_rng(0))
    return made, params


def test_colours_are_drawn_once_a_clip_or_for_each_frame() -> None:
    frames = torch.randint(0, 255, (1, 40, 50, 3), dtype=torch.uint8).expand(5, -1, -1, -1)
    for jitter, differs in (("clip", False), ("frame", True)):
        (view,), (params,) = view_of(frames, jitter=jitter)
        batch = Augment()(view[None], type(params)(*(field[None] for field in params)))
        assert batch.shape == (1, 3, 5, 32, 32)
        assert bool((batch != batch[:, :, :1]).any()) == differs


def test_without_strength_and_grayscale_colours_stay() -> None:
    _, (params,) = view_of(torch.zeros(5, 40, 50, 3, dtype=torch.uint8), jitter_strength=0.0, grayscale=0.0)
    assert params.brightness.eq(1).all()
    assert params.hue.eq(0).all()
    assert params.gray.eq(0).all()


def test_the_crop_keeps_the_originals_scale_at_any_size() -> None:
    assert CPCViewsConfig(size=224).scaled_side == 240
    assert CPCViewsConfig(size=196).scaled_side == 210
    assert CPCViewsConfig(size=128).scaled_side == 137
    assert CPCViewsConfig(size=128, short_side=160).scaled_side == 160


def test_counts_of_frames_start_at_one() -> None:
    with pytest.raises(ValueError, match="pred_frames must be >= 1, got 0"):
        CPCViewsConfig(pred_frames=0)


def indices(views: ViewsConfig, total: int = 300, seed: int = 0) -> list[list[int]]:
    return [list(view) for view in views.sample(total, 30.0, np.random.default_rng(seed))]


@pytest.fixture
def folder(tmp_path: Path, gray_video: Callable[..., Path]) -> Path:
    for name in ("jump", "run"):
        for i in range(3):
            file = tmp_path / "videos" / name / f"{i}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gray_video(20).read_bytes() + bytes([i]))
    return tmp_path / "videos"


def test_the_defaults_are_the_papers_views() -> None:
    views = indices(ViewsConfig())
    assert [len(view) for view in views] == [8, 16, 2, 2, 4, 4, 8, 8, 16, 16]
    for view in views[:2]:
        assert view[-1] - view[0] == pytest.approx(269, abs=1)  # 90 % of 300 frames
    for view in views[2:]:
        assert view[-1] - view[0] == pytest.approx(36, abs=1)  # an eighth
    specs = [transform.spec for transform in train_views(ViewsConfig()).transforms]
    assert [spec.size for spec in specs] == [224, 224] + [96] * 8
    assert specs[2].area == (0.05, 0.4)


def test_the_release_shows_eight_frames_of_one_part_everywhere() -> None:
    views = indices(ViewsConfig(sampling="code"), total=900)
    assert [len(view) for view in views] == [8] * 10
    seen = [index for view in views for index in view]
    assert max(seen) - min(seen) <= 257  # 8.53 seconds
    assert [len(view) for view in indices(ViewsConfig(sampling="code", rand_fr=True))][:2] == [4, 8]


def test_cvrl_replaces_the_global_views_and_keeps_the_local_ones() -> None:
    config = ViewsConfig(sampling="cvrl", global_frames=(16, 16), local_frames=(2, 4))
    views = indices(config)
    assert [len(view) for view in views] == [16, 16, 2, 4]
    assert [view[-1] - view[0] for view in views[:2]] == [30, 30]  # CVRL's window, not 90 % of the video
    assert len(train_views(config).transforms) == 4


@pytest.mark.parametrize("sampling", ["paper", "code", "cvrl"])
def test_views_are_drawn_from_the_generator_alone(sampling: str) -> None:
    config = ViewsConfig(sampling=sampling, global_frames=(8, 8))  # type: ignore[arg-type]
    assert indices(config, seed=5) == indices(config, seed=5)
    assert indices(config, seed=5, total=1000) != indices(config, seed=6, total=1000)
    assert pickle.loads(pickle.dumps(train_views(config))).sampler.__self__ == config  # workers may be spawned


def test_variation_can_be_switched_off() -> None:
    same = indices(ViewsConfig(temporal_variation=False))
    assert {(view[0], view[-1]) for view in same} == {(same[0][0], same[0][-1])}
    specs = [t.spec for t in train_views(ViewsConfig(spatial_variation=False)).transforms]
    assert {(spec.size, spec.area) for spec in specs} == {(224, None)}


def test_a_folder_of_classes_becomes_a_dataset(folder: Path) -> None:
    views = ViewsConfig(global_size=32, local_size=16, local_frames=(2,))
    dataset = training_dataset(DataConfig(train=str(folder)), views, seed=3)
    sample = dataset[0]
    assert [tuple(view.shape) for view in sample["video"]] == [(8, 32, 32, 3), (16, 32, 32, 3), (2, 16, 16, 3)]
    assert dataset.videos.classes == ("jump", "run")


def test_a_subset_is_drawn_by_the_seed(folder: Path) -> None:
    data = DataConfig(train=str(folder), subset=2)
    assert len(training_list(data, seed=1)) == 2
    assert training_list(data, seed=1).sha256 == training_list(data, seed=1).sha256


def test_training_on_evaluation_videos_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="share"):
        training_list(DataConfig(train=str(folder), val=str(folder)))
    assert len(training_list(DataConfig(train=str(folder), val=str(folder), allow_overlap=True))) == 6


def test_validation_videos_are_whole_groups_of_the_training_list(folder: Path, tmp_path: Path) -> None:
    rows = [f"videos/{name}/{i}.mp4,{name},{name}_{i // 2}" for name in ("jump", "run") for i in range(8)]
    table = tmp_path / "train.csv"
    table.write_text("\n".join(["file,label,group", *rows]) + "\n")
    data = DataConfig(train=str(table), val=str(folder), validation_fraction=0.5, allow_overlap=True)
    train, val = training_list(data), evaluation_list(data)
    assert [len(train), len(val)] == [8, 8]
    assert not {row.group for row in train.rows} & {row.group for row in val.rows}
    assert [sum(row.label == label for row in val.rows) for label in (0, 1)] == [4, 4]
    assert evaluation_list(data).rows == val.rows
    assert len(training_list(DataConfig(train=str(table)))) == 16


def test_evaluation_uses_the_labels_of_training(folder: Path, tmp_path: Path) -> None:
    videos = evaluation_list(DataConfig(val=str(folder)), classes=("crawl", "jump", "run"))
    assert {row.label for row in videos.rows} == {1, 2}


def test_a_recipe_without_videos_says_which_key_to_set() -> None:
    with pytest.raises(ListError, match=r"data\.train is empty; add data\.train=LIST_OR_FOLDER"):
        training_list(DataConfig())
    with pytest.raises(ListError, match=r"data\.val is empty"):
        evaluation_list(DataConfig())
