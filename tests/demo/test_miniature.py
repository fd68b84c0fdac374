from pathlib import Path

import pytest
from training_runs import make_training_videos

from svt_zoo.data.list_formats import ListError
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.demo.run import make_miniature, split
from svt_zoo.video import open_video


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of nine small videos each."""
    (tmp_path / "source").mkdir()
    return make_training_videos(tmp_path / "source")


def videos(*rows: tuple[str, int | None, str | None]) -> VideoList:
    return VideoList(tuple(Row(path, label, group) for path, label, group in rows), ("a", "b"))


def test_one_in_four_videos_of_each_class_is_held_out() -> None:
    train, val = split(videos(*[(f"{label}{i}", label, None) for label in (0, 1) for i in range(8)]))
    assert val is not None
    assert [row.label for row in val.rows] == [0, 0, 1, 1]
    assert len(train) == 12


def test_videos_of_one_group_stay_on_one_side() -> None:
    rows = [(f"{label}{i}", label, f"{label}g{i // 2}") for label in (0, 1) for i in range(6)]
    train, val = split(videos(*rows))
    assert val is not None
    assert [row.label for row in val.rows] == [0, 0, 1, 1]
    assert not {row.group for row in train.rows} & {row.group for row in val.rows}


@pytest.mark.parametrize(
    "rows",
    [
        [("x", None, None), ("y", None, None)],
        [("x", 0, None), ("y", 0, None)],
        [("x", 0, None), ("y", 0, None), ("z", 1, None)],
    ],
    ids=["no labels", "one class", "a class of one video"],
)
def test_nothing_is_held_out_where_there_are_no_classes_to_learn_from(
    rows: list[tuple[str, int | None, str | None]],
) -> None:
    train, val = split(videos(*rows))
    assert val is None
    assert len(train) == len(rows)


def test_a_folder_becomes_small_copies_without_what_is_broken(source: Path, tmp_path: Path) -> None:
    (source / "a" / "broken.mp4").write_text("no video")
    train, val = make_miniature(source, tmp_path / "small", short_side=16)
    assert val is not None
    assert len(train) + len(val) == 18
    with open_video(train.rows[0].path) as video:
        assert (video.num_frames, video.height, video.width) == (8, 16, 24)


def test_of_many_videos_some_are_taken(source: Path, tmp_path: Path) -> None:
    train, val = make_miniature(source, tmp_path / "small", limit=8)
    assert len(train) + len(val.rows if val else ()) == 8


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(ListError, match="source: no videos"):
        make_miniature(tmp_path / "source", tmp_path / "small")


def test_a_folder_of_broken_videos_is_an_error(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "source" / f"{name}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / "source" / f"{name}.mp4").write_text("no video")
    with pytest.raises(ValueError, match="the first 2 videos fail, all for this reason"):
        make_miniature(tmp_path / "source", tmp_path / "small")
