"""`make gpu` runs on a CPU too, with tiny networks."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "benchmarks" / "gpu.py"


def run(output: Path, *arguments: str) -> tuple[int, str, dict[str, dict[str, object]]]:
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "--output", str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, json.loads((output / "gpu_cpu.json").read_text())["parts"]


def test_every_part_runs_tiny_on_a_cpu(tmp_path: Path) -> None:
    status, table, parts = run(tmp_path)
    assert {name: row["state"] for name, row in parts.items()} == dict.fromkeys(parts, "ok"), table
    assert len(parts) == 6
    assert status == 0


def test_every_file_with_a_marked_test_is_run() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "\n@pytest.mark.gpu\n" in path.read_text()]
    text = PROGRAM.read_text()
    assert all(path.parent.name == "gpu" or str(path.relative_to(ROOT / "tests")) in text for path in files)


def test_a_late_part_is_a_row(tmp_path: Path) -> None:
    status, table, parts = run(tmp_path, "--only", "step, 2 videos", "extraction", "--seconds", "10.5")
    assert parts["extraction"]["state"] == "not run"
    assert "not run" in table
    assert status == 1


def test_a_result_counts_that_was_printed_before_the_limit(tmp_path: Path) -> None:
    program = runpy.run_path(str(PROGRAM))
    code = "import time; print('{\"rate\": 3}', flush=True); time.sleep(60)"
    row = program["run"](program["Part"]("slow to end", 5, ("-c", code)), 5, tmp_path / "part.log")
    assert row["state"] == "late"
    assert row["result"] == {"rate": 3}
