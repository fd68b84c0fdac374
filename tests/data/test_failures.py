import pytest

from svt_zoo.data.pool import CommonFailure, Outcomes, reason_of
from svt_zoo.video import VideoReadError


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
