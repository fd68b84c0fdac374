"""Downloads from olah, an independent hub server: they check the protocol that our own test server implements."""

import hashlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from svt_zoo.hub.download import HubFile, fetch

pytestmark = pytest.mark.network  # olah comes from PyPI

REPO = "org/svt"
LARGE = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(LARGE).hexdigest()


@dataclass(frozen=True)
class Olah:
    """A running server, and the commit it serves."""

    url: str
    commit: str


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def git_repository(folder: Path) -> str:
    """A repository with a small file and a large one, the latter in git-lfs form; returns its commit."""
    folder.mkdir(parents=True)

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
        return subprocess.check_output(["git", "-C", str(folder), *identity, *arguments], text=True).strip()

    git("init", "--quiet", "--initial-branch=main")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(LARGE)}\n"
    (folder / "weights.pth").write_text(pointer)
    (folder / "config.json").write_text("{}")
    lfs_object = folder / ".git" / "lfs" / "objects" / SHA256[:2] / SHA256[2:4] / SHA256
    lfs_object.parent.mkdir(parents=True)
    lfs_object.write_bytes(LARGE)
    git("add", ".")
    git("commit", "--quiet", "--message", "weights")
    return git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def olah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Olah]:
    folder = tmp_path_factory.mktemp("olah")
    program = shutil.which("olah-cli")
    if program is None:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "olah==0.5.4"], check=True)
        program = str(folder / "venv/bin/olah-cli")
    commit = git_repository(folder / "mirrors" / "models" / REPO)
    port, nowhere = free_port(), free_port()
    settings = f"""
        [basic]
        host = "127.0.0.1"
        port = {port}
        hf-scheme = "http"
        hf-netloc = "127.0.0.1:{nowhere}"
        mirrors-path = ["{folder}/mirrors"]
        repos-path = "{folder}/cache"
        log-path = "{folder}/logs"
        [accessibility]
        offline = true
        """
    (folder / "olah.toml").write_text(settings)
    with (folder / "output.txt").open("wb") as output:
        command = [program, "-c", str(folder / "olah.toml")]
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "output.txt").read_text()
            time.sleep(0.2)
        yield Olah(f"http://127.0.0.1:{port}", commit)
    finally:
        process.terminate()
        process.wait(30)


def test_weights_come_from_a_branch_and_from_a_commit(olah: Olah, use_hub: Callable[[str], None]) -> None:
    use_hub(olah.url)
    for revision in ("main", olah.commit):
        assert fetch(HubFile(REPO, "weights.pth", revision), sha256=SHA256).read_bytes() == LARGE
        assert fetch(f"hf://{REPO}/config.json@{revision}").read_bytes() == b"{}"


def test_a_large_file_is_cached_under_its_sha256(olah: Olah, use_hub: Callable[[str], None]) -> None:
    use_hub(olah.url)
    assert fetch(HubFile(REPO, "weights.pth", olah.commit)).resolve().name == SHA256


def test_a_missing_file_is_one_error(olah: Olah, use_hub: Callable[[str], None], failure: Callable[..., str]) -> None:
    use_hub(olah.url)
    assert "check" in failure(HubFile(REPO, "absent.pth", olah.commit))


def test_a_pinned_file_outlives_its_server(olah: Olah, use_hub: Callable[[str], None]) -> None:
    use_hub(olah.url)
    pinned = HubFile(REPO, "weights.pth", olah.commit)
    fetch(pinned)
    use_hub(f"http://127.0.0.1:{free_port()}")
    assert fetch(pinned).read_bytes() == LARGE
