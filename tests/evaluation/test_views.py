"""Evaluation views of a video: correct frames, correct crops, one decode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from svt_zoo.data.clips import RandomClips
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import EvalViews
from svt_zoo.evaluation.views import SlowFastViews, describe_views, fast_transform, load_views, parse_views
from svt_zoo.video import VideoReadError, open_video


def transform(num_frames: int = 4, sampling_rate: float | None = 5) -> EvalTransform:
    return EvalTransform(
        num_frames=num_frames,
        sampling_rate=sampling_rate,
        crop_size=32,
        resize_size=36,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        fps=25,
    )


def frames_seen(views: torch.Tensor) -> list[list[int]]:
    """Frame numbers that the views of a `gray_video` show; frame i has the gray level 24 + 4 * i."""
    return (views[:, 0, :, 16, 16] * 255).sub(24).div(4).round().int().tolist()


def one(path: Path, views: str, **clip: Any) -> torch.Tensor:
    """All views of a video, (V, 3, T, H, W)."""
    return torch.stack(load_views(path, parse_views(views, transform(**clip))))


def test_one_view_is_the_center_of_the_video(gray_video: Callable[..., Path]) -> None:
    views = one(gray_video(50), "1x1")
    assert views.shape == (1, 3, 4, 32, 32)
    [seen] = frames_seen(views)
    assert abs((seen[0] + seen[-1]) / 2 - 24.5) <= 1
    assert 15 <= seen[-1] - seen[0] <= 20


def test_clips_are_spread_over_the_video_and_their_crops_lie_together(gray_video: Callable[..., Path]) -> None:
    views = one(gray_video(50), "3x2")
    seen = frames_seen(views)
    assert views.shape[0] == 6
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == seen[4] == seen[5]
    assert seen[0][0] < 5
    assert seen[3][-1] > 44


def test_three_crops_are_left_center_and_right(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    ramp = np.linspace(40, 200, 144, dtype=np.uint8)  # dark on the left
    frames = np.broadcast_to(ramp[None, None, :, None], (10, 72, 144, 3))
    views = one(make_video(tmp_path / "ramp.mp4", frames), "3x1")
    left, centre, right = views.mean(dim=(1, 2, 3, 4)).tolist()
    assert left < centre - 0.05
    assert centre < right - 0.05


@pytest.mark.parametrize(("views", "top", "bottom"), [("3x1", 0, 71), ("1x1", 4, 67)])
def test_three_crops_show_all_of_the_short_side_and_a_single_one_a_part(views: str, top: int, bottom: int) -> None:
    rows = torch.arange(72, dtype=torch.uint8)[None, :, None, None].expand(4, 72, 144, 3)
    view = parse_views(views, transform()).make(rows, [range(4)], np.random.default_rng(0))[0][0]
    assert (view[0, 0, 0, 0] * 255).item() == pytest.approx(top, abs=1)
    assert (view[0, 0, -1, 0] * 255).item() == pytest.approx(bottom, abs=1)


def test_segments_spread_over_the_video(gray_video: Callable[..., Path]) -> None:
    [seen] = frames_seen(one(gray_video(48), "1x1", sampling_rate=None))
    assert seen == [6, 18, 29, 41]


def test_views_equal_the_frames_read_by_hand(gray_video: Callable[..., Path]) -> None:
    path, evaluate = gray_video(40), transform()
    with open_video(path) as video:
        frames = video.frames_at(evaluate.clip_indices(video.num_frames, fps=video.fps))
    assert_close(load_views(path, parse_views("1x1", evaluate))[0], evaluate(frames), atol=0, rtol=0)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        one(tmp_path / "broken.mp4", "1x1")


def views_of(path: Path, views: EvalViews | SlowFastViews | RandomClips, seed: int = 0) -> list[torch.Tensor]:
    videos = VideoList((Row(str(path)),))
    video = VideoDataset(videos, views, train=False, seed=seed)[0]["video"]
    return video if isinstance(video, list) else [video]


def test_slow_views_come_before_fast_ones_of_the_same_window(gray_video: Callable[..., Path]) -> None:
    slow = transform(num_frames=4, sampling_rate=10)
    views = views_of(gray_video(50), SlowFastViews(slow, fast_transform(slow, num_frames=20, crop_size=16)))
    assert [tuple(view.shape) for view in views] == [(3, 4, 32, 32)] * 3 + [(3, 20, 16, 16)] * 3
    few = frames_seen(views[0][None])[0]
    many = (views[3][0, :, 8, 8] * 255).sub(24).div(4).round().int().tolist()
    assert (few[0], few[-1]) == pytest.approx((many[0], many[-1]), abs=1)
    assert many[-1] - many[0] > 30


def test_random_slow_and_fast_clips_share_window_crop_and_flip(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    levels = np.arange(24, 144, dtype=np.uint8)[:, None] + np.linspace(0, 80, 128).astype(np.uint8)  # later, brighter
    path = make_video(tmp_path / "ramp.mp4", np.broadcast_to(levels[:, None, :, None], (120, 64, 128, 3)))
    slow = transform(num_frames=4, sampling_rate=10)
    clips = RandomClips(slow, num_clips=12, fast=fast_transform(slow, num_frames=20, crop_size=16))
    views = views_of(path, clips)
    slopes = []
    for first, second in zip(views[::2], views[1::2], strict=True):
        assert (first.shape, second.shape) == ((3, 4, 32, 32), (3, 20, 16, 16))
        for t, u in ((0, 0), (-1, -1)):
            assert first[:, t].mean() == pytest.approx(second[:, u].mean().item(), abs=0.01)
        left_to_right = [view[0, 0, :, -1].mean() - view[0, 0, :, 0].mean() for view in (first, second)]
        assert left_to_right[0] * left_to_right[1] > 0
        slopes.append(left_to_right[0].item())
    assert min(slopes) < 0 < max(slopes)  # some are flipped
    starts = {round(view[:, 0].mean().item(), 2) for view in views[::2]}
    assert len(starts) > 6
    unflipped = views_of(path, RandomClips(slow, num_clips=12, flip=0.0))
    assert all(view[0, 0, :, -1].mean() > view[0, 0, :, 0].mean() for view in unflipped)


def test_random_clips_depend_on_the_seed_alone(gray_video: Callable[..., Path]) -> None:
    path, clips = gray_video(50), RandomClips(transform(), num_clips=3)
    first, again, other = (torch.stack(views_of(path, clips, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_clips_without_a_sampling_rate_draw_a_frame_of_each_segment(gray_video: Callable[..., Path]) -> None:
    segments = RandomClips(transform(sampling_rate=None), num_clips=8)
    seen = frames_seen(torch.stack(views_of(gray_video(48), segments)))
    assert len({tuple(clip) for clip in seen}) > 4
    for clip in seen:
        assert all(11.75 * i - 1 <= frame <= 11.75 * (i + 1) + 1 for i, frame in enumerate(clip))


def test_random_clips_need_a_square_crop() -> None:
    wide = EvalTransform(**{**vars(transform()), "crop_size": (16, 32)})
    with pytest.raises(ValueError, match="need a square crop"):
        RandomClips(wide)


def test_views_have_names() -> None:
    many = parse_views("3x10", transform())
    assert isinstance(many, EvalViews)
    assert (many.num_crops, many.num_clips) == (3, 10)
    assert describe_views(parse_views("slow-fast 3x1", transform())) == describe_views(SlowFastViews(transform()))
    for wrong in ("2x1", "3x0", "3", "fast 3x1", "3x1 "):
        with pytest.raises(ValueError, match="CROPSxCLIPS"):
            parse_views(wrong, transform())


def test_descriptions_differ_with_anything_that_changes_the_views() -> None:
    views = [
        parse_views("1x1", transform()),
        parse_views("3x1", transform()),
        parse_views("1x1", transform(num_frames=5)),
        parse_views("slow-fast 1x1", transform()),
        RandomClips(transform()),
        RandomClips(transform(), flip=0.0),
    ]
    assert len({describe_views(view) for view in views}) == len(views)
    assert "0x" not in "".join(map(describe_views, views))  # no memory address
