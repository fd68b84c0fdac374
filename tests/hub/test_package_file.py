"""The weights in the package: they load without a network, and their features say where a light moves."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from torch import Tensor

import svt_zoo
from svt_zoo.demo.synthetic import MOTIONS, drift, paint
from svt_zoo.evaluation.knn import knn_scores, standardized
from svt_zoo.hub import sources
from svt_zoo.hub.publish import golden_output
from svt_zoo.hub.table import get_weights
from svt_zoo.models import Backbone

ROOT = Path(__file__).resolve().parents[2]
ROW = get_weights("svt_tiny_motion")
GOLDEN = [-1.458204, -0.033276, -1.157212, -0.813069, -0.235178, -0.512775, 1.90375, -0.407135]


def generated(per_class: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Videos of the demo before the encoder, and their classes."""
    labels = torch.arange(len(MOTIONS)).repeat(per_class)
    videos = []
    for i, label in enumerate(labels.tolist()):
        rng = np.random.default_rng([seed, i])
        videos.append(torch.from_numpy(paint(drift(list(MOTIONS)[label], rng, 32), rng, 64)))
    return videos, labels


def test_torch_hub_loads_it_without_a_network(hub_server: HubServer) -> None:
    model = torch.hub.load(str(ROOT), "svt_tiny_motion", source="local")
    assert not hub_server.requests
    assert model.meta["license"] == "Apache-2.0"
    assert model.transforms().crop_size == (24, 24)
    assert isinstance(ROW.source, sources.PackageFile)
    assert ROW.source.path.stat().st_size < 2e6


def test_its_outputs_are_the_recorded_ones() -> None:
    outputs = golden_output(svt_zoo.load_model(ROW))
    torch.testing.assert_close(torch.tensor(outputs), torch.tensor(GOLDEN), rtol=0, atol=1e-3)


def test_its_features_find_the_motion_and_random_ones_do_not() -> None:
    (known, labels), (asked, answers) = generated(25, 1000), generated(15, 1001)

    def top1(network: svt_zoo.models.ZooModel) -> float:
        assert isinstance(network, Backbone)
        transform = ROW.transforms()
        with torch.inference_mode():
            clips = [
                torch.stack([transform(video[transform.clip_indices(32, fps=16)]) for video in part])
                for part in (known, asked)
            ]
            bank, queries = standardized(*(network(part).cls for part in clips))
        scores = knn_scores(bank, labels, queries, num_classes=4, ks=(10,))[10]
        return (scores.argmax(dim=1) == answers).float().mean().item()

    torch.manual_seed(0)
    trained, untrained = top1(svt_zoo.load_model(ROW)), top1(svt_zoo.svt_tiny_motion(pretrained=False))
    assert trained > max(0.9, untrained + 0.4)  # chance is 0.25; measured are 0.98 and 0.38 to 0.43


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(ROW.source, sources.PackageFile)
    damaged = tmp_path / ROW.source.filename
    shutil.copy(ROW.source.path, damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "sources.py"))
    with pytest.raises(sources.WeightsError, match="wrong sha256"):
        svt_zoo.load_model(ROW)
