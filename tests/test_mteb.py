"""The encoder of examples/mteb_encoder.py on mteb's own mock tasks; needs mteb, which is in no extra."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from svt_zoo.data.lists import Row, VideoList
from svt_zoo.evaluation.features import extract
from svt_zoo.models import create_model

ROOT = Path(__file__).resolve().parents[1]
mteb = pytest.importorskip("mteb")
tasks = pytest.importorskip("mteb.mocks.mock_tasks")
NAMES = ("MockVideoClassification", "MockVideoPairClassificationTask", "MockVideoClusteringTask")


@pytest.fixture(scope="module")
def encoder() -> Any:
    spec = importlib.util.spec_from_file_location("mteb_encoder", ROOT / "examples" / "mteb_encoder.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["mteb_encoder"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = create_model("svt_vitt", embed_dim=48, depth=2, num_heads=2, img_size=32, num_frames=4).eval()
    clip = {"num_frames": 4, "sampling_rate": 4, "resize_size": 36, "crop_size": 32}
    model.meta["clip"] = {**clip, "mean": (0.45,) * 3, "std": (0.225,) * 3}
    return module.VideoEncoder(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_mock_task_of_videos_runs_offline(name: str, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [result] = mteb.evaluate(encoder, getattr(tasks, name)(), cache=None).task_results
    assert 0 <= result.get_score() <= 1


def test_embeddings_are_those_of_extract(encoder: Any, tmp_path: Path) -> None:
    task = tasks.MockVideoClusteringTask()
    task.load_data()
    data = task.dataset["test"]
    got = encoder.encode(torch.utils.data.DataLoader(data))
    rows = []
    for number, item in enumerate(data.cast_column("video", sys.modules["mteb_encoder"].Video(decode=False))):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(item["video"]["bytes"])
        rows.append(Row(str(path)))
    expected = extract(encoder.model, VideoList(tuple(rows))).features
    assert len(got.unique(dim=0)) == len(rows) == 3
    assert_close(got, expected, atol=1e-6, rtol=0)
