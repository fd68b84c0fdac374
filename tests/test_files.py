"""Files appear whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from svt_zoo.files import atomic, sha256_of, write_whole


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic(target) as part:
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyError, match="half-way"):
        _fail_half_way(tmp_path / "file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def _fail_half_way(target: Path) -> None:
    with atomic(target) as part:
        part.write_text("half")
        raise KeyError("half-way")


def test_a_folder_takes_the_place_of_another_and_of_what_a_kill_left(tmp_path: Path) -> None:
    for name in ("frames", ".part.frames"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with atomic(tmp_path / "frames") as part:
        part.mkdir()
        (part / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["frames", "new"]


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_whole(tmp_path / "new" / "file", content)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("file", b"new")]


def test_the_hash_of_several_files_is_that_of_their_bytes_in_order(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert sha256_of(tmp_path / "a", tmp_path / "b") == hashlib.sha256(b"ab").hexdigest()
