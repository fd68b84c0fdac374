"""`svt-zoo weights`, `models` and `doctor`."""

import pytest
from commands import command

import svt_zoo
from svt_zoo.cli import doctor


def rows(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert command(name)([]) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]


def test_weights_lists_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows("weights", capsys) == svt_zoo.list_weights()


def test_weights_shows_clip_parameters_license_and_a_published_number_in_110_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("weights")([]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    assert head.split("  ")[0] == "name"
    [line] = [line for line in lines if line.startswith("timesformer_vitb_k400 ")]
    assert line.split()[1:] == ["8x32", "224", "121.3", "M", "CC", "BY-NC", "4.0", "K400", "3x1", "77.9"]


def test_weights_of_one_name_shows_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("weights")(["svt_vitb_k400"]) == 0
    said = capsys.readouterr().out
    assert "UCF-101 fine-tune top-1 93.7" in said
    assert "releases/download/v1.0/kinetics400_vitb_ssl.pth" in said
    assert "derives from TimeSformer (CC BY-NC 4.0)" in said


def test_models_lists_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows("models", capsys) == svt_zoo.list_models()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_doctor_finds_nothing_wrong_here_and_asks_no_server_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor")([]) == 0
    said = capsys.readouterr().out
    assert "decoder of h264: h264" in said
    assert "Hub: not asked, HF_HUB_OFFLINE is set" in said
    assert "wrong" not in said


@pytest.mark.usefixtures("offline")
def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(doctor, "DECODERS", {"h999": ["h999"]})
    assert command("doctor")([]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    assert wrong == [
        "wrong  no_such_package is not installed: pip install no_such_package",
        "wrong  decoder of h999: missing; reinstall av from PyPI",
    ]


@pytest.mark.usefixtures("offline")
def test_doctor_names_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert command("doctor")([]) == 1
    assert "is not writable; set TORCH_HOME to another folder" in capsys.readouterr().out


def test_doctor_goes_on_when_the_hub_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # no server on this port
    assert command("doctor")([]) == 0
    assert "Hub: http://127.0.0.1:9 does not answer" in capsys.readouterr().out
