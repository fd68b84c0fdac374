import csv
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from commands import command
from PIL import Image
from video_files import encode, moving_square, numbered

from svt_zoo import open_video
from svt_zoo.data import check
from svt_zoo.data.check import check_video, check_videos
from svt_zoo.data.lists import Row, VideoList, read_list

TOOL = str(Path(__file__).resolve().parents[2] / "tools" / "check_data.py")
Gray = Callable[..., Path]


@pytest.fixture
def collection(gray_video: Gray, tmp_path: Path) -> Path:
    """A folder with two sound videos, a copy of one, a truncated one, and a list that also names a missing one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(gray_video(20), folder / "a.mp4")
    shutil.copy(gray_video(30, suffix=".mkv"), folder / "b.mkv")
    shutil.copy(folder / "a.mp4", folder / "copy of a.mp4")
    (folder / "cut.mp4").write_bytes(gray_video(40).read_bytes()[:-900])
    names = ["a.mp4", "b.mkv", "copy of a.mp4", "cut.mp4", "gone.mp4"]
    (folder / "list.csv").write_text("file,label\n" + "".join(f"{name},0\n" for name in names))
    return folder


def statuses(report: check.CheckReport) -> dict[str, str]:
    return {os.path.basename(video.path): video.status for video in report.videos}


def test_a_sound_file_is_described(gray_video: Gray) -> None:
    path = gray_video(20, fps=10)
    assert check_video((str(path), None)) == check.CheckedVideo(
        path=str(path),
        status="ok",
        codec="h264",
        container="mov",
        width=64,
        height=48,
        frames=20,
        fps=10.0,
        duration=2.0,
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_damage_near_the_end_is_found(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.mp4", moving_square(40))
    data = bytearray(path.read_bytes())
    end = data.index(b"moov") - 4  # the table after the frames stays intact
    data[end - 600 : end] = bytes(600)
    path.write_bytes(data)
    found = check_video((str(path), None))
    assert (found.status, found.codec, found.sha256) == ("broken", "h264", hashlib.sha256(data).hexdigest())
    assert found.reason.startswith("packet ")


@pytest.mark.parametrize("kind", ["pipe", "empty", "text", "folder"])
def test_what_is_no_video_is_broken(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it.mp4"
    {"pipe": os.mkfifo, "empty": Path.touch, "text": lambda p: p.write_text("hello"), "folder": Path.mkdir}[kind](path)
    found = check_video((str(path), None))
    assert found.status == "broken"
    assert found.reason


def test_a_url_that_cannot_be_fetched_is_missing(tmp_path: Path) -> None:
    found = check_video((f"file://{tmp_path}/gone.mp4", None))
    assert found.status == "missing"
    assert "cannot be fetched" in found.reason


def test_a_folder_of_frames_is_checked_image_by_image(tmp_path: Path) -> None:
    for i in range(40):
        Image.new("RGB", (64, 48), (i, i, i)).save(tmp_path / f"img_{i}.jpg")
    found = check_video((str(tmp_path), None))
    assert (found.status, found.codec, found.container, found.frames) == ("ok", "jpg", "folder", 40)
    assert (found.width, found.height) == (64, 48)
    assert check_video((str(tmp_path), 41)).reason == "holds 40 of the 41 frames that the list gives it"
    Image.new("RGB", (32, 48)).save(tmp_path / "img_39.jpg")
    assert "img_39.jpg is 32x48, an earlier frame 64x48" in check_video((str(tmp_path), None)).reason


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_report_tells_what_is_broken_missing_and_there_twice(collection: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "out" / f"report{suffix}"
    report = check_videos(read_list(collection / "list.csv"), target, workers=0)
    if suffix == ".csv":
        with open(target, newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pyarrow.parquet.read_table(target).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "broken", "missing"]
    assert [row["duplicate_of"] or None for row in rows] == [None, None, str(collection / "a.mp4"), None, None]
    assert [int(row["frames"]) for row in rows[:3]] == [20, 30, 20]
    assert rows[3]["reason"]
    assert report.summary().startswith("5 videos: 3 ok, 1 broken, 1 missing, 0 cut; 1 duplicates; 0.00 hours")
    assert [video.status for video in report.bad] == ["broken", "missing"]


def test_a_second_run_decodes_only_what_is_new_changed_or_was_not_sound(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gray_video: Gray
) -> None:
    target = tmp_path / "report.csv"
    first = check_videos(read_list(collection / "list.csv"), target, workers=0)
    seen: list[str] = []

    def counting(task: tuple[str, int | None]) -> check.CheckedVideo:
        seen.append(os.path.basename(task[0]))
        return check_video(task)

    monkeypatch.setattr(check, "check_video", counting)
    second = check_videos(read_list(collection / "list.csv"), target, workers=0)
    assert second == first
    assert seen == ["cut.mp4", "gone.mp4"]
    seen.clear()
    shutil.copy(gray_video(10), collection / "gone.mp4")
    shutil.copy(gray_video(15), collection / "a.mp4")
    third = check_videos(read_list(collection / "list.csv"), target, workers=0)
    assert seen == ["a.mp4", "cut.mp4", "gone.mp4"]
    assert [video.duplicate_of for video in third.videos] == [None] * 5
    seen.clear()
    check_videos(read_list(collection / "list.csv"), target, workers=0, again=True)
    assert len(seen) == 5


def test_a_run_that_was_stopped_goes_on_where_it_was(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def stopping(task: tuple[str, int | None]) -> check.CheckedVideo:
        seen.append(os.path.basename(task[0]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return check_video(task)

    monkeypatch.setattr(check, "check_video", stopping)
    with pytest.raises(KeyboardInterrupt):
        check_videos(read_list(collection), tmp_path / "report.parquet", workers=0)
    assert not (tmp_path / "report.parquet").exists()
    with open(tmp_path / "report.parquet.jsonl", "a") as file:
        file.write('{"key": ["half a li')  # an incomplete line, as after a kill
    report = check_videos(read_list(collection), tmp_path / "report.parquet", workers=0)
    assert seen == ["a.mp4", "b.mkv", "copy of a.mp4", "copy of a.mp4", "cut.mp4"]
    assert statuses(report) == {"a.mp4": "ok", "b.mkv": "ok", "copy of a.mp4": "ok", "cut.mp4": "broken"}


def test_a_file_that_a_list_names_twice_is_one_row(gray_video: Gray, tmp_path: Path) -> None:
    path = str(gray_video(10))
    videos = VideoList((Row(path, start_sec=0.0, end_sec=0.1), Row(path, start_sec=0.2, end_sec=0.3)))
    assert len(check_videos(videos, tmp_path / "report.csv", workers=0).videos) == 1


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_decoded(
    tmp_path: Path,
) -> None:
    videos = VideoList((Row("a.mp4"),))
    with pytest.raises(ValueError, match=r"report\.txt: the file to write ends in \.parquet or \.csv"):
        check_videos(videos, "report.txt")
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder; name a .parquet or .csv file in it"):
        check_videos(videos, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/report\.csv cannot be written: .*; name another place"):
        check_videos(videos, tmp_path / "file" / "report.csv")


def test_without_pyarrow_the_report_is_a_csv_file(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    report = check_videos(read_list(collection / "list.csv"), tmp_path / "report.parquet", workers=0)
    assert report.path == tmp_path / "report.csv"
    assert len(report.path.read_text().splitlines()) == 1 + 5
    assert f"report: {report.path}" in report.describe()


def test_the_duplicates_are_named(collection: Path, tmp_path: Path) -> None:
    report = check_videos(read_list(collection / "list.csv"), tmp_path / "report.csv", workers=0)
    first = collection / "a.mp4"
    [copy] = [line for line in report.describe().splitlines() if line.startswith("duplicate: ")]
    assert copy.endswith(f" has the content of {first}")


def test_each_video_takes_one_line_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a\nb.mp4", "c\rd.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    numbered(tmp_path / "good.mp4", 2)
    report = check_videos(read_list(tmp_path), tmp_path / "report.csv", workers=0)
    assert [line.split(": ")[0] for line in report.describe().splitlines()[2:]] == ["broken", "broken"]
    assert "a\\nb.mp4" in report.describe()


def test_the_tool_says_what_is_wrong_and_exits_so(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("check")
    argv = ["--report", str(tmp_path / "report.csv"), "--workers", "0"]
    assert main([str(collection / "list.csv"), *argv]) == 1
    out = capsys.readouterr().out
    assert "5 videos: 3 ok, 1 broken, 1 missing" in out
    assert f"broken: {collection / 'cut.mp4'}: " in out
    (collection / "cut.mp4").unlink()
    assert main([str(collection), *argv]) == 0
    assert main([str(collection / "nothing"), *argv]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_one_video_is_checked_and_prepared(gray_video: Gray, tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == ".webm" else "libx264"
    video = shutil.copy(gray_video(12, suffix=suffix, codec=codec), tmp_path / f"one{suffix}")
    assert command("check")([str(video), "--report", str(tmp_path / "report.csv"), "--workers", "0"]) == 0
    assert command("prepare")([str(video), "--output", str(tmp_path), "--workers", "0"]) == 2  # it could replace files
    assert command("prepare")([str(video), "--output", str(tmp_path / "small"), "--workers", "0"]) == 0
    [row] = read_list(tmp_path / "small" / "one.csv").rows
    with open_video(row.path) as small:
        assert small.num_frames == 12


def test_the_tool_keeps_one_report_a_list(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main = command("check")
    (tmp_path / "other").mkdir()
    shutil.copytree(collection, tmp_path / "other" / "videos")
    sources = (collection, collection / "list.csv", tmp_path / "other" / "videos")
    for source in sources:
        assert main([str(source), "--workers", "0"]) == 1
    reports = sorted(path.name.rpartition("_")[0] for path in (tmp_path / "runs").glob("*.parquet"))
    assert reports == ["data_report_list", "data_report_videos", "data_report_videos"]
    assert "report: runs/data_report_videos_" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_name_that_is_not_utf8_is_checked_and_reported(gray_video: Gray, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in (b"a.mp4", b"caf\xe9.mp4"):
        shutil.copy(os.fsencode(gray_video(10)), os.fsencode(folder) + b"/" + name)
    report = check_videos(read_list(folder), tmp_path / f"report{suffix}", workers=0)
    assert report.sound
    assert check_videos(read_list(folder), report.path, workers=0) == report  # from the journal
    if suffix == ".csv":
        assert b"caf\xe9.mp4,ok" in report.path.read_bytes()
    else:
        assert pyarrow.parquet.read_table(report.path)["path"][1].as_py().endswith("caf\\xe9.mp4")
    assert check.default_report(report.videos[1].path).suffix == ".parquet"


def test_a_command_prints_names_that_are_not_utf8(gray_video: Gray, tmp_path: Path) -> None:
    shutil.copy(os.fsencode(gray_video(10)), os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"x")
    shutil.copy(tmp_path / "bad.mp4", os.fsencode(tmp_path) + b"/bad\xe9.mp4")
    argv = [sys.executable, TOOL, str(tmp_path), "--workers", "0", "--report", str(tmp_path / "report.csv")]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(b"bad\\udce9.mp4")) == (1, 2), done.stderr


def test_a_line_of_the_journal_that_is_no_entry_is_skipped_with_a_warning(
    collection: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "report.csv"
    first = check_videos(read_list(collection / "list.csv"), target, workers=0)
    with open(tmp_path / "report.csv.jsonl", "a") as file:
        file.write('[1]\n{"key": ["a", null, 1, 2]}\n{"status": "ok"}\n7\nnot json\n')
    assert check_videos(read_list(collection / "list.csv"), target, workers=0) == first
    assert sum("report.csv.jsonl: skipped a line that is not an entry" in message for message in caplog.messages) == 5


def test_a_cut_file_is_reported_and_the_exit_status_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = encode(tmp_path / "cut.mkv", moving_square(60), g="10").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    found = check_video((str(tmp_path / "cut.mkv"), None))
    assert (found.status, found.reason.startswith("the file was cut")) == ("cut", True)
    argv = [str(tmp_path), "--workers", "0", "--report", str(tmp_path / "report.csv")]
    assert command("check")(argv) == 1
    assert "1 videos: 0 ok, 0 broken, 0 missing, 1 cut" in capsys.readouterr().out


def test_the_reported_cut_file_is_found(shared: Path) -> None:
    found = check_video((str(shared / "reported" / "cut_mid_packet.webm"), None))
    assert (found.status, found.frames) == ("cut", 56)
