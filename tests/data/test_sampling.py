import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svt_zoo.data.sampling import (
    clip_window,
    cvrl_interval_clips,
    dense_clips,
    random_clips,
    replacement_index,
    sample_rng,
    svt_indices_code,
    svt_views_code,
    tsn_bounds,
    tsn_eval_clip,
    tsn_train_clip,
    uniform_clip,
)
from svt_zoo.data.views import ViewsConfig

totals = st.integers(1, 2000)
lengths = st.integers(1, 64)
windows = st.none() | st.floats(1, 3000) | st.integers(1, 3000)
seeds = st.integers(0, 2**32)
VIEW_FRAMES = [8, 16, 2, 2, 4, 4, 8, 8, 16, 16]


def svt_views(total, rng, **options):
    return ViewsConfig(**options).sample(total, 30.0, rng)


def is_clip(indices, total, num_frames):
    return (
        len(indices) == num_frames
        and all(type(i) is int for i in indices)
        and sorted(indices) == list(indices)
        and indices[0] >= 0
        and indices[-1] < total
    )


# Evaluation clips


@given(totals, lengths, windows, st.integers(1, 10), st.data())
def test_an_evaluation_clip_has_the_frames_asked_for_in_order_and_inside_the_video(
    total, num_frames, window, num_clips, data
):
    clip = data.draw(st.integers(0, num_clips - 1))
    indices = uniform_clip(total, num_frames, window=window, clip=clip, num_clips=num_clips)
    assert is_clip(indices, total, num_frames)


@given(totals, lengths, windows)
def test_a_single_evaluation_clip_lies_in_the_centre(total, num_frames, window):
    indices = uniform_clip(total, num_frames, window=window)
    assert abs((indices[0] + indices[-1]) / 2 - (total - 1) / 2) <= 0.5


@given(totals, st.integers(2, 64), windows)
def test_an_evaluation_clip_spans_its_window(total, num_frames, window):
    indices = uniform_clip(total, num_frames, window=window)
    width = total if window is None else min(window, total)
    assert abs((indices[-1] - indices[0] + 1) - width) <= 1


@given(totals, st.integers(2, 64), windows)
def test_the_frames_of_a_clip_are_evenly_spaced(total, num_frames, window):
    gaps = [after - before for before, after in pairwise(uniform_clip(total, num_frames, window=window))]
    assert max(gaps) - min(gaps) <= 1


@given(totals, st.integers(2, 64), windows, st.integers(2, 10))
def test_several_evaluation_clips_reach_from_the_first_frame_to_the_last(total, num_frames, window, num_clips):
    clips = [uniform_clip(total, num_frames, window=window, clip=i, num_clips=num_clips) for i in range(num_clips)]
    assert clips[0][0] == 0
    assert clips[-1][-1] == total - 1
    steps = [after[0] - before[0] for before, after in pairwise(clips)]
    assert max(steps) - min(steps) <= 1


@given(st.integers(2, 64), st.data())
def test_a_short_video_repeats_all_of_its_frames_and_not_only_the_last(num_frames, data):
    total = data.draw(st.integers(2, max(2, num_frames)))
    counts = Counter(uniform_clip(total, num_frames, window=256))
    assert sorted(counts) == list(range(total))
    assert max(counts.values()) <= (num_frames - 1) // (total - 1) + 1


def test_a_window_longer_than_the_video_is_the_whole_video():
    assert uniform_clip(95, 8, window=256) == uniform_clip(95, 8) == [0, 13, 27, 40, 54, 67, 81, 94]


def test_the_usual_clip_of_8x32_frames_lies_in_the_middle_of_a_10_second_video():
    assert uniform_clip(300, 8, window=256) == [22, 58, 95, 131, 168, 204, 241, 277]


def test_a_clip_of_one_frame_is_the_middle_of_its_window():
    assert uniform_clip(101, 1) == [50]
    assert uniform_clip(101, 1, window=11, clip=0, num_clips=2) == [5]


