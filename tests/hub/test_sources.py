"""The text form of sources of weights."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svt_zoo.hub.sources import HubFile, IoPath, UrlFile, parse_source

name = st.text("abcXYZ019-_.", min_size=1, max_size=12)


@given(
    repo=st.tuples(name, name).map("/".join),
    filename=st.lists(name, min_size=1, max_size=3).map("/".join),
    revision=st.one_of(name, st.just("refs/pr/1"), st.text("0123456789abcdef", min_size=40, max_size=40)),
)
def test_a_hub_file_reads_as_it_is_written(repo: str, filename: str, revision: str) -> None:
    file = HubFile(repo, filename, revision)
    assert parse_source(str(file)) == file


def test_a_hub_file_without_revision_is_that_of_main() -> None:
    assert parse_source("hf://org/repo/sub/model.pth") == HubFile("org/repo", "sub/model.pth", "main")


@pytest.mark.parametrize(
    "text", ["hf://", "hf://org", "hf://org/repo", "hf://org/repo/", "hf://org/repo/f@", "hf://org/repo@v1/f"]
)
def test_an_incomplete_hub_file_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form hf://org/repo/file or hf://org/repo/file@revision"):
        parse_source(text)


def test_an_address_is_kept_under_its_last_part() -> None:
    file = parse_source("https://server.org/v1/my%20weights.pth?download=1#top")
    assert isinstance(file, UrlFile)
    assert file.filename == "my weights.pth"


def test_a_downloaded_file_lies_where_torch_hub_keeps_its_own() -> None:
    assert UrlFile("https://server.org/w.pth").path == Path(torch.hub.get_dir()) / "checkpoints" / "w.pth"


@pytest.mark.parametrize("url", ["https://server.org", "https://server.org/", "https://server.org/a/.."])
def test_an_address_without_a_file_name_needs_one(url: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        parse_source(url)
    assert UrlFile(url, "weights.pth").filename == "weights.pth"


@pytest.mark.parametrize("filename", ["../weights.pth", "a/b", "a\\b", ".."])
def test_a_file_name_stays_in_its_folder(filename: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        UrlFile("https://server.org/w.pth", filename)


def test_an_encoded_slash_in_an_address_does_not_leave_the_folder() -> None:
    with pytest.raises(ValueError, match="no file name"):
        parse_source("https://server.org/..%2F..%2Fevil.pth")


@pytest.mark.parametrize("text", ["weights.pth", "/data/weights.pth", "org/repo/weights.pth"])
def test_what_has_no_scheme_is_a_local_path(text: str) -> None:
    assert parse_source(text) == Path(text)


def test_a_local_path_may_start_at_the_home_folder() -> None:
    assert parse_source("~/weights.pth") == Path.home() / "weights.pth"


def test_a_file_address_is_a_local_path() -> None:
    assert parse_source("file:///weights/my%20file.pth") == Path("/weights/my file.pth")


def test_any_other_scheme_is_for_iopath() -> None:
    assert parse_source("s3://bucket/key/weights.pth") == IoPath("s3://bucket/key/weights.pth")
