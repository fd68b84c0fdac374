"""Reads parts of remote files: in few requests, at the same time, repeated after temporary errors."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_WAITS = (0.1, 0.4, 1.6, 6.4)  # seconds before each repetition of a request
_PARALLEL = 16  # requests for one video, at the same time
_PERMANENT = (FileNotFoundError, PermissionError, ValueError, TypeError, LookupError, ImportError, NotImplementedError)


def merge_ranges(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], *, waste: float = 0.15, most: int = _PARALLEL
) -> list[tuple[int, int]]:
    """The byte ranges [start, end) that cover all parts, in the order of the file.

    The shortest gaps between parts are read too, up to `waste` times the parts' bytes together. More are read if there
    would be more than `most` ranges, as where sound lies between all pictures: then bytes cost less than requests.
    """
    order = np.argsort(offsets)
    starts, ends = offsets[order], (offsets + sizes)[order]
    gaps = starts[1:] - ends[:-1]
    by_length = np.argsort(gaps, kind="stable")
    joined = np.zeros(len(gaps), bool)
    joined[by_length] = np.cumsum(gaps[by_length]) <= waste * sizes.sum()
    joined[by_length[: max(0, len(gaps) + 1 - most)]] = True
    return list(zip(starts[np.r_[True, ~joined]].tolist(), ends[np.r_[~joined, True]].tolist(), strict=True))


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Reads byte ranges [start, end) of a URL of any scheme of fsspec. A range past the end comes back shorter.

    A request is repeated after HTTP 429 or 5xx, a time-out and a broken connection, for 8.5 seconds.
    """
    import fsspec

    filesystem, path = fsspec.url_to_fs(url)
    if not filesystem.async_impl:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(lambda part: _read(url, *part), ranges))
    # One call for all takes a third of the CPU time of a thread for each.
    starts, ends = zip(*ranges, strict=True)
    contents = filesystem.cat_ranges([path] * len(ranges), list(starts), list(ends), on_error="return")
    return [
        content if isinstance(content, bytes) else _read(url, *part)
        for content, part in zip(contents, ranges, strict=True)
    ]


def read_file(url: str) -> bytes:
    """Reads all bytes of a small file, as `read_ranges` does."""
    return _read(url, None, None)


def _read(url: str, start: int | None, end: int | None) -> bytes:
    import fsspec

    def request() -> bytes:
        filesystem, path = fsspec.url_to_fs(url)
        try:
            content: bytes = filesystem.cat_file(path, start=start, end=end)
        except Exception as error:
            status = getattr(error, "status", None)  # aiohttp's name of the HTTP status
            if status in (401, 403):  # of a missing file too, where the folder may not be listed
                raise PermissionError(f"HTTP {status}: {url}") from error
            if status == 416:
                return b""
            raise
        return content

    return _repeat(request)


def _repeat(request: Callable[[], bytes]) -> bytes:
    for wait in _WAITS:
        try:
            return request()
        except Exception as error:  # file systems raise different error types
            status = getattr(error, "status", None)  # aiohttp's name of the HTTP status
            permanent = isinstance(status, int) and status < 500 and status not in (408, 429)
            if permanent or isinstance(error, _PERMANENT):
                raise
        time.sleep(wait)
    return request()
