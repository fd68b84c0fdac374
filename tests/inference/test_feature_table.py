"""A table of features: its vectors are plain in the file, and read from it without a copy."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from feature_tables import table_of
from torch.nn.functional import normalize
from torch.testing import assert_close

from svt_zoo.evaluation.features import Store
from svt_zoo.evaluation.shards import ClipRow, Shard
from svt_zoo.inference import feature_table
from svt_zoo.inference.feature_table import FeatureTable


def mapped(table: FeatureTable) -> list[bool]:
    """For each row group, whether its features are a memory map of the file."""
    return [isinstance(part.base, np.memmap) or isinstance(part, np.memmap) for _, part in table._groups]


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_features_are_mapped_from_the_file_and_other_readers_read_the_same(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_table, "_GROUP_ROWS", 20)
    features = torch.randn(57, 6).to(getattr(torch, store))
    table = table_of(tmp_path / "f.parquet", features, store=store)
    assert mapped(table) == [True] * 4  # 62 rows with the failures
    assert torch.equal(torch.cat([batch.features for batch in table.batches(7)]), features.float())
    read = pyarrow.parquet.read_table(table.path).column("embedding").to_pylist()
    assert torch.equal(torch.tensor([row for row in read if row is not None]), features.float())


@pytest.mark.parametrize("layout", [{}, {"use_dictionary": False, "compression": "none", "data_page_size": 64}])
def test_a_table_in_another_layout_gives_the_same_rows(tmp_path: Path, layout: dict[str, object]) -> None:
    features = torch.randn(3000, 4)
    table = table_of(tmp_path / "f.parquet", features)
    other = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(table.path), other, **layout)
    assert not any(mapped(FeatureTable(other)))
    for one, two in zip(table.batches(), FeatureTable(other).batches(), strict=True):
        assert torch.equal(one.numbers, two.numbers)
        assert torch.equal(one.features, two.features)


def test_vectors_are_found_by_row_number_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_table, "_GROUP_ROWS", 20)
    features = torch.randn(57, 6)
    table = table_of(tmp_path / "f.parquet", features)
    places = torch.tensor([50, 3, 19, 20, 3, 56])
    numbers = table.vectors.numbers[places]
    assert [row.video for row in table.rows(numbers)] == [f"{i}.mp4" for i in places.tolist()]
    assert_close(table.vectors[numbers], normalize(features[places]))


def test_a_folder_of_tables_is_one_table(tmp_path: Path) -> None:
    features = torch.randn(30, 4)
    for i in range(3):
        table_of(tmp_path / f"{i}.parquet", features[10 * i : 10 * i + 10])
    table = FeatureTable(tmp_path)
    assert table.vectors.numbers.tolist() == [i for i in range(33) if i % 11 != 10]
    assert_close(table.vectors[np.array([0, 11, 31])], normalize(features[[0, 10, 29]]))


def test_the_table_does_not_depend_on_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_table, "_GROUP_ROWS", 8)
    features, names = torch.randn(30, 4), [f"{i}.mp4" for i in range(30)]
    schema = feature_table.make_schema(4, "float16", {"weights_sha256": "0"})
    for size in (3, 30):
        parts = [range(start, min(start + size, 30)) for start in range(0, 30, size)]
        shards = [
            Shard([ClipRow(i, 0.0, 1.0) for i in part], features[part[0] : part[-1] + 1].half()) for part in parts
        ]
        feature_table.write_table(tmp_path / f"{size}.parquet", schema, shards, names)
    assert (tmp_path / "3.parquet").read_bytes() == (tmp_path / "30.parquet").read_bytes()
