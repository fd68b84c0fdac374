"""Randomly damaged files end in the reader's error or in frames; how much damage no decoder notices is reported."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from corruption import SOURCES, Reader, damage

SECONDS = 10  # for one file; far more than any takes


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def outcomes(shared: Path, folder: Path, reader: Reader, num_files: int, seed: int) -> Counter[str]:
    """What became of so many damaged files: refused, unharmed, or frames that differ with nobody noticing."""
    rng = random.Random(seed)
    reader.read(shared / "clips" / SOURCES[0], timeout=120)  # includes the start of the process
    sound = {name: reader.read(shared / "clips" / name, SECONDS) for name in SOURCES}
    assert all(answer.startswith("frames") for answer in sound.values())
    found: Counter[str] = Counter()
    for i in range(num_files):
        name = SOURCES[i % len(SOURCES)]
        kind, data = damage((shared / "clips" / name).read_bytes(), rng)
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        answer = reader.read(path, SECONDS)
        assert answer.startswith(("frames", "refused")), f"{name}, file {i} of seed {seed}, {kind}: {answer}"
        if answer == sound[name]:
            found["unharmed"] += 1
        elif answer.startswith("refused"):
            found["refused"] += 1
        else:
            fewer = answer.split()[1] != sound[name].split()[1]
            found[f"unnoticed: {kind}, {'another number of' if fewer else 'other'} frames"] += 1
    return found


def test_damaged_files_neither_crash_nor_hang(shared: Path, tmp_path: Path, reader: Reader) -> None:
    found = outcomes(shared, tmp_path, reader, 42, seed=0)
    assert found["refused"] > 21


@pytest.mark.slow
def test_500_damaged_files_neither_crash_nor_hang(
    shared: Path, tmp_path: Path, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outcomes(shared, tmp_path, reader, 500, seed=1)
    unnoticed = sum(count for outcome, count in found.items() if outcome.startswith("unnoticed"))
    with capsys.disabled():
        details = json.dumps(found, indent=1, sort_keys=True)
        sys.stdout.write(f"\n{unnoticed / 500:.1%} of 500 damaged files unnoticed: {details}\n")
    assert found["refused"] > 350
