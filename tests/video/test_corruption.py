"""For randomly damaged files, the reader raises its error or returns frames; wrong frames are counted."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from corruption import SOURCES, Reader, damage

TIMEOUT = 10  # seconds for one file, far more than needed


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def count_outcomes(shared: Path, folder: Path, reader: Reader, num_files: int, seed: int) -> Counter[str]:
    """Counts damaged files by outcome: refused, unharmed, or different frames without an error."""
    rng = random.Random(seed)
    reader.read(shared / "clips" / SOURCES[0], timeout=120)  # includes starting the process
    sound = {name: reader.read(shared / "clips" / name, TIMEOUT) for name in SOURCES}
    assert all(answer.startswith("frames") for answer in sound.values())
    counts: Counter[str] = Counter()
    for i in range(num_files):
        name = SOURCES[i % len(SOURCES)]
        kind, data = damage((shared / "clips" / name).read_bytes(), rng)
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        answer = reader.read(path, TIMEOUT)
        assert answer.startswith(("frames", "refused")), f"{name}, file {i} of seed {seed}, {kind}: {answer}"
        if answer == sound[name]:
            counts["unharmed"] += 1
        elif answer.startswith("refused"):
            counts["refused"] += 1
        else:
            other_count = answer.split()[1] != sound[name].split()[1]
            counts[f"unnoticed: {kind}, {'fewer or more' if other_count else 'other'} frames"] += 1
    return counts


def test_damaged_files_neither_crash_nor_hang(shared: Path, tmp_path: Path, reader: Reader) -> None:
    counts = count_outcomes(shared, tmp_path, reader, 42, seed=0)
    assert counts["refused"] > 21


@pytest.mark.slow
def test_500_damaged_files_neither_crash_nor_hang(
    shared: Path, tmp_path: Path, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = count_outcomes(shared, tmp_path, reader, 500, seed=1)
    unnoticed = sum(count for outcome, count in counts.items() if outcome.startswith("unnoticed"))
    with capsys.disabled():
        details = json.dumps(counts, indent=1, sort_keys=True)
        sys.stdout.write(f"\n{unnoticed / 500:.1%} of 500 damaged files unnoticed: {details}\n")
    assert counts["refused"] > 350
