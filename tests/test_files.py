"""Files appear complete or not at all, and equal content gives equal files."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open

from svt_zoo.files import atomic, output_file, sha256_of, write_tensors, write_whole


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


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"), atomic(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def test_written_tensors_are_read_back_with_their_metadata(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 3).T, "c": torch.ones(3, dtype=torch.float16)}
    metadata = {"text": 'a "b" ü\n', "format": "pt"}
    write_tensors(tmp_path / "w.safetensors", tensors, metadata)
    torch.testing.assert_close(load_file(tmp_path / "w.safetensors"), tensors)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() == metadata


def test_equal_weights_are_equal_files_in_every_process(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import torch
from svt_zoo.models import create_model
torch.manual_seed(0)
model = create_model("svt_vitt", num_classes=3, embed_dim=24, depth=1, num_heads=2, img_size=32, num_frames=2)
model.save_pretrained(Path({str(tmp_path)!r}) / sys.argv[1])
"""
    for folder in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, folder], check=True)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert sha256_of(tmp_path / "first" / name) == sha256_of(tmp_path / "second" / name)


def test_an_output_never_replaces_another_file_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    (tmp_path / "link.csv").symlink_to(path)
    for other in (path, tmp_path / "link.csv", tmp_path / "folder/../list.csv"):
        with pytest.raises(ValueError, match=r"list\.csv is named twice, .*; name a new file"):
            output_file(path, ".csv", keep=[None, other])
    assert output_file(path, ".csv", keep=[None, "s3://bucket/list.csv"]) == path


def test_an_output_on_this_machine_is_no_url() -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/list\.csv is a URL; name a file on this machine and upload it"):
        output_file("s3://bucket/list.csv", ".csv")
