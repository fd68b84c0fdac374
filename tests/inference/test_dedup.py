"""Near-duplicates: all planted ones are found, and each removed row has a similar row that is kept."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from feature_tables import network, table_of
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from svt_zoo.data.lists import read_list
from svt_zoo.inference import dedup
from svt_zoo.inference.dedup import find_duplicates, write_kept
from svt_zoo.inference.extract import extract_features
from svt_zoo.inference.feature_table import FeatureTable


def close_rows(count: int) -> Tensor:
    """Rows in 8 dimensions around 40 points, so that many pairs have a similarity near 0.95."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 8, generator=generator)
    return points[torch.randint(40, (count,), generator=generator)] + 0.25 * torch.randn(count, 8, generator=generator)


@pytest.mark.parametrize("block", [7, 1024])
def test_a_small_table_is_compared_completely_and_the_first_of_similar_rows_is_kept(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "_BLOCK", block)
    features = close_rows(200)
    table = table_of(tmp_path / "f.parquet", features)
    found = find_duplicates(table, 0.95)
    similarity, kept, removed = normalize(features) @ normalize(features).T, [], {}
    for i in range(200):
        near = [j for j in kept if similarity[i, j] >= 0.95]
        if near:
            removed[i] = max(near, key=lambda j: float(similarity[i, j]))
        else:
            kept.append(i)
    assert 20 < len(removed) < 180
    numbers = table.vectors.numbers
    assert dict(zip(found.removed.tolist(), found.kept.tolist(), strict=True)) == {
        int(numbers[i]): int(numbers[j]) for i, j in removed.items()
    }
    assert found.similarity.min() >= 0.95


def test_clusters_find_planted_copies_and_keep_a_similar_row_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    monkeypatch.setattr(dedup, "SMALL", 1000)
    features = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))
    features[2000:2300] = 2 * features[:300] + 0.02 * torch.randn(300, 32, generator=torch.Generator().manual_seed(1))
    table = table_of(tmp_path / "f.parquet", features, store="float16")
    found, numbers = find_duplicates(table, 0.98), table.vectors.numbers
    assert len(found.removed) >= 297  # of 300
    assert set(found.removed) <= set(numbers[2000:2300]) | set(numbers[:300])
    assert not set(found.removed) & set(found.kept)
    similarity = (table.vectors[found.removed] * table.vectors[found.kept]).sum(dim=1)
    assert similarity.min() >= 0.98 - 1e-5
    assert torch.allclose(similarity, torch.from_numpy(found.similarity), atol=1e-5)


def test_a_row_is_removed_only_if_its_similar_row_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    monkeypatch.setattr(dedup, "SMALL", 100)
    table = table_of(tmp_path / "f.parquet", close_rows(2000))
    found = find_duplicates(table, 0.9)
    assert len(found.removed) > 1000
    assert not set(found.removed) & set(found.kept)
    assert (table.vectors[found.removed] * table.vectors[found.kept]).sum(dim=1).min() >= 0.9 - 1e-5


def test_rows_of_one_video_are_no_duplicates(tmp_path: Path) -> None:
    table = table_of(tmp_path / "f.parquet", torch.ones(4, 8), ["a.mp4", "a.mp4", "b.mp4", "a.mp4"])
    found = find_duplicates(table, 0.9)
    assert [row.video for row in table.rows(found.removed)] == ["b.mp4"]


def test_wrong_thresholds_and_empty_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="> 0 and <= 1, got 90"):
        find_duplicates(table_of(tmp_path / "f.parquet", torch.eye(4)), 90)


