"""The loopback server answers the Hub's own client as the Hub does."""

import hashlib
import urllib.request
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO = "org/model"


@pytest.fixture
def api(hub_server: HubServer) -> HfApi:
    return HfApi(endpoint=hub_server.url, token=hub_server.token)


def test_a_small_and_a_large_file_come_back_as_they_were_put(hub_server: HubServer) -> None:
    files = {"config.json": b"{}", "weights/model.safetensors": bytes(range(256)) * 99}
    sha = hub_server.add_repo(REPO, files)
    for revision in ("main", sha):
        for name, content in files.items():
            assert Path(hf_hub_download(REPO, name, revision=revision)).read_bytes() == content


def test_a_large_file_is_cached_under_its_sha256_and_a_small_one_under_its_git_hash(hub_server: HubServer) -> None:
    hub_server.add_repo(REPO, {"config.json": b"{}", "model.safetensors": b"weights"})
    large, small = (Path(hf_hub_download(REPO, name)) for name in ("model.safetensors", "config.json"))
    assert large.resolve().name == hashlib.sha256(b"weights").hexdigest()
    assert small.resolve().name == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object of {}


def test_uploads_round_trip(api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"large" * 1000)
    (tmp_path / "README.md").write_text("# a card\n")
    api.create_repo(REPO)
    commit = api.upload_folder(repo_id=REPO, folder_path=tmp_path, commit_message="both files")
    snapshot = Path(snapshot_download(REPO, revision=commit.oid))
    assert (snapshot / "model.safetensors").read_bytes() == b"large" * 1000
    assert (snapshot / "README.md").read_text() == "# a card\n"
    assert [entry.title for entry in api.list_repo_commits(REPO)] == ["both files", "add files"]


def test_an_uploaded_file_can_be_deleted(api: HfApi) -> None:
    api.create_repo(REPO)
    api.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="folder/note.txt")
    api.delete_file("folder/note.txt", REPO)
    assert api.list_repo_files(REPO) == [".gitattributes"]


def test_a_repository_is_made_once(api: HfApi) -> None:
    api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)


def test_only_the_owner_writes(hub_server: HubServer) -> None:
    stranger = HfApi(endpoint=hub_server.url, token="hf_stranger")
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.create_repo(REPO)
    assert hub_server.repos == {}


def test_a_corrupt_upload_is_refused(hub_server: HubServer) -> None:
    url = f"{hub_server.cdn}/cdn/{hashlib.sha256(b'announced').hexdigest()}"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(url, b"something else", method="PUT"))


def test_branches_and_tags_name_commits(api: HfApi, hub_server: HubServer) -> None:
    first = hub_server.add_repo(REPO, {"a.bin": b"1"})
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="next/step")
    second = api.upload_file(repo_id=REPO, path_or_fileobj=b"2", path_in_repo="a.bin", revision="next/step").oid
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "next/step": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    assert Path(hf_hub_download(REPO, "a.bin", revision="next/step")).read_bytes() == b"2"
    assert Path(hf_hub_download(REPO, "a.bin", revision="v1")).read_bytes() == b"1"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")


def test_the_listing_of_a_repository_has_sizes_and_hashes(api: HfApi, hub_server: HubServer) -> None:
    sha = hub_server.add_repo(REPO, {"card.md": b"text", "deep/er/model.pth": b"weights"})
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == sha
    assert info.siblings is not None
    by_name = {sibling.rfilename: sibling for sibling in info.siblings}
    assert by_name["card.md"].size == 4
    assert by_name["deep/er/model.pth"].lfs.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert [entry.path for entry in api.list_repo_tree(REPO)] == ["card.md", "deep"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "deep", recursive=True)] == [
        "deep/er",
        "deep/er/model.pth",
    ]
    assert [entry.path for entry in api.get_paths_info(REPO, ["card.md", "absent"])] == ["card.md"]
    assert HfFileSystem(endpoint=hub_server.url).cat_file(f"{REPO}/deep/er/model.pth") == b"weights"


def test_what_is_missing_has_the_error_of_its_kind(api: HfApi, hub_server: HubServer) -> None:
    hub_server.add_repo(REPO, {"a.bin": b"1"})
    hub_server.add_repo("org/gated", {"a.bin": b"1"}, gated=True)
    for repo, name, revision, error in [
        (REPO, "b.bin", "main", RemoteEntryNotFoundError),
        (REPO, "a.bin", "no-such-branch", RevisionNotFoundError),
        ("org/none", "a.bin", "main", RepositoryNotFoundError),
    ]:
        with pytest.raises(error):
            hf_hub_download(repo, name, revision=revision)
    with pytest.raises(GatedRepoError):
        hf_hub_download("org/gated", "a.bin", token=False)
    assert Path(hf_hub_download("org/gated", "a.bin", token=hub_server.token)).read_bytes() == b"1"


def test_the_owner_is_known(api: HfApi, hub_server: HubServer) -> None:
    assert api.whoami()["name"] == hub_server.user


def test_a_range_is_answered_with_that_range(hub_server: HubServer) -> None:
    hub_server.files["digits"] = b"0123456789"
    request = urllib.request.Request(f"{hub_server.url}/files/digits", headers={"Range": "bytes=3-5"})
    with urllib.request.urlopen(request) as response:
        assert (response.status, response.read()) == (206, b"345")
        assert response.headers["Content-Range"] == "bytes 3-5/10"


def test_the_client_gets_over_a_dropped_body(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    content = bytes(range(256)) * 1000
    hub_server.add_repo(REPO, {"model.pth": content})
    hub_server.break_down("drop", path="/cdn/")
    assert Path(hf_hub_download(REPO, "model.pth")).read_bytes() == content
    assert hub_server.bodies("/cdn/") == 2


def test_the_client_does_not_notice_a_flipped_byte(hub_server: HubServer) -> None:
    hub_server.add_repo(REPO, {"model.pth": b"weights"})
    hub_server.break_down("flip", path="/cdn/")
    assert Path(hf_hub_download(REPO, "model.pth")).read_bytes() != b"weights"


def test_a_fault_ends_after_its_number_of_times(hub_server: HubServer) -> None:
    hub_server.files["a"] = b"x"
    hub_server.break_down("status", times=1, status=500)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        urllib.request.urlopen(f"{hub_server.url}/files/a")
    with urllib.request.urlopen(f"{hub_server.url}/files/a") as response:
        assert response.read() == b"x"
    assert [request.path for request in hub_server.requests] == ["/files/a", "/files/a"]
