import hashlib
import json
import multiprocessing
import os
import pickle
from dataclasses import astuple
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from svt_zoo.data import list_formats, rows
from svt_zoo.data.list_columns import ListError
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.rows import Rows, full_paths

ODD = (
    Row("/r/a.mp4", 3, "g", 0.5, 2.0, 7),
    Row("s3://bucket/b.mp4"),
    Row(os.fsdecode(b"/r/caf\xe9.mp4"), 0),
    Row("/r/\u00e9\u4e2d\ud800.mp4", None, "\u00e9", end_sec=0.0),
    Row("relative.mp4", 999_999, num_frames=0),
)


@pytest.fixture(autouse=True)
def blocks_of_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rows, list_formats):
        monkeypatch.setattr(module, "BLOCK", 2)


def test_rows_keep_every_value() -> None:
    assert tuple(Rows.of(ODD)) == ODD
    assert [Rows.of(ODD)[i] for i in (-1, 0, 2)] == [ODD[-1], ODD[0], ODD[2]]
    assert Rows.of(ODD)[1::2] == ODD[1::2]
    assert Rows.of(ODD).take(np.array([4, 0, 3])) == (ODD[4], ODD[0], ODD[3])
    assert list(Rows.of(ODD).groups()) == ["g", *(row.group or row.path for row in ODD[1:])]
    assert len(Rows.of(())) == 0
    with pytest.raises(IndexError):
        Rows.of(ODD)[5]


def test_rows_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(Rows.of(ODD))) == ODD


def test_the_hash_is_that_of_the_rows_as_json() -> None:
    digest = hashlib.sha256(json.dumps(["x", 25.0]).encode())
    for row in ODD:
        digest.update(json.dumps([row.path.removeprefix("/r/"), *astuple(row)[1:]]).encode())
    assert VideoList(ODD, ("x",), "/r/", frame_rate=25.0).sha256 == digest.hexdigest()


def answer(videos: VideoList, parent: Connection) -> None:
    arrays = videos.columns._columns.values()
    parent.send((videos.sha256, [array.flags.owndata or array.flags.writeable for array in arrays], videos.rows[-1]))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_maps_a_large_list_instead_of_copying_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SHARED", 0)
    videos = VideoList(ODD, ("x",) * 5)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    for _ in range(2):
        process = context.Process(target=answer, args=(videos, theirs))  # type: ignore[attr-defined]
        process.start()
        assert ours.poll(120), f"the process ended with {process.exitcode}"
        sha256, copied, last = ours.recv()
        process.join()
        assert (sha256, last, any(copied)) == (videos.sha256, ODD[-1], False)


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 1\nb b.mp4 2\nc.MP4 0\nd.Mp4 1\n",
        "a.mp4\tx y\nb.mp4\tx\nc.mp4\trun\n",
        "a.mp4\nb 1.avi\n/abs/c.mp4\nhttp://x.y/d.mp4\n\n\ne\n",
        '"a.mp4" 1\n"b.mp4" 1\nc.mp4  1\nd.mp4 1\n',
    ],
)
def test_plain_lines_are_read_as_the_careful_reader_reads_them(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "l.csv").write_text(text)
    fast = read_list(tmp_path / "l.csv", root="/r")
    monkeypatch.setattr(list_formats, "_plain_lines", lambda *args: None)
    careful = read_list(tmp_path / "l.csv", root="/r")
    assert (fast, fast.sha256) == (careful, careful.sha256)


def test_odd_cells_of_a_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        "file,label,class,group,start_sec,end_sec,num_frames,split\n"
        "a b.mp4, 1,run,,0.5,2,, train \n\n"
        '"d, e.mp4",2.0,jump,,,,,train\n'
        '"two\nlines.mp4",-1,,,,,9,val\n'
        "v_Jump_g01_c02.AVI,1,run,,,,1.0,train\n"
        "d\\e.mp4,0,,g,,,,train\n"
    )
    assert list(read_list(tmp_path / "l.csv", root="/r").rows) == [
        Row("/r/a b.mp4", 1, start_sec=0.5, end_sec=2.0),
        Row("/r/d, e.mp4", 2),
        Row("/r/two\nlines.mp4", num_frames=9),
        Row("/r/v_Jump_g01_c02.AVI", 1, "v_Jump_g01", num_frames=1),
        Row("/r/d/e.mp4", 0, "g"),
    ]


TABLE = "file,label,start_sec,end_sec\na.mp4,0,,\nb.mp4,1,,\nc.mp4,2,1,2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE + "d.mp4,0,-1,\n", "line 5: start_sec must be a number >= 0 or empty, got '-1'"),
        (TABLE + "d.mp4,0,,nan\n", "line 5: end_sec must be a number >= 0 or empty, got 'nan'"),
        (TABLE + "d.mp4,0,2,2\n", "line 5: end_sec must be > start_sec, got 2 to 2"),
        (TABLE + "d.mp4,0,,0\n", "line 5: end_sec must be > start_sec, got 0 to 0"),
        (TABLE + " ,0,,\n", "line 5: the column file is empty"),
        (TABLE + "d.mp4,1000000,,\n", "line 5: a label must be >= 0 .* got 1000000"),
        (TABLE + "d.mp4,0\n", "line 5: the row has 2 cells"),
        (TABLE + '\n"two\nlines.mp4",1,,\n\n\nd.mp4\n', "line 10: the row has 1 cells"),
        (TABLE + '"d.mp4,0\n', "line 5: a cell has wrong quotes"),
        (TABLE + "d.mp4,x,,\ne.mp4,y,,\nd.mp4,y,,\n", "line 7: .*/d.mp4 has the label 4 here, 3 in line 5"),
        (TABLE + "d.mp4,1,,\nc.mp4,1,1,2\nc.mp4,1,1,\n", "line 6: .*/c.mp4 has the label 1 here, 2 in line 4"),
        ("a.mp4 1\nb.mp4 1\n\nc.mp4 1\nd.mp4\n", "line 5: 'd.mp4': either every line has a label or none has"),
        ("a.mp4\nb.mp4\nc.mp4\nd.mp4 1\n", "line 4: 'd.mp4 1': either every line has a label or none has"),
        ("a.mp4 1\nb.mp4 1\nc.mp4 1\nd.mp4 1 2\n", "line 4: one label expected after the path, got '1 2'"),
    ],
)
def test_a_later_block_is_refused_by_line_and_value(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ListError, match=f"l.csv, {message}"):
        read_list(tmp_path / "l.csv")


def test_a_hash_sign_in_a_name_beside_a_web_list_does_not_end_the_address() -> None:
    names = ["a#1.mp4", "/b#1.mp4", "https://x.org/c.mp4#t=1"]
    assert full_paths("https://h.org/v", names) == ["https://h.org/v/a%231.mp4", *names[1:]]
    assert full_paths("s3://v", names) == ["s3://v/a#1.mp4", *names[1:]]
