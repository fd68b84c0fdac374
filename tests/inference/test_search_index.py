"""The index of a large table: finds what exact search finds, and continues after a kill."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command
from feature_tables import table_of
from torch import Tensor

from svt_zoo.inference import search_index
from svt_zoo.inference.feature_table import FeatureTable
from svt_zoo.inference.search import search
from svt_zoo.inference.search_index import open_index


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureTable:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    monkeypatch.setattr(search_index, "SMALL", 1000)
    monkeypatch.setattr(search_index, "_PART", 500)
    return features_table(tmp_path)


def features_table(folder: Path) -> FeatureTable:
    return table_of(folder / "f.parquet", mixtures(2000, seed=1), store="float16")


def mixtures(count: int, seed: int) -> Tensor:
    """Features near 100 points, the same for every seed."""
    points = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    near = points[torch.randint(100, (count,), generator=generator)]
    return near + 0.5 * torch.randn(count, 16, generator=generator)


def test_a_query_finds_the_exact_neighbors_and_similarities(table: FeatureTable) -> None:
    shared = 0
    for query in mixtures(50, seed=2):
        exact, found = (search(table, query, use_faiss=use) for use in (False, True))
        same = {one.row: one.similarity for one in exact}
        shared += sum(one.row in same for one in found)
        assert all(one.similarity == pytest.approx(same[one.row], abs=1e-6) for one in found if one.row in same)
    assert shared >= 0.98 * 500


def test_the_facts_state_the_recall_that_was_measured(table: FeatureTable) -> None:
    facts = open_index(table).facts
    assert (facts["rows"], facts["cells"]) == (2000, 45)
    assert 0.99 <= facts["recall"] <= 1
    assert 1 < facts["nprobe"] < 45


def test_excluded_rows_are_not_found_and_the_others_are(table: FeatureTable) -> None:
    query = table.vectors[table.vectors.numbers[3:4]][0]
    first = search(table, query, top=5, use_faiss=True)
    assert first[0].row.video == "3.mp4"
    without = [3, *range(500, 600)]
    exact, found = (search(table, query, top=5, without=without, use_faiss=use) for use in (False, True))
    assert [one.row for one in found] == [one.row for one in exact]


def test_a_killed_build_continues_with_the_parts_that_exist(
    table: FeatureTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faiss, written = search_index.import_faiss(), []
    write = faiss.write_index

    def dying(index: Any, path: str) -> None:
        if len(written) == 3:  # the cells and two parts
            raise KeyboardInterrupt
        written.append(path)
        write(index, path)

    monkeypatch.setattr(faiss, "write_index", dying)
    with pytest.raises(KeyboardInterrupt):
        open_index(table)
    parts = tmp_path / "f.parquet.faiss.parts"
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.faiss")}
    assert len(kept) == 3
    again = []
    monkeypatch.setattr(faiss, "write_index", lambda index, path: (again.append(Path(path).name), write(index, path)))
    index = open_index(FeatureTable(table.path))
    assert again == [".part.part_0000001000.faiss", ".part.part_0000001500.faiss", ".part.f.parquet.faiss"]
    assert (index.faiss.ntotal, parts.exists()) == (2000, False)


def test_the_index_is_kept_and_built_again_when_the_table_changes(table: FeatureTable, tmp_path: Path) -> None:
    made = open_index(table).path.stat().st_mtime_ns
    assert open_index(FeatureTable(table.path)).path.stat().st_mtime_ns == made
    changed = table_of(table.path, torch.randn(1200, 16))
    assert open_index(changed).facts["rows"] == 1200


@pytest.mark.parametrize("text", ["", "[", "5"])
def test_the_index_is_built_again_if_its_notes_are_damaged(table: FeatureTable, text: str) -> None:
    index = open_index(table).path
    index.with_name(f"{index.name}.json").write_text(text)
    (parts := index.with_name(f"{index.name}.parts")).mkdir()
    (parts / "table.json").write_text(text)
    assert open_index(table).facts["rows"] == 2000


def test_a_damaged_index_is_named_with_the_way_out(table: FeatureTable) -> None:
    path = open_index(table).path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"f\.parquet\.faiss is damaged; delete it, then run the same command again"):
        open_index(table)


def test_a_small_table_needs_no_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    with pytest.raises(ValueError, match="has 4 features; an index is for more than 10000, search without it"):
        open_index(table_of(tmp_path / "f.parquet", torch.eye(4)))


def test_without_faiss_the_command_states_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    table_of(tmp_path / "f.parquet", torch.eye(4))
    assert command("search-index")([str(tmp_path / "f.parquet")]) == 2
    assert capsys.readouterr().err == "error: this needs faiss: pip install faiss-cpu; exact search does without\n"


def test_the_command_builds_the_index(table: FeatureTable, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("search-index")([str(table.path)]) == 0
    assert "2000 rows in 45 cells" in capsys.readouterr().out
