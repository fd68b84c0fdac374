import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from svt_zoo.data.lists import read_list
from svt_zoo.demo.synthetic import MOTIONS, drift, make_videos, paint
from svt_zoo.video import open_video

CELLS = 3


def cells(places: np.ndarray) -> np.ndarray:
    """Number of the 3x3 grid cell that contains each place."""
    column, row = (places * CELLS).astype(int).T
    return row * CELLS + column


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("frame", [0, 3, 7])
def test_one_frame_says_nothing_because_the_light_is_anywhere_with_equal_chance(motion: str, frame: int) -> None:
    places = np.stack([drift(motion, np.random.default_rng(i), 8)[frame] for i in range(4500)])
    counts = np.bincount(cells(places), minlength=CELLS**2)
    assert_allclose(counts, 500, atol=5 * 500**0.5)


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_one_frame_looks_alike_on_average_in_all_classes(frame: int) -> None:
    means = []
    for motion in MOTIONS:
        rng = np.random.default_rng(0)
        clips = [paint(drift(motion, rng, 8)[frame : frame + 1], rng, 6) for _ in range(1500)]
        means.append(np.mean(clips, axis=(0, 1)))  # (H, W, 3)
    spread = 80 / 1500**0.5  # standard error of a mean of pixels that differ by 80 or less
    assert_allclose(means, np.broadcast_to(np.mean(means, axis=0), np.shape(means)), atol=5 * spread)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("rate", [1, 2, 4])
def test_at_any_frame_rate_the_light_goes_along_the_line_of_its_class(motion: str, rate: int) -> None:
    places = drift(motion, np.random.default_rng(0), 32)[::rate]
    steps = (np.diff(places, axis=0) + 0.5) % 1 - 0.5
    line = np.array(MOTIONS[motion]) * rate / 32
    assert_allclose(steps * np.sign((steps @ line)[:, None]), np.broadcast_to(line, steps.shape), atol=1e-12)


def test_both_ways_along_a_line_are_one_class() -> None:
    starts = [drift("sideways", np.random.default_rng(i), 32)[:2, 0] for i in range(40)]
    ways = {bool((second - first + 0.5) % 1 > 0.5) for first, second in starts}
    assert ways == {True, False}


def test_looks_are_drawn_anew_for_each_frame() -> None:
    frames = paint(np.full((2, 2), 0.5), np.random.default_rng(0), 32).astype(int)  # the light does not move
    assert np.abs(frames[0] - frames[1])[:4, :4].mean() > 3  # the background
    assert np.abs(frames[0] - frames[1])[14:18, 14:18].mean() > 3  # the light


def test_the_light_that_leaves_over_an_edge_comes_in_over_the_opposite_one() -> None:
    frame = paint(np.array([[0.0, 0.5]]), np.random.default_rng(0), 32)[0].mean(-1)
    assert min(frame[16, 0], frame[16, -1]) > 2 * frame[16, 16]


def test_videos_are_h264_files_in_folders_of_their_class(tmp_path: Path) -> None:
    make_videos(tmp_path, per_class=2, seed=0, num_frames=8, size=32)
    videos = read_list(tmp_path)
    assert videos.classes == tuple(sorted(name.replace(" ", "_") for name in MOTIONS))
    assert [row.label for row in videos.rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    with open_video(videos.rows[0].path) as video:
        assert (video.num_frames, video.height, video.width) == (8, 32, 32)


def test_a_stopped_run_goes_on_and_makes_the_same_files(tmp_path: Path) -> None:
    make_videos(tmp_path, per_class=2, seed=0, num_frames=4, size=32)
    lost, kept = tmp_path / "upright" / "0001.mp4", tmp_path / "upright" / "0000.mp4"
    before, written = lost.read_bytes(), os.stat(kept).st_mtime_ns
    lost.unlink()
    make_videos(tmp_path, per_class=2, seed=0, num_frames=4, size=32)
    assert lost.read_bytes() == before
    assert os.stat(kept).st_mtime_ns == written


def test_another_seed_makes_other_videos(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_videos(tmp_path / str(seed), per_class=1, seed=seed, num_frames=4, size=32)
    files = [tmp_path / str(seed) / "upright" / "0000.mp4" for seed in (0, 1)]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "upright").write_text("in the way")
    with pytest.raises(OSError, match=r"upright.*cannot be written"):
        make_videos(tmp_path, per_class=1, seed=0, num_frames=4, size=32)
