"""The lock file keeps the hash of each source's first download."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svt_zoo.hub.checksums import check, lock_path, recorded
from svt_zoo.hub.sources import WeightsError

pytestmark = pytest.mark.usefixtures("hub_server")  # for its folders

A, B = "a" * 64, "b" * 64


def test_nothing_is_recorded_before_the_first_download() -> None:
    assert recorded() == {}


def test_the_first_hash_of_a_source_is_recorded() -> None:
    check("https://server.org/w.pth", A, None, None)
    assert json.loads(lock_path().read_text()) == {"https://server.org/w.pth": A}


def test_a_later_difference_is_refused_and_does_not_change_the_record() -> None:
    check("hf://org/repo/w@main", A, None, None)
    with pytest.raises(WeightsError, match="if you expected the change, remove its entry from"):
        check("hf://org/repo/w@main", B, None, None)
    assert recorded() == {"hf://org/repo/w@main": A}


def test_a_removed_entry_is_recorded_anew() -> None:
    check("https://server.org/w.pth", A, None, None)
    lock_path().write_text("{}")
    check("https://server.org/w.pth", B, None, None)
    assert recorded() == {"https://server.org/w.pth": B}


def test_a_known_hash_overrules_the_record() -> None:
    check("https://server.org/w.pth", A, None, None)
    check("https://server.org/w.pth", B, B, None)
    assert recorded() == {"https://server.org/w.pth": B}


def test_a_known_hash_may_be_in_capitals() -> None:
    check("https://server.org/w.pth", A, A.upper(), None)


def test_an_unreadable_lock_file_is_refused_with_its_path() -> None:
    lock_path().parent.mkdir(parents=True)
    for text in ("{", "[]"):
        lock_path().write_text(text)
        with pytest.raises(WeightsError, match=rf"{lock_path()}: .*repair or delete it"):
            recorded()


def test_no_entry_is_lost_when_many_write_at_once() -> None:
    sources = [f"https://server.org/{index}.pth" for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda source: check(source, A, None, None), sources))
    assert recorded() == dict.fromkeys(sources, A)


def test_a_cache_that_cannot_be_written_still_serves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("svt_zoo.hub.checksums.FileLock", refuse)
    with caplog.at_level(logging.WARNING):
        check("https://server.org/w.pth", A, None, None)
    assert "could not be recorded" in caplog.text