def test_a_video_of_one_frame_gives_that_frame_everywhere():
    rng = sample_rng(0, 0, 0)
    assert uniform_clip(1, 4) == [0, 0, 0, 0]
    assert dense_clips(1, 2, window=8) == [[0, 0]]
    assert random_clips(1, 2, rng, window=8, num_clips=2) == [[0, 0], [0, 0]]
    assert svt_views(1, rng) == [[0] * n for n in VIEW_FRAMES]
    assert cvrl_interval_clips(1, rng) == ([0] * 16, [0] * 16)
    assert tsn_train_clip(1, 3, rng) == tsn_eval_clip(1, 3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 0, "num_frames": 8}, "total must be >= 1 frame, got 0"),
        ({"total": 9, "num_frames": 0}, "num_frames must be >= 1, got 0"),
        ({"total": 9, "num_frames": 8, "window": 0.5}, "window must be >= 1 frame, got 0.5"),
        ({"total": 9, "num_frames": 8, "window": float("nan")}, "window must be >= 1 frame, got nan"),
        ({"total": 9, "num_frames": 8, "clip": 3, "num_clips": 3}, "clip must be >= 0 and <= num_clips - 1 = 2, got 3"),
        ({"total": 9, "num_frames": 8, "clip": -1}, "got -1"),
    ],
)
def test_an_impossible_clip_is_refused_with_the_number_that_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        uniform_clip(**arguments)


def test_8x32_is_256_frames_at_30_fps_and_lasts_as_long_at_25():
    assert clip_window(8, 32, 30) == 256
    assert clip_window(8, 32, 25) / 25 == pytest.approx(clip_window(8, 32, 30) / 30)


# Dense clips


@given(totals, lengths, windows, st.none() | st.floats(5, 500))
def test_dense_clips_reach_from_the_first_frame_to_the_last(total, num_frames, window, step):
    clips = dense_clips(total, num_frames, window=window, step=step)
    assert all(is_clip(clip, total, num_frames) for clip in clips)
    if num_frames > 1:
        assert clips[0][0] == 0
        assert clips[-1][-1] == total - 1
        assert all(before < after for before, after in pairwise(clips))


@given(totals, st.integers(1, 100))
def test_consecutive_dense_clips_of_all_frames_leave_no_frame_out(total, window):
    clips = dense_clips(total, window, window=window)
    assert {i for clip in clips for i in clip} == set(range(total))


def test_dense_clips_start_a_step_apart_and_the_last_ends_with_the_video():
    assert dense_clips(10, 2, window=4) == [[0, 3], [4, 7], [6, 9]]
    assert dense_clips(10, 2, window=4, step=3) == [[0, 3], [3, 6], [6, 9]]


def test_a_step_that_does_not_advance_is_refused():
    with pytest.raises(ValueError, match="step must be > 0 frames, got 0"):
        dense_clips(10, 2, window=4, step=0)


# Random clips and slow-fast pairs


@given(totals, lengths, windows, st.integers(1, 5), seeds)
def test_random_clips_lie_inside_the_video_and_span_their_window(total, num_frames, window, num_clips, seed):
    clips = random_clips(total, num_frames, sample_rng(seed, 0, 0), window=window, num_clips=num_clips)
    width = total if window is None else min(window, total)
    assert len(clips) == num_clips
    for clip in clips:
        assert is_clip(clip, total, num_frames)
        assert clip[-1] - clip[0] + 1 <= width + 1


def test_random_clips_start_at_every_frame_that_leaves_room_equally_often():
    rng = sample_rng(1, 0, 0)
    starts = Counter(clip[0] for clip in random_clips(12, 3, rng, window=3, num_clips=5000))
    assert sorted(starts) == list(range(10))
    assert min(starts.values()) > 400  # 500 each on average, standard deviation 21
    assert max(starts.values()) < 600


# Views of SVT


@given(totals, seeds)
def test_svt_views_have_the_papers_frames_inside_the_video(total, seed):
    views = svt_views(total, sample_rng(seed, 0, 0))
    assert len(views) == len(VIEW_FRAMES)
    assert all(is_clip(view, total, n) for view, n in zip(views, VIEW_FRAMES, strict=True))


