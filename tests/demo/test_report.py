import base64
import json
import re
from pathlib import Path

import pytest
from commands import command
from training_runs import make_training_videos

from svt_zoo.demo import run
from svt_zoo.demo.report import Score, figure, page, section, verdict

demo = command("demo")
TINY = ["optim.epochs=1", "optim.warmup_epochs=0", "data.num_workers=0"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the number of videos and steps."""
    monkeypatch.setattr(run, "VIDEOS", {"train": 4, "val": 2})
    monkeypatch.setattr(run, "QUICK_VIDEOS", {"train": 4, "val": 2})
    monkeypatch.setattr(run, "OWN_STEPS", 2)
    monkeypatch.setattr(run, "WORKERS", 0)


@pytest.fixture
def own_videos(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return make_training_videos(tmp_path / "source")


def score(top1: float, low: float, high: float, name: str = "") -> Score:
    return Score(name, top1, low, high, 100)


def test_a_clear_win_is_told_as_one() -> None:
    told = verdict([score(40, 30, 50, "untrained"), score(25, 17, 34), score(80, 71, 87)], 25)
    assert told == (
        "Training without labels helped, by more than luck: 80 % right, against 40 % (untrained) and 25 % by guessing."
    )


def test_a_win_within_the_intervals_is_told_as_luck() -> None:
    assert "luck" in verdict([score(40, 30, 50), score(45, 36, 55)], 25)


def test_a_defeat_is_told() -> None:
    assert "did not win" in verdict([score(60, 50, 69), score(45, 36, 55)], 25)


def test_a_page_escapes_its_texts_and_holds_its_pictures() -> None:
    sections = [section("<h>", "x > y", figure("p", b"picture", b"movie"))]
    text = page("a < b", "so & so", sections, "cmd && cmd")
    assert "<title>a &lt; b</title>" in text
    assert "&lt;h&gt;" in text
    assert "so &amp; so" in text
    assert "cmd &amp;&amp; cmd" in text
    assert f'src="data:image/png;base64,{base64.b64encode(b"picture").decode()}"' in text
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"movie").decode()}"' in text


def test_the_demo_writes_a_page_of_its_own_that_names_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(["--output", str(tmp_path), *TINY, "data.batch_size=8"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].endswith(f"the report: {tmp_path / 'report.html'}")
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text), "a page that needs other files"
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert [number["n"] for number in numbers] == [8, 8, 8]
    assert f"{numbers[-1]['top1']:.0f} % right" in text
    assert f"{numbers[-1]['top1']:5.1f} %" in said
    for name in ("accuracy", "confusion", "neighbors", "attention", "curves"):
        assert base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode() in text


def test_the_demo_counts_on_own_videos_in_folders_of_classes(own_videos: Path, tmp_path: Path) -> None:
    assert demo(["--videos", str(own_videos), "--output", str(tmp_path / "demo"), *TINY]) == 0
    numbers = json.loads((tmp_path / "demo" / "numbers.json").read_text())
    assert [number["n"] for number in numbers] == [4, 4, 4]


def test_the_demo_shows_neighbours_of_own_videos_without_classes(own_videos: Path, tmp_path: Path) -> None:
    assert demo(["--videos", str(own_videos / "a"), "--output", str(tmp_path / "demo"), *TINY]) == 0
    assert json.loads((tmp_path / "demo" / "numbers.json").read_text()) == []
    text = (tmp_path / "demo" / "report.html").read_text()
    assert "have no classes" in text
    assert "Nearest neighbors" in text
    assert "Does it help?" not in text


def test_a_folder_without_videos_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    assert demo(["--videos", str(tmp_path / "source"), "--output", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {tmp_path / 'source'}: no videos (read as folder)"]
