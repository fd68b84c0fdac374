"""torch.hub: the entry points for new users."""

import inspect
import os
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hub_server import HubServer

import hubconf
from svt_zoo.hub import entrypoints
from svt_zoo.hub.sources import WeightsError

ROOT = Path(__file__).resolve().parents[2]


def test_every_entry_point_has_the_same_signature_and_a_docstring() -> None:
    signatures = {str(inspect.signature(getattr(entrypoints, name))) for name in entrypoints.__all__}
    assert len(signatures) == 1
    assert all(getattr(hubconf, name).__doc__ for name in hubconf.__all__)
    assert hubconf.__all__ == entrypoints.__all__


def test_without_weights_nothing_is_fetched(hub_server: HubServer) -> None:
    model = torch.hub.load(str(ROOT), "dino_vits16", source="local", pretrained=False, num_classes=3, num_frames=4)
    assert model.head.out_features == 3
    assert model.transforms().num_frames == model.backbone.transforms().num_frames == 4
    assert not hub_server.requests


def test_without_a_network_one_line_says_how_to_fetch_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_server: HubServer
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error:
        entrypoints.svt_vitb_k400()
    message = str(error.value)
    assert "\n" not in message
    assert "https://github.com/kahnchana/svt/releases/download/v1.0/kinetics400_vitb_ssl.pth" in message
    assert str(Path(torch.hub.get_dir()) / "checkpoints" / "kinetics400_vitb_ssl.pth") in message
    assert "weights=/path/to/file" in message


def requirement_closure(*names: str) -> set[str]:
    """Names of the installed distributions that `names` need, themselves included, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        needed = [requirement for requirement in distribution.requires or () if "extra ==" not in requirement]
        waiting += [re.split(r"[\s;<>=!~\[(]", requirement, maxsplit=1)[0] for requirement in needed]
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds what hubconf.dependencies list, with what those need, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name in requirement_closure(*hubconf.dependencies):
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            top = file.parts[0]
            source = Path(str(distribution.locate_file(top)))
            if top != ".." and source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return folder / "bin" / "python"


def test_torch_hub_needs_only_what_hubconf_lists_wherever_it_is_called(bare_python: Path, tmp_path: Path) -> None:
    for name in ("utils", "models", "src"):  # a user's own folders of these names
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    program = f"""
import importlib.util, sys
for name in ("av", "torchvision", "pytorchvideo", "fvcore", "iopath", "matplotlib"):
    assert importlib.util.find_spec(name) is None, name
import torch
model = torch.hub.load({str(ROOT)!r}, "dino_vits16", source="local", pretrained=False)
features = model(torch.zeros(1, 3, 2, 32, 48))
assert features.cls.shape == (1, 384) and features.patches.shape == (1, 2, 6, 384)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(bare_python), "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hubconf_does_not_import_what_it_does_not_list() -> None:
    assert hubconf.dependencies == ["torch", "huggingface_hub", "safetensors"]
    program = "import sys, hubconf; print([m for m in ('av', 'torchvision', 'pytorchvideo') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
