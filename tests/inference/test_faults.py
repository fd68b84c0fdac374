"""A faulty file fails alone; names that are not UTF-8 are kept; equal features are equal files."""

import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet
import pytest
import torch
from commands import command
from processes import ROOT

from svt_zoo import VideoReadError, embed, predict
from svt_zoo.data.clips import RandomClips
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.evaluation.features import extract
from svt_zoo.evaluation.results import write_predictions
from svt_zoo.inference.extract import extract_features
from svt_zoo.inference.feature_table import FeatureTable
from svt_zoo.inference.pictures import neighbor_sheet
from svt_zoo.inference.search import overlapping, query_feature, search
from svt_zoo.inference.serve import Answerer
from svt_zoo.lock import FolderInUse, hold
from svt_zoo.models import ZooModel, create_model

CLIP = {"num_frames": 4, "sampling_rate": 5, "resize_size": 36, "crop_size": 32, "mean": (0.45,) * 3, "std": (0.2,) * 3}
NAME = os.fsdecode(b"caf\xe9.mp4")  # Latin-1, not UTF-8


def network(num_classes: int = 0, **clip: Any) -> ZooModel:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32, "num_frames": 4}
    model = create_model("svt_vitt", num_classes=num_classes, **options).eval()
    model.meta["clip"] = CLIP | clip
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(network(num_classes=3).save_pretrained(tmp_path_factory.mktemp("model")) / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """Two sound videos."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "odd.mp4"):
        make_video(tmp_path / "videos" / name, rng.integers(0, 256, (26, 48, 64, 3), dtype=np.uint8))
    return tmp_path / "videos"


@pytest.fixture
def odd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV raises an unusual error for `odd.mp4`."""
    real = av.open

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        if Path(getattr(file, "name", file)).name == "odd.mp4":
            raise ZeroDivisionError("no time base")
        return real(file, *args, **options)

    monkeypatch.setattr(av, "open", opened)


@pytest.mark.usefixtures("odd")
def test_any_error_of_a_file_is_a_file_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    for call in (embed, predict, Answerer(network(3), None, tmp_path)):
        options = {} if isinstance(call, Answerer) else {"model": network(3)}
        with pytest.raises(VideoReadError, match=r"odd\.mp4: ZeroDivisionError: no time base"):
            call(folder / "odd.mp4", **options)


@pytest.mark.usefixtures("odd")
def test_a_faulty_file_is_one_failure_of_a_command(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--model", weights, "--device", "cpu"]
    assert command("embed")([*arguments, "-o", str(tmp_path / "f.csv")]) == 1
    with open(tmp_path / "f.csv", newline="") as file:
        [_, good, bad] = csv.reader(file)
    assert "nan" not in good[1:]
    assert set(bad[1:]) == {"nan"}
    assert command("predict")(arguments) == 1
    assert capsys.readouterr().err.count("ZeroDivisionError: no time base") == 2


@pytest.mark.usefixtures("odd")
def test_a_faulty_file_is_missing_in_an_evaluation(folder: Path) -> None:
    features = extract(network(), read_list(folder), device="cpu")
    assert [Path(name).name for name in features.names] == ["a.mp4"]
    assert [failure.reason for failure in features.missing] == ["ZeroDivisionError: no time base"]


def test_a_feature_that_is_not_a_number_is_the_failure_of_its_video(folder: Path) -> None:
    class Odd(ZooModel):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            mean = clip.mean(dim=(2, 3, 4))
            return torch.where(torch.arange(len(clip))[:, None] == 1, torch.nan, mean)

    model = Odd()
    model.meta["clip"] = CLIP
    features = extract(model, read_list(folder), device="cpu")
    assert features.features.isfinite().all()
    assert "not finite" in features.missing[0].reason


def test_a_video_of_few_frames_a_second_is_read_everywhere(shared: Path, tmp_path: Path) -> None:
    path = shared / "reported" / "timelapse_0.05fps.mp4"
    model = network(3, num_frames=8, sampling_rate=32)
    for views in ("1x1", "3x2", "slow-fast 3x1"):
        assert embed(path, model=model, views=views).isfinite().all()
    assert len(predict(path, model=model)) == 1
    videos = VideoList((Row(str(path), label=0),))
    for made in ("3x2", RandomClips(model.transforms(), num_clips=3)):
        assert not extract(model, videos, views=made, pool="mean", device="cpu").missing
    assert extract_features(model, videos, tmp_path / "f.parquet", every=30, num_workers=0).failed == 0
    assert Answerer(model, None, tmp_path)(path).classes


def test_a_name_that_is_not_utf8_is_extracted_and_found(folder: Path, tmp_path: Path) -> None:
    (folder / "odd.mp4").rename(folder / NAME)
    (folder / "a.mp4").write_bytes(b"no video")
    broken = os.fsdecode(b"broken\xff.mp4")
    (folder / "a.mp4").rename(folder / broken)
    assert extract_features(network(), folder, tmp_path / "f.parquet", num_workers=0, device="cpu").failed == 1
    table = FeatureTable(tmp_path / "f.parquet")
    assert table.videos() == [r"broken\xff.mp4", r"caf\xe9.mp4"]
    assert table.locate(r"caf\xe9.mp4") == str(folder / NAME)
    [best] = search(table, query_feature(table, folder / NAME, model=network(), device="cpu"))
    assert neighbor_sheet(table, folder / NAME, [best]).height > 2 * 128  # frames of both
    assert overlapping(table, folder / NAME) == [1]


def test_a_folder_whose_name_is_not_utf8_is_extracted(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / os.fsdecode(b"vid\xe9os"))
    extract_features(network(), moved, tmp_path / "f.parquet", num_workers=0, device="cpu")
    assert FeatureTable(tmp_path / "f.parquet").locate("a.mp4") == str(moved / "a.mp4")


def test_predictions_keep_names_that_are_not_utf8(tmp_path: Path) -> None:
    scores, labels = torch.eye(2)[:1], torch.tensor([0])
    path = write_predictions(tmp_path / "p.parquet", [NAME], labels, scores)
    assert pyarrow.parquet.read_table(path)["file"].to_pylist() == [r"caf\xe9.mp4"]
    path = write_predictions(tmp_path / "p.csv", [NAME], labels, scores)
    assert b"caf\xe9.mp4" in path.read_bytes()


def test_a_second_extraction_of_the_same_output_is_refused(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "f.parquet.parts"
    with (
        hold(shards, "rank_0"),
        pytest.raises(FolderInUse, match=r"f\.parquet\.parts is in use by process"),
    ):
        extract_features(network(), folder, tmp_path / "f.parquet", num_workers=0, device="cpu")
    assert not list(shards.glob("shard_*"))
    assert extract_features(network(), folder, tmp_path / "f.parquet", num_workers=0, device="cpu").complete


WRITES = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {here!r}]
from pathlib import Path
import torch, test_faults as t
output, videos = Path(sys.argv[1]), t.read_list(sys.argv[2])
features = t.extract(t.network(), videos, output=output / "features", device="cpu")
t.extract_features(t.network(), videos, output / "f.parquet", num_workers=0, device="cpu")
t.write_predictions(output / "p.parquet", features.names, features.labels, features.features)
"""


def test_two_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    program = WRITES.format(root=str(ROOT), here=str(Path(__file__).parent))
    hashes = []
    for seed in "01":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        arguments = [sys.executable, "-c", program, str(tmp_path / seed), str(folder)]
        subprocess.run(arguments, env=env, check=True, capture_output=True, timeout=120)
        files = sorted(path for path in (tmp_path / seed).rglob("*") if path.suffix in (".parquet", ".safetensors"))
        hashes.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert len(hashes[0]) == 3
    assert hashes[0] == hashes[1]
