import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import command

from svt_zoo import open_video
from svt_zoo.data import prepare
from svt_zoo.data.encode import Encoding
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.prepare import output_names, prepare_videos
from svt_zoo.lock import FolderInUse, hold
from svt_zoo.video.frames import FrameFolder

TOOL = str(Path(__file__).resolve().parents[2] / "tools" / "prepare_videos.py")
Gray = Callable[..., Path]
FAST = Encoding(preset="ultrafast")


@pytest.fixture
def collection(gray_video: Gray, tmp_path: Path) -> Path:
    """Two classes of two videos each."""
    for number, name in enumerate(["cat/one.mp4", "cat/two.mkv", "dog/deep/one.avi", "dog/two.mp4"]):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(gray_video(10 + number, suffix=path.suffix), path)
    return tmp_path / "videos"


def outputs(folder: Path) -> list[str]:
    """All files in an output folder except hidden ones."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not path.name.startswith("."))


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sources that are encoded after this point."""
    seen: list[str] = []
    original = prepare.prepare_video

    def counting(source: str, *args: object, **options: object) -> object:
        seen.append(os.path.basename(source))
        return original(source, *args, **options)

    monkeypatch.setattr(prepare, "prepare_video", counting)
    return seen


def test_folders_stay_as_they_are_and_the_list_is_written_again(collection: Path, tmp_path: Path) -> None:
    source = tmp_path / "train.csv"
    source.write_text(
        "file,label,class,group,start_sec,end_sec\n"
        "videos/cat/one.mp4,1,cat,g1,0.1,0.3\nvideos/cat/two.mkv,1,cat,g2,,\nvideos/dog/two.mp4,0,dog,,,\n"
    )
    before = read_list(source)
    made = prepare_videos(before, tmp_path / "out", FAST, name="train", workers=0)
    after = read_list(tmp_path / "out" / "train.csv")
    names = ["videos/cat/one.mp4", "videos/cat/two.mp4", "videos/dog/two.mp4"]
    assert outputs(tmp_path / "out") == ["train.csv", "train_report.csv", *names]
    assert after.classes == before.classes
    moved = zip(before.rows, names, strict=True)
    assert after.rows == tuple(replace(row, path=str(tmp_path / "out" / name)) for row, name in moved)
    assert made.list == tmp_path / "out" / "train.csv"
    assert [video.frames for video in made.videos] == [10, 11, 13]


def test_class_folders_can_be_read_as_before(collection: Path, tmp_path: Path) -> None:
    shutil.rmtree(collection / "dog" / "deep")
    prepare_videos(read_list(collection), tmp_path / "out", FAST, workers=0)
    for new in (tmp_path / "out", tmp_path / "out" / "list.csv"):
        videos = read_list(new)
        assert [row.label for row in videos.rows] == [0, 0, 1]
        assert videos.classes == ("cat", "dog")


