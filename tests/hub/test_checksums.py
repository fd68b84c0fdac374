"""The lock file keeps the hash of each source's first download."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svt_zoo.hub.download import check, lock_path, record, recorded
from svt_zoo.hub.sources import WeightsError, parse_source

pytestmark = pytest.mark.usefixtures("hub_server")  # for its folders

A, B = "a" * 64, "b" * 64


def arrive(text: str, digest: str, sha256: str | None = None) -> None:
    """What a fetch does with the hash of a file."""
    source = parse_source(text)
    check(source, digest, sha256, None)
    record(source, digest)


def test_nothing_is_recorded_before_the_first_download() -> None:
    assert recorded() == {}


def test_the_first_hash_of_a_source_is_recorded() -> None:
    arrive("https://server.org/w.pth", A)
    assert json.loads(lock_path().read_text()) == {"https://server.org/w.pth": A}


def test_a_later_difference_is_refused_and_does_not_change_the_record() -> None:
    arrive("hf://org/repo/w@main", A)
    with pytest.raises(WeightsError, match="if you expected the change, remove its entry from"):
        arrive("hf://org/repo/w@main", B)
    assert recorded() == {"hf://org/repo/w@main": A}


def test_a_removed_entry_is_recorded_again() -> None:
    arrive("https://server.org/w.pth", A)
    lock_path().write_text("{}")
    arrive("https://server.org/w.pth", B)
    assert recorded() == {"https://server.org/w.pth": B}


def test_a_known_hash_overrules_the_record() -> None:
    arrive("https://server.org/w.pth", A)
    arrive("https://server.org/w.pth", B, B)
    assert recorded() == {"https://server.org/w.pth": B}


def test_a_known_hash_may_be_in_capitals() -> None:
    arrive("https://server.org/w.pth", A, A.upper())


def test_an_unreadable_lock_file_is_refused_with_its_path() -> None:
    lock_path().parent.mkdir(parents=True)
    for text in ("{", "[]"):
        lock_path().write_text(text)
        with pytest.raises(WeightsError, match=rf"{lock_path()}: .*repair or delete it"):
            recorded()


def test_no_entry_is_lost_when_many_write_at_once() -> None:
    sources = [f"https://server.org/{index}.pth" for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda source: arrive(source, A), sources))
    assert recorded() == dict.fromkeys(sources, A)


def test_a_cache_that_cannot_be_written_still_serves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("svt_zoo.hub.download.FileLock", refuse)
    with caplog.at_level(logging.WARNING):
        arrive("https://server.org/w.pth", A)
    assert "could not be recorded" in caplog.text
