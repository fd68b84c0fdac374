"""CPC's clip: its frames and its random parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svt_zoo.data.augment import Augment
from svt_zoo.data.views import CPCViewsConfig, train_views

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