def test_a_large_table_without_faiss_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dedup, "SMALL", 3)
    monkeypatch.setitem(sys.modules, "faiss", None)
    table_of(tmp_path / "f.parquet", torch.eye(4))
    assert command("dedup")([str(tmp_path / "f.parquet"), "-o", str(tmp_path / "kept.csv")]) == 2
    assert capsys.readouterr().err.startswith("error: this needs faiss: pip install faiss-cpu")
    assert not (tmp_path / "kept.csv").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """Three textures in two classes, a stronger compressed copy of the first, and a broken file."""
    path, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i in range(3):
        texture = np.kron(rng.integers(0, 256, (12, 40, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
        frames = np.stack([texture[:, t : t + 64] for t in range(40)])
        make_video(path / f"{i}.mp4", frames)
        if i == 0:
            make_video(path / "copy.mp4", frames, options={"crf": "24"})
    (path / "bad.mp4").write_bytes(b"no video")
    (path / "list.csv").write_text("file,label\n0.mp4,run\n1.mp4,walk\nbad.mp4,walk\ncopy.mp4,run\n2.mp4,run\n")
    return path


def extracted(folder: Path, output: Path, **options: float) -> FeatureTable:
    extract_features(network(), read_list(folder / "list.csv"), output, num_workers=0, device="cpu", **options)
    return FeatureTable(output)


def test_the_command_writes_a_list_for_training_a_report_and_a_sheet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, main = extracted(folder, tmp_path / "f.parquet"), command("dedup")
    files = {name: tmp_path / "new" / name for name in ("kept.csv", "removed.csv", "pairs.png")}
    arguments = [str(table.path), "-o", str(files["kept.csv"]), "--similarity", "0.999"]
    more = ["--report", str(files["removed.csv"]), "--sheet", str(files["pairs.png"])]
    assert main([*arguments, *more, "--list", str(folder / "list.csv")]) == 0
    assert "3 of 5 rows; 1 duplicates and 1 without a feature left out" in capsys.readouterr().out
    kept = read_list(files["kept.csv"])
    assert [(Path(row.path).name, kept.classes[row.label or 0]) for row in kept.rows] == [
        ("0.mp4", "run"),
        ("1.mp4", "walk"),
        ("2.mp4", "run"),
    ]
    [pair] = csv.DictReader(files["removed.csv"].open(newline=""))
    assert (pair["video_kept"], pair["video_removed"]) == ("0.mp4", "copy.mp4")
    assert Image.open(files["pairs.png"]).height > 2 * 128
    assert main(arguments) == 0  # without the list: paths
    assert [Path(row.path).name for row in read_list(files["kept.csv"]).rows] == ["0.mp4", "1.mp4", "2.mp4"]


def test_another_list_than_the_tables_is_refused(folder: Path, tmp_path: Path) -> None:
    table = extracted(folder, tmp_path / "f.parquet")
    (folder / "other.csv").write_text("file,label\n0.mp4,run\n")
    with pytest.raises(ValueError, match=r"f\.parquet was made from another list, or other columns of it; leave out"):
        write_kept(table, find_duplicates(table, 0.9), tmp_path / "kept.csv", read_list(folder / "other.csv"))


def test_a_list_with_times_is_needed_and_keeps_them(folder: Path, tmp_path: Path) -> None:
    path = folder / "parts.csv"
    path.write_text("file,label,group,end_sec\n0.mp4,run,a,0.5\n1.mp4,walk,b,\n")
    extract_features(network(), read_list(path), tmp_path / "f.parquet", num_workers=0, device="cpu")
    table = FeatureTable(tmp_path / "f.parquet")
    found = find_duplicates(table, 1.0)
    with pytest.raises(ValueError, match="a list with start_sec or end_sec; name this list by --list"):
        write_kept(table, found, tmp_path / "kept.csv")
    write_kept(table, found, tmp_path / "kept.csv", read_list(path))
    kept = read_list(tmp_path / "kept.csv").rows
    assert [(row.label, row.group, row.end_sec) for row in kept] == [(0, "a", 0.5), (1, "b", None)]


def test_a_table_of_parts_is_written_as_parts(folder: Path, tmp_path: Path) -> None:
    table = extracted(folder, tmp_path / "f.parquet", every=0.5)
    kept = write_kept(table, find_duplicates(table, 0.9999), tmp_path / "kept.csv")
    parts = read_list(tmp_path / "kept.csv").rows
    assert len(parts) == kept > 3
    assert all(part.start_sec is not None and part.end_sec is not None for part in parts)