@given(totals, seeds)
def test_global_views_span_90_percent_of_the_video_and_local_views_an_eighth(total, seed):
    views = svt_views(total, sample_rng(seed, 0, 0))
    spans = [view[-1] - view[0] + 1 for view in views]
    assert spans == [max(1, total * 9 // 10)] * 2 + [max(1, total // 8)] * 8


def test_each_view_is_drawn_from_anywhere_in_the_video():
    draws = [svt_views(80, sample_rng(0, 0, i)) for i in range(400)]
    for view, num_starts in ((0, 9), (1, 9), (2, 71), (9, 71)):
        starts = {draw[view][0] for draw in draws}
        assert min(starts) == 0
        assert max(starts) == num_starts - 1
        assert len(starts) > 0.9 * num_starts
    assert len({(draw[0][0], draw[1][0]) for draw in draws}) > 70  # of 81: independent of each other


@given(totals, seeds)
def test_without_temporal_variation_all_views_cover_the_same_90_percent(total, seed):
    views = svt_views(total, sample_rng(seed, 0, 0), temporal_variation=False)
    assert [len(view) for view in views] == VIEW_FRAMES
    assert {(view[0], view[-1]) for view in views} == {(views[0][0], views[0][0] + max(1, total * 9 // 10) - 1)}


def test_frames_and_spans_of_the_views_can_be_chosen():
    views = svt_views(100, sample_rng(0, 0, 0), global_frames=(4,), local_frames=(3, 5), global_span=1, local_span=0.29)
    assert views[0] == [0, 33, 66, 99]
    assert [(len(view), view[-1] - view[0] + 1) for view in views[1:]] == [(3, 29), (5, 29)]


@pytest.mark.parametrize("span", [0, -0.5, 1.01])
def test_a_span_outside_the_video_is_refused(span):
    with pytest.raises(ValueError, match=f"local_span must be > 0 and <= 1, got {span}"):
        ViewsConfig(local_span=span)


def test_the_views_of_the_released_code_are_reproduced(oracle):
    _, recorded = oracle("svt/view_sampling")
    assert len(recorded["views"]) == 22
    for case in recorded["views"]:
        for rand_fr, key in ((False, "fixed"), (True, "rand_fr")):
            rng = random.Random(case["seed"])
            assert svt_views_code(case["n_frames"], rng, rand_fr=rand_fr) == case[key]


def test_the_frame_indices_of_the_released_code_are_reproduced(oracle):
    _, recorded = oracle("svt/view_sampling")
    for case in recorded["temporal_sampling"]:
        assert svt_indices_code(case["n"], case["start"], case["end"], case["num"]) == case["idx"]


def test_the_released_code_takes_all_views_from_one_window_of_85_percent():
    ends = set()
    for seed in range(50):
        first, second, *_ = svt_views_code(300, random.Random(seed), window=256)
        ends.add((first[0], second[-1]))
        assert second[-1] - first[0] + 1 in (256, 257)
    assert min(first for first, _ in ends) < 5
    assert max(last for _, last in ends) > 294


@given(totals, st.floats(1, 600), seeds)
def test_the_views_of_the_released_code_lie_inside_the_video(total, window, seed):
    views = svt_views_code(total, random.Random(seed), rand_fr=True, window=window)
    assert all(is_clip(view, total, n) for view, n in zip(views, (4, 8, 2, 2, 4, 4, 8, 8, 16, 16), strict=True))


# Interval sampling (CVRL) and segments (TSN)


@given(totals, windows, seeds)
def test_interval_clips_lie_inside_the_video_the_earlier_first(total, window, seed):
    first, second = cvrl_interval_clips(total, sample_rng(seed, 0, 0), num_frames=(8, 16), window=window)
    assert is_clip(first, total, 8)
    assert is_clip(second, total, 16)
    assert first[0] <= second[0]
    assert second[-1] - second[0] == first[-1] - first[0]


def test_a_long_interval_between_clips_is_linearly_less_likely():
    rng = sample_rng(3, 0, 0)
    draws = 20_000
    pairs = [cvrl_interval_clips(40, rng, num_frames=(2, 2)) for _ in range(draws)]
    counts = Counter(second[0] - first[0] for first, second in pairs)
    for interval in range(10):  # 40 - 31 + 1 = 10 starts
        expected = (2 * (10 - interval) - 1) / 100
        assert counts[interval] / draws == pytest.approx(expected, abs=5 * (expected / draws) ** 0.5)


def test_the_earlier_interval_clip_starts_anywhere_that_leaves_room_for_the_interval():
    rng = sample_rng(4, 0, 0)
    pairs = [cvrl_interval_clips(40, rng, num_frames=(2, 2)) for _ in range(5000)]
    starts = {(first[0], second[0]) for first, second in pairs}
    assert starts == {(first, second) for second in range(10) for first in range(second + 1)}


def test_interval_clips_take_every_second_frame_by_default():
    first, _ = cvrl_interval_clips(300, sample_rng(0, 0, 0))
    assert first == list(range(first[0], first[0] + 31, 2))


def test_segment_bounds_and_middles_equal_those_of_the_ssv2_loaders(oracle):
    _, recorded = oracle("time/data_ssv2")
    assert recorded["sampling_table"]
    for case in recorded["sampling_table"]:
        assert tsn_bounds(case["length"], case["T"]) == case["bounds"]
        assert tsn_eval_clip(case["length"], case["T"]) == case["eval"]


@given(totals, lengths, seeds)
def test_a_training_clip_has_one_frame_of_each_segment(total, num_frames, seed):
    indices = tsn_train_clip(total, num_frames, sample_rng(seed, 0, 0))
    assert is_clip(indices, total, num_frames)
    bounds = tsn_bounds(total, num_frames)
    assert all(low <= i <= high for i, (low, high) in zip(indices, pairwise(bounds), strict=True))


def test_both_bounds_of_a_segment_can_be_drawn():
    rng = sample_rng(0, 0, 0)
    drawn = {tsn_train_clip(9, 2, rng)[0] for _ in range(200)}
    assert drawn == {0, 1, 2, 3, 4}


def test_the_second_evaluation_clip_of_xvit_takes_the_starts_of_the_segments():
    assert tsn_eval_clip(33, 8, at="start") == [0, 4, 8, 12, 16, 20, 24, 28]
    assert tsn_eval_clip(33, 8) == [2, 6, 10, 14, 18, 22, 26, 30]


def test_an_unknown_place_in_the_segment_is_refused():
    with pytest.raises(ValueError, match='at must be "middle" or "start", got \'end\''):
        tsn_eval_clip(33, 8, at="end")


# Seeds


def test_a_sample_draws_the_same_numbers_whenever_its_generator_is_made():
    assert sample_rng(7, 3, 11).integers(10**9, size=4).tolist() == [
        863766755,
        198354830,
        433718031,
        436150134,
    ]
    assert svt_views(300, sample_rng(7, 3, 11)) == svt_views(300, sample_rng(7, 3, 11))


def test_another_seed_epoch_or_index_draws_other_numbers():
    keys = [(s, e, i) for s in range(5) for e in range(5) for i in range(5)]
    assert len({sample_rng(*key).random() for key in keys}) == len(keys)


def test_the_generators_of_neighbouring_samples_are_uncorrelated():
    draws = np.array([sample_rng(0, 0, i).random(2) for i in range(2000)])  # (2000, 2)
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.1
    assert abs(draws.mean() - 0.5) < 0.03


@given(seeds, st.integers(0, 300), st.integers(2, 200), st.data())
def test_replacements_visit_every_other_sample_once(seed, epoch, size, data):
    index = data.draw(st.integers(0, size - 1))
    visited = [replacement_index(seed, epoch, index, attempt, size) for attempt in range(size - 1)]
    assert sorted(visited) == [i for i in range(size) if i != index]


def test_the_first_replacements_are_spread_over_the_list():
    counts = Counter(replacement_index(0, epoch, 3, 0, 11) for epoch in range(2000))
    assert sorted(counts) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert min(counts.values()) > 130  # 200 each on average, standard deviation 13
    assert max(counts.values()) < 270


def test_the_replacement_depends_on_seed_epoch_and_index():
    assert replacement_index(0, 0, 5, 0, 10**6) == 562517
    others = {replacement_index(s, e, i, 0, 10**6) for s, e, i in [(0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6)]}
    assert len(others) == 4


def test_a_list_without_another_sample_has_no_replacement():
    with pytest.raises(ValueError, match="sample 0 has 0 others to replace it, got attempt=0"):
        replacement_index(0, 0, 0, 0, 1)
    with pytest.raises(ValueError, match="sample 1 has 2 others to replace it, got attempt=2"):
        replacement_index(0, 0, 1, 2, 3)
