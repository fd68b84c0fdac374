"""Every tool and benchmark starts, says what it is for, and is short."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
PROGRAMS = [*TOOLS, *sorted((ROOT / "benchmarks").glob("*.py"))]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_program_says_what_it_is_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ")
    assert (runpy.run_path(str(path))["__doc__"] or "").split("\n")[0].split(":")[0].split()[0] in said


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.name)
def test_a_tool_leaves_the_work_to_the_package(path: Path) -> None:
    assert path.read_text().count("\n") <= 90
