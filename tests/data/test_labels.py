from pathlib import Path

import pytest

from svt_zoo.data.list_formats import ListError
from svt_zoo.data.list_official import read_labels


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "run\njump high\n"),
        ("l.txt", "1 run\r\n2 jump high\r\n"),
        ("l.csv", "1,jump high\n0,run\n"),
        ("l.json", '["run", "jump high"]'),
        ("l.json", '{"\\"jump high\\"": 1, "run": 0}'),
    ],
)
def test_label_lists_are_read_in_all_forms(tmp_path: Path, name: str, text: str) -> None:
    assert read_labels(write(tmp_path / name, text)) == ("run", "jump high")


def test_labels_with_a_gap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ListError, match=r"must count from 0 or 1, got \[0, 2\]"):
        read_labels(write(tmp_path / "l.txt", "0 run\n2 jump\n"))


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="'run' occurs twice"):
        read_labels(write(tmp_path / "l.txt", "run\njump\nrun\n"))


@pytest.mark.parametrize("text", ["{", "3", "[]", '{"run": "one"}'])
def test_json_of_another_kind_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ListError, match=r"l\.json.* (is not json|json list of class names)"):
        read_labels(write(tmp_path / "l.json", text))
