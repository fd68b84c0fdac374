"""Long jobs: processes, progress, journals, and failures that all videos share."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from svt_zoo.data.pool import (
    CommonFailure,
    Journal,
    Outcomes,
    fingerprint,
    number_of_workers,
    progress,
    reason_of,
    run_tasks,
)
from svt_zoo.video import VideoReadError

ROOT = Path(__file__).resolve().parents[2]


def half(number: int) -> float:
    if number < 0:
        raise VideoReadError("a.mp4", "negative")
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number / 2


def test_tasks_run_here_without_workers() -> None:
    assert [(done.task, done.result) for done in run_tasks(half, [2, 4], workers=0)] == [(2, 1.0), (4, 2.0)]


def test_a_task_that_fails_or_kills_its_process_is_reported_and_the_others_go_on() -> None:
    done = {one.task: one for one in run_tasks(half, [2, 0, -1, 4, 6], workers=2)}
    assert {task: one.result for task, one in done.items()} == {2: 1.0, 0: None, -1: None, 4: 2.0, 6: 3.0}
    assert done[-1].reason == "negative"
    assert "ended with SIGKILL" in done[0].reason


def test_an_unforeseen_error_is_named_by_its_type() -> None:
    (done,) = run_tasks(partial(int, base=10), ["x"], workers=0)
    assert done.reason.startswith("ValueError: invalid literal")


def write_to_a_full_disk(number: int) -> int:
    return Path("/dev/full").write_text("x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_ends_the_run_instead_of_failing_each_task(workers: int) -> None:
    with pytest.raises(OSError, match="No space left on device; free space there, then run the same command again"):
        next(run_tasks(write_to_a_full_disk, [1, 2], workers=workers))


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"workers must be >= 0 \(0 works in this process\), got -1"):
        next(run_tasks(half, [2], workers=-1))


def test_an_interrupt_while_the_processes_start_is_the_parents_alone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("""
import os, signal
from multiprocessing import forkserver
from svt_zoo.data.pool import run_tasks

start_server = forkserver.ensure_running

def start_and_interrupt():
    start_server()
    os.killpg(0, signal.SIGINT)  # as Ctrl-C does, while the server of the processes still imports

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores Ctrl-C in a job in the background
    forkserver.ensure_running = start_and_interrupt
    try:
        print(list(run_tasks(int, ["7", "8"], workers=2)))
    except KeyboardInterrupt:
        print("stopped")
""")
    command, env = [sys.executable, str(tmp_path / "main.py")], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, start_new_session=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from svt_zoo.data.pool import run_tasks
from test_pool import sleep_long
if __name__ == "__main__":
    list(run_tasks(sleep_long, [0], workers=1))
"""
    (tmp_path / "main.py").write_text(program)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], env=env, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "working\n"
    parent.kill()
    parent.communicate(timeout=300)  # waits until no process can write to the pipe


def sleep_long(_: int) -> None:
    sys.stdout.write("working\n")
    sys.stdout.flush()
    time.sleep(1000)


def test_progress_passes_everything_on_and_logs_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "svt_zoo"):
        done = list(progress(run_tasks(half, [2, -1, 4], workers=0), 3, is_good=lambda result: result > 1))
    assert [one.result for one in done] == [1.0, None, 2.0]
    assert caplog.messages == ["3 of 3 videos (100%), 2 failed, 0 s left"]


def test_a_journal_passes_over_a_line_cut_short_by_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.read(dict) == []
    journal.append({"a": 1})
    with open(journal.path, "a") as file:
        file.write('{"a": 2')
    assert journal.read(dict) == [{"a": 1}]
    journal.start(journal.read(dict))
    journal.append({"a": 3})
    assert journal.read(dict) == [{"a": 1}, {"a": 3}]


def test_a_fingerprint_tells_of_a_change_in_a_file_or_below_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert fingerprint(str(file)) == (0, 0)
    file.write_text("12345")
    before = fingerprint(str(file)), fingerprint(str(tmp_path))
    assert before[0][0] == before[1][0] == 5
    os.utime(file, ns=(0, 7))
    assert fingerprint(str(file)) == fingerprint(str(tmp_path)) == (5, 7)


def count(reasons: list[str | None], total: int = 1000, *, was_read: bool = False) -> Outcomes:
    outcomes = Outcomes(total, was_read=was_read)
    for i, reason in enumerate(reasons):
        outcomes.add(f"/v/clip_{i}.mp4", reason)
    return outcomes


def test_thirty_two_equal_failures_end_a_run_with_their_number_the_reason_and_the_first_path() -> None:
    count(["no"] * 31)
    with pytest.raises(CommonFailure, match=r"first 32 videos fail, all for this reason: no\. .*/v/clip_0\.mp4"):
        count(["no"] * 32)


def test_a_good_video_after_thirty_two_equal_failures_comes_too_late() -> None:
    with pytest.raises(CommonFailure):
        count(["no"] * 32 + [None])


@pytest.mark.parametrize("place", [0, 15, 31])
def test_one_good_video_among_the_first_keeps_the_run_alive(place: int) -> None:
    reasons: list[str | None] = ["no"] * 100
    reasons[place] = None
    count(reasons)


def test_one_other_reason_among_the_first_keeps_the_run_alive() -> None:
    count(["no"] * 31 + ["TypeError: no"] + ["no"] * 100)


def test_a_shorter_list_ends_the_run_only_as_a_whole() -> None:
    count(["no"] * 4, total=5)
    with pytest.raises(CommonFailure, match="first 5 videos"):
        count(["no"] * 5, total=5)


def test_a_run_that_has_read_a_video_before_goes_on() -> None:
    count(["no"] * 40, was_read=True)


def test_paths_and_numbers_do_not_make_two_reasons_different() -> None:
    reasons = [f"OSError: [Errno 2] /v/clip_{i}.mp4 ends after {i} of 90 frames (0x7f{i:02x})" for i in range(32)]
    with pytest.raises(CommonFailure):
        count(list(reasons))


def test_a_folder_named_like_a_word_of_the_reason_does_not_change_it() -> None:
    outcomes = Outcomes(2)
    outcomes.add("a", "a folder without images")
    with pytest.raises(CommonFailure):
        outcomes.add("b", "a folder without images")


def test_the_message_is_one_line() -> None:
    with pytest.raises(CommonFailure) as caught:
        count(["first line\nsecond line"], total=1)
    assert "\n" not in str(caught.value)


def test_an_error_that_is_no_read_error_is_named_with_its_type() -> None:
    assert reason_of(TypeError("no such keyword")) == "TypeError: no such keyword"
    assert reason_of(VideoReadError("a.mp4", "empty file")) == "empty file"


def test_workers_are_as_many_as_asked_for_or_as_this_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [number_of_workers(asked) for asked in (0, 3, None)] == [0, 3, 6]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert number_of_workers(None) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert number_of_workers(None) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert number_of_workers(None) == 8
