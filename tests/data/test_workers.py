"""The number of processes that read videos."""

import os

import pytest

from svt_zoo.data.pool import number_of_workers


def test_workers_are_as_many_as_asked_for_or_as_this_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [number_of_workers(asked) for asked in (0, 3, None)] == [0, 3, 6]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert number_of_workers(None) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert number_of_workers(None) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert number_of_workers(None) == 8
