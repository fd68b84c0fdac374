"""Common behavior of all `svt-zoo` commands."""

import argparse
import logging

import pytest

import svt_zoo.cli
from svt_zoo.cli import COMMANDS, main


def fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, name: str = "models") -> None:
    """Make a command raise `error`."""

    def run(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, name, (COMMANDS[name][0], run))


@pytest.mark.parametrize("error", [ValueError("a\nb"), OSError("a b"), FloatingPointError("a b"), ImportError("a b")])
def test_an_error_is_one_line_and_status_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_with(error, monkeypatch)
    assert main(["models"]) == 2
    assert capsys.readouterr().err == "error: a b\n"


def test_traceback_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(ValueError("odd"), monkeypatch)
    with pytest.raises(ValueError, match="odd"):
        main(["models", "--traceback"])


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(KeyError("odd"), monkeypatch)
    with pytest.raises(KeyError):
        main(["models"])


def test_ctrl_c_is_status_130_and_tells_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_with(KeyboardInterrupt(), monkeypatch, "models")
    fails_with(KeyboardInterrupt(), monkeypatch, "demo")
    assert main(["models"]) == main(["demo"]) == 130
    assert capsys.readouterr().err == "stopped\nstopped; the same command goes on from here\n"


def test_overrides_may_follow_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []
    monkeypatch.setitem(COMMANDS, "preview", (COMMANDS["preview"][0], lambda args: seen.append(args) or 0))
    main(["preview", "svt/vitb_k400", "a=1", "--videos", "3", "b=2"])
    assert seen[0].overrides == ["a=1", "b=2"]


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["preview", "svt/vitb_k400", "--vidoes=3"])
    assert "unrecognized arguments: --vidoes=3" in capsys.readouterr().err


def test_an_override_with_dashes_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["preview", "svt/vitb_k400", "--data.train=/videos"])
    assert "--data.train=/videos; options of a recipe are written key=value" in capsys.readouterr().err


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Pre-train a network" in capsys.readouterr().err


def test_a_pattern_without_a_match_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "absent*"]) == 2
    assert "no name matches 'absent*'; without a pattern, all are listed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretran", "svt/own_videos"], "no command is named 'pretran'; did you mean pretrain?"),
        (["xyz"], "no command is named 'xyz'; svt-zoo --help lists all"),
        (["weights", "svt_vitb_k40"], "no name matches 'svt_vitb_k40'; did you mean svt_vitb_k400, "),
        (["models", "svt_vitbb"], "no name matches 'svt_vitbb'; did you mean svt_vitb, "),
        (
            ["embed", "a.mp4", "--model", "svt_vitb_k40"],
            "no weights are named 'svt_vitb_k40'; did you mean svt_vitb_k4",
        ),
        (["pretrain", "svt/own_video"], "svt/own_video: no such recipe; did you mean svt/own_videos, "),
    ],
)
def test_a_mistyped_name_is_answered_in_one_line_with_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_other_libraries_are_not_logged_in_detail() -> None:
    main(["recipes"])
    assert logging.getLogger("svt_zoo").level == logging.INFO
    assert not logging.getLogger("matplotlib").isEnabledFor(logging.INFO)


def test_every_command_has_a_description() -> None:
    assert all((run.__doc__ or "").split("\n")[0].endswith(".") for _, run in svt_zoo.cli.COMMANDS.values())
