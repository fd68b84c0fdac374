"""Every command, tool and benchmark starts and describes itself."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from svt_zoo.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
THIN = [path for path in TOOLS if path.name not in ("diagnose_leak.py", "zoo_page.py")]
PROGRAMS = [ROOT / "tools/zoo_page.py", *(ROOT / "examples").glob("*.py"), *sorted((ROOT / "benchmarks").glob("*.py"))]
HELP = """
import contextlib, io, runpy, sys
for arguments in {cases!r}:
    sys.argv, output = arguments + ["--help"], io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        if arguments[0] == "svt-zoo":
            from svt_zoo.cli import main
            main(sys.argv[1:])
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    assert output.getvalue().startswith("usage: svt-zoo"), arguments
    heavy = [name for name in ("torch", "numpy", "av", "yaml", "torchvision") if name in sys.modules]
    assert not heavy, (arguments, heavy)
"""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_program_describes_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.name == "mteb_encoder.py":
        pytest.importorskip("mteb")
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ")
    assert (runpy.run_path(str(path))["__doc__"] or "").split("\n")[0].split(":")[0].split()[0] in said


@pytest.mark.parametrize(
    "cases",
    [[["svt-zoo"], *(["svt-zoo", name] for name in COMMANDS)], [[str(path)] for path in THIN]],
    ids=["commands", "tools"],
)
def test_help_loads_no_heavy_library(cases: list[list[str]]) -> None:
    program = [sys.executable, "-c", HELP.format(cases=cases)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", THIN, ids=lambda p: p.name)
def test_a_tool_is_a_command_and_nothing_more(path: Path) -> None:
    assert path.read_text().count("\n") <= 10


def test_the_package_runs_as_a_module() -> None:
    program = [sys.executable, "-m", "svt_zoo", "recipes", "debug/svt_tiny"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == (ROOT / "configs" / "debug" / "svt_tiny.yaml").read_text()