def test_the_report_states_size_and_quality_of_each(collection: Path, tmp_path: Path) -> None:
    made = prepare_videos(read_list(collection), tmp_path / "out", FAST, workers=0)
    with open(tmp_path / "out" / "list_report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["output"] for row in rows] == ["cat/one.mp4", "cat/two.mp4", "dog/deep/one.mp4", "dog/two.mp4"]
    assert [int(row["frames"]) for row in rows] == [10, 11, 12, 13]
    for row in rows:
        assert int(row["bytes"]) == (tmp_path / "out" / row["output"]).stat().st_size
        assert int(row["source_bytes"]) == Path(row["source"]).stat().st_size
    psnr = [float(row["psnr"]) for row in rows]
    assert min(psnr) > 30
    assert f"PSNR {sum(psnr) / 4:.1f} dB on average, {min(psnr):.1f} dB at worst" in made.summary()


def test_frames_become_folders_of_images_with_their_number_in_the_list(collection: Path, tmp_path: Path) -> None:
    made = prepare_videos(read_list(collection), tmp_path / "out", Encoding(mode="frames"), workers=0)
    rows = read_list(made.list).rows
    assert [row.num_frames for row in rows] == [10, 11, 12, 13]
    assert [FrameFolder(row.path, num_frames=row.num_frames).num_frames for row in rows] == [10, 11, 12, 13]
    assert [row.path for row in read_list(tmp_path / "out").rows] == [row.path for row in rows]


def test_folders_of_images_are_refused_where_times_are_needed(gray_video: Gray, tmp_path: Path) -> None:
    videos = VideoList((Row(str(gray_video(10)), start_sec=1.0),))
    with pytest.raises(ValueError, match="folders of frames keep no times"):
        prepare_videos(videos, tmp_path / "out", Encoding(mode="frames"), workers=0)


def test_what_is_there_is_not_made_again(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gray_video: Gray
) -> None:
    videos = read_list(collection)
    first = prepare_videos(videos, tmp_path / "out", FAST, workers=0)
    seen = encoded(monkeypatch)
    again = prepare_videos(videos, tmp_path / "out", FAST, workers=0)
    assert seen == []
    assert (again.videos, again.new) == (first.videos, 0)
    shutil.copy(gray_video(20), collection / "dog" / "two.mp4")  # another source
    (tmp_path / "out" / "cat" / "one.mp4").unlink()
    (tmp_path / "out" / "cat" / "two.mp4").write_bytes(b"half")
    assert prepare_videos(videos, tmp_path / "out", FAST, workers=0).new == 3
    assert seen == ["one.mp4", "two.mkv", "two.mp4"]
    seen.clear()
    prepare_videos(videos, tmp_path / "out", replace(FAST, crf=30), workers=0)  # another encoding
    assert len(seen) == 4


def test_a_run_that_was_stopped_goes_on_where_it_was(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = read_list(collection)
    whole = prepare_videos(videos, tmp_path / "whole", FAST, workers=0)
    prepare_videos(replace(videos, rows=videos.rows[:1]), tmp_path / "out", FAST, workers=0)
    half = tmp_path / "out" / "cat" / ".part.two.mp4"  # incomplete files, as after a kill
    half.write_bytes(b"half a video")
    with open(tmp_path / "out" / ".prepare.jsonl", "a") as file:
        file.write('{"sign": [')
    seen = encoded(monkeypatch)
    resumed = prepare_videos(videos, tmp_path / "out", FAST, workers=0)
    assert seen == ["two.mkv", "one.avi", "two.mp4"]
    assert not half.exists()
    assert resumed.videos == whole.videos
    for name in outputs(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_run_leaves_only_whole_videos_and_is_finished_by_the_next(gray_video: Gray, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    source = gray_video(50, size=(240, 320))
    for i in range(12):
        shutil.copy(source, tmp_path / "videos" / f"{i:02}.mp4")
    command = [sys.executable, TOOL, str(tmp_path / "videos"), "--output", str(tmp_path / "out"), "--workers", "1"]
    with subprocess.Popen([*command, "--preset", "slow"], stderr=subprocess.DEVNULL) as process:
        while not len(list((tmp_path / "out").glob("0*.mp4"))) >= 2:
            assert process.poll() is None, "the tool ended by itself"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = sorted((tmp_path / "out").glob("[!.]*.mp4"))
    assert len(left) >= 2
    for path in left:
        with open_video(path) as video:
            assert video.frames_at(range(50)).shape == (50, 240, 320, 3)
    made = prepare_videos(read_list(tmp_path / "videos"), tmp_path / "out", Encoding(preset="slow"), workers=0)
    assert len(made.videos) == 12
    assert made.new <= 12 - len(left) + 1  # one video may be finished but not yet in the journal
    assert not list((tmp_path / "out").rglob(".part.*"))


def test_a_broken_video_is_reported_and_the_others_are_made(collection: Path, tmp_path: Path) -> None:
    data = (collection / "cat" / "one.mp4").read_bytes()
    (collection / "cat" / "one.mp4").write_bytes(data[: len(data) // 2])
    videos = read_list(collection)
    made = prepare_videos(videos, tmp_path / "out", FAST, workers=0)
    assert (len(made.videos), [failure.path for failure in made.failures]) == (3, [videos.rows[0].path])
    with open(tmp_path / "out" / "list_failures.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {"path": videos.rows[0].path, "reason": made.failures[0].reason}
    assert not (tmp_path / "out" / "cat" / "one.mp4").exists()
    assert len(read_list(made.list)) == 4  # the failed video stays in the list
    (collection / "cat" / "one.mp4").write_bytes(data)
    prepare_videos(replace(videos, rows=videos.rows[1:2]), tmp_path / "out", FAST, name="other", workers=0)
    assert (tmp_path / "out" / "list_failures.csv").exists()  # those of another list stay
    assert prepare_videos(videos, tmp_path / "out", FAST, workers=0).failures == ()
    assert not (tmp_path / "out" / "list_failures.csv").exists()


def test_copies_are_written_on_this_machine(collection: Path) -> None:
    with pytest.raises(ValueError, match="s3://bucket/out is a URL; name a folder on this machine and upload it"):
        prepare_videos(read_list(collection), "s3://bucket/out", FAST, workers=0)


@pytest.mark.parametrize("output", ["videos", "videos/new", "videos/cat", "videos/dog/deep/x"])
def test_nothing_is_written_among_the_sources(output: str, collection: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which holds the sources; name a folder elsewhere"):
        prepare_videos(read_list(collection), tmp_path / output, FAST, workers=0)


def test_a_folder_with_other_files_is_refused(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.csv").write_text("precious")
    with pytest.raises(ValueError, match=r"holds train\.csv, which was not written by a run like this"):
        prepare_videos(read_list(collection), tmp_path / "out", FAST, name="train", workers=0)


def test_two_runs_do_not_write_to_one_folder(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        hold(tmp_path / "out", ".prepare"),
        pytest.raises(FolderInUse, match="out is in use by process"),
    ):
        prepare_videos(read_list(collection), tmp_path / "out", FAST, workers=0)


def test_names_without_a_common_root_start_where_they_part() -> None:
    paths = ["/a/b/c/one.mp4", "/a/b/d/two.avi"]
    assert list(output_names(paths, "/elsewhere", ".mp4").values()) == ["c/one.mp4", "d/two.mp4"]
    assert list(output_names(["s3://x/y/a.mp4", "s3://x/z/b.mp4"], "/lists", "").values()) == ["y/a", "z/b"]


def test_names_that_differ_in_their_suffix_alone_keep_it() -> None:
    paths = ["/v/a.mp4", "/v/a.webm", "/v/b.mp4"]
    assert list(output_names(paths, "/v", ".mp4").values()) == ["a.mp4.mp4", "a.webm.mp4", "b.mp4"]
    with pytest.raises(ValueError, match=r"2 videos of the list would become a\.mp4\.mp4"):
        output_names([*paths, "/v/a.mp4.avi"], "/v", ".mp4")


def test_one_file_written_in_two_ways_is_one_output() -> None:
    names = output_names(["/v/a.mp4", "/v/x/../a.mp4"], "/v", ".mp4")
    assert set(names.values()) == {"a.mp4"}


def test_the_tool_prints_the_quality_and_exits_with_what_failed(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("prepare")
    argv = [str(collection), "--output", str(tmp_path / "out"), "--workers", "0", "--preset", "ultrafast", "--all"]
    assert main([*argv, "--intra", "--short-side", "32"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 videos prepared (4 now, 0 before), 0 failed; ")
    assert "dB on average" in out
    with open_video(tmp_path / "out" / "cat" / "one.mp4") as video:
        assert (video.height, video.width) == (32, 42)
    (collection / "dog" / "two.mp4").write_bytes(b"no video")
    assert main([*argv, "--intra", "--short-side", "32"]) == 1
    assert f"failed: {collection / 'dog' / 'two.mp4'}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--short-side", "255"], "error: short_side must be even, got 255"),
        (["--crf", "99"], "error: crf must be >= 0 and <= 51, got 99"),
        (["--workers", "-1"], "error: workers must be >= 0 (0 works in this process), got -1"),
        (["--where", "split=train"], "nothing to filter by 'split'"),
    ],
)
def test_a_wrong_argument_gives_one_line(
    argv: list[str], message: str, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("prepare")
    assert main([str(collection), "--output", str(tmp_path / "out"), *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_copies_that_would_read_slower_and_be_larger_are_not_made(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, output = prepare.prepare_video, tmp_path / "out"

    def larger(source: str, target: Path, *args: Any, **options: Any) -> Any:
        made = original(source, target, *args, **options)
        return replace(made, source_bytes=1) if target.name == "copy.mp4" else made

    seconds = {"one.mp4": 1.0, "two.mp4": 1.0, "copy.mp4": 2.0, "two.mkv": 3.0, "one.avi": 3.0}
    monkeypatch.setattr(prepare, "prepare_video", larger)
    monkeypatch.setattr(prepare, "_seconds", lambda row, fps: seconds[os.path.basename(row.path)])
    videos = read_list(collection)
    made = prepare_videos(videos, output, FAST, workers=0, skip_slower=True)
    assert "2 videos (.mp4) are left as they are: in a sample of 2, copies take 2.00 times as long" in caplog.text
    assert (made.skipped, made.new, len(made.failures)) == (2, 2, 0)
    assert ", 2 left as they are" in made.summary()
    kept = {row.path for row in videos.rows if row.path.endswith(".mp4")}
    listed = {row.path for row in read_list(made.list).rows}
    assert listed == kept | {str(output / video.output) for video in made.videos}
    everything = prepare_videos(videos, output, FAST, workers=0)
    assert (everything.skipped, everything.new, len(everything.videos)) == (0, 2, 4)


def test_what_cannot_be_measured_is_copied(gray_video: Gray) -> None:
    source = gray_video(12)
    assert prepare._seconds(Row(str(source)), 30.0) > 0
    tasks = [prepare._Task("missing.avi", "b.mp4", None)]
    assert not prepare._copies_are_worse(".avi", tasks, FAST, 30.0)
