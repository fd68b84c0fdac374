"""A hub on loopback for the tests of this folder, with caches of each test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants, hf_api

from svt_zoo.files import torch_folder
from svt_zoo.hub.download import Source, WeightsError, fetch


@pytest.fixture(scope="session")
def running_hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def use_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`use_hub(url)`: this process, and any it starts, takes that server for the Hub, with empty caches.

    The client reads its environment when it is imported, which may have been long ago: its constants are set too.
    """
    home, torch_home = tmp_path / "huggingface", tmp_path / "torch"
    former = torch.hub._hub_dir  # what set_dir sets; None while TORCH_HOME decides
    torch.hub.set_dir(str(torch_home / "hub"))

    def use(url: str) -> None:
        environment = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": HubServer.token,
            "NO_PROXY": "127.0.0.1,localhost",
            "TORCH_HOME": str(torch_home),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hf_api.api, "endpoint", url)

    yield use
    torch.hub._hub_dir = former


@pytest.fixture
def hub_server(running_hub_server: HubServer, use_hub: Callable[[str], None]) -> HubServer:
    """An empty hub on loopback in the place of the Hugging Face Hub."""
    running_hub_server.reset()
    use_hub(running_hub_server.url)
    return running_hub_server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def failure() -> Callable[..., str]:
    """`failure(source, ...)`: the text of the WeightsError with which `fetch(source, ...)` ends."""

    def fail(source: Source | str, **options: Any) -> str:
        with pytest.raises(WeightsError) as caught:
            fetch(source, **options)
        text = str(caught.value)
        assert text.startswith(f"{source}: ")
        assert "\n" not in text
        return text

    return fail


@pytest.fixture
def left_behind() -> Callable[[], list[str]]:
    """The files in the folder of checkpoints, but for the empty files of the locks."""

    def names() -> list[str]:
        return sorted(path.name for path in torch_folder("checkpoints").glob("*") if path.suffix != ".lock")

    return names
