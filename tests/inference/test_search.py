"""Search: nearest rows of a table, and a picture of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from feature_tables import network, table_of
from PIL import Image
from torch.nn.functional import normalize
from torch.testing import assert_close

from svt_zoo import VideoReadError
from svt_zoo.data.list_formats import printable
from svt_zoo.data.lists import read_list
from svt_zoo.evaluation.shards import ClipRow, Shard
from svt_zoo.inference.extract import extract_features
from svt_zoo.inference.feature_table import FeatureTable, make_schema, write_table
from svt_zoo.inference.pictures import drawable, neighbor_sheet
from svt_zoo.inference.search import overlapping, query_feature, search


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """Four moving textures, a copy of the first with higher compression, and a still image of the second."""
    path = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(4):
        texture = np.kron(rng.integers(0, 256, (12, 40, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
        frames = np.stack([texture[:, t : t + 64] for t in range(60)])
        make_video(path / f"{i}.mp4", frames)
        if i == 0:
            make_video(path / "copy.mp4", frames, options={"crf": "24"})
        if i == 1:
            make_video(path / "still.mp4", frames[30:31].repeat(20, axis=0))
            Image.fromarray(frames[30]).save(path / "still.png")
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(network().save_pretrained(tmp_path_factory.mktemp("model")) / "model.safetensors")


@pytest.fixture(scope="module")
def table(folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    output = tmp_path_factory.mktemp("table") / "features.parquet"
    extract_features(weights, read_list(folder), output, num_workers=0, device="cpu")
    return FeatureTable(output)


@pytest.fixture(scope="module")
def dense(folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    output = tmp_path_factory.mktemp("dense") / "features.parquet"
    extract_features(weights, read_list(folder), output, every=0.5, num_workers=0, device="cpu")
    return FeatureTable(output)


def test_exact_search_equals_one_multiplication_with_all_rows(tmp_path: Path) -> None:
    features = torch.randn(57, 8, generator=torch.Generator().manual_seed(0))
    found = search(table_of(tmp_path / "f.parquet", features), 3 * features[20], top=5)
    scores, best = (normalize(features) @ normalize(features[20], dim=0)).topk(5)
    assert [one.row.video for one in found] == [f"{i}.mp4" for i in best.tolist()]
    assert found[0].row.video == "20.mp4"
    assert_close(torch.tensor([one.similarity for one in found]), scores)


def test_batches_hold_the_rows_that_have_a_feature_with_their_numbers(tmp_path: Path) -> None:
    features = torch.randn(25, 4)
    table = table_of(tmp_path / "f.parquet", features)
    batches = list(table.batches(7))
    assert max(len(batch.numbers) for batch in batches) <= 7
    assert torch.equal(torch.cat([batch.features for batch in batches]), features)
    numbers = torch.cat([batch.numbers for batch in batches]).tolist()
    assert [row.video for row in table.rows(numbers)] == [f"{i}.mp4" for i in range(25)]
    assert (len(table), 10 in numbers) == (27, False)


def test_rows_can_be_excluded_and_a_small_table_gives_fewer_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path / "f.parquet", torch.eye(4))
    found = search(table, torch.tensor([1.0, 0.5, 0.2, 0.1]), top=9, without=[0])
    assert [one.row.video for one in found] == ["1.mp4", "2.mp4", "3.mp4"]


def test_a_query_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features of 4 numbers, the query \(5,\)"):
        search(table_of(tmp_path / "f.parquet", torch.eye(4)), torch.ones(5))


def test_a_query_has_the_feature_of_its_row(table: FeatureTable, folder: Path) -> None:
    feature = query_feature(table, folder / "2.mp4", device="cpu")
    [best, *_] = search(table, feature)
    assert best.row.video == "2.mp4"
    assert best.similarity == pytest.approx(1)


def test_a_copy_of_other_quality_is_first_when_the_query_itself_is_excluded(table: FeatureTable, folder: Path) -> None:
    feature = query_feature(table, folder / "0.mp4", device="cpu")
    [best, *others] = search(table, feature, without=overlapping(table, folder / "0.mp4"))
    assert best.row.video == "copy.mp4"
    assert "0.mp4" not in [one.row.video for one in others]


def test_a_query_named_by_a_link_is_excluded_as_its_file_is(table: FeatureTable, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(folder / "0.mp4")
    assert overlapping(table, tmp_path / "link.mp4") == overlapping(table, folder / "0.mp4") != []


def test_an_image_is_searched_as_a_video_without_motion(table: FeatureTable, folder: Path) -> None:
    [best, *_] = search(table, query_feature(table, folder / "still.png", device="cpu"))
    assert best.row.video == "still.mp4"
    assert best.similarity > 0.99


def test_a_part_of_a_video_finds_itself_and_excludes_only_rows_that_overlap(dense: FeatureTable, folder: Path) -> None:
    [first, *_] = [row for row in dense.rows(range(len(dense))) if row.video == "3.mp4"]
    part = {"start_sec": first.start_sec, "end_sec": first.end_sec}
    [best, *_] = search(dense, query_feature(dense, folder / "3.mp4", **part, device="cpu"))
    assert best.row == first
    left_out = dense.rows(overlapping(dense, folder / "3.mp4", **part))
    assert first in left_out
    assert all(row.video == "3.mp4" and row.start_sec < first.end_sec for row in left_out)
    assert len(left_out) < len(overlapping(dense, folder / "3.mp4"))


def test_a_table_computed_in_bfloat16_is_searched_by_the_same_weights(folder: Path, tmp_path: Path) -> None:
    output, model = tmp_path / "f.parquet", network()
    extract_features(model, read_list(folder), output, dtype="bfloat16", num_workers=0, device="cpu")
    table = FeatureTable(output)
    [best, *_] = search(table, query_feature(table, folder / "2.mp4", model=model, device="cpu"))
    assert (best.row.video, round(best.similarity, 3)) == ("2.mp4", 1)
    assert next(model.parameters()).dtype == torch.float32  # the caller's model is not changed


def test_folders_of_frames_are_searched_and_shown_at_the_frame_rate_of_the_table(tmp_path: Path) -> None:
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (48, 40), (level, level, i)).save(tmp_path / "frames" / name / f"{i:02}.png")
    output, videos = tmp_path / "f.parquet", read_list(tmp_path / "frames", frame_rate=10.0)
    extract_features(network(), videos, output, every=2.0, num_workers=0, device="cpu")
    table, query = FeatureTable(output), tmp_path / "frames" / "dark"
    [best] = search(table, query_feature(table, query, start_sec=4.0, model=network(), device="cpu"), top=1)
    assert best.row.video == "dark"
    assert best.row.end_sec > 3  # seconds: at 30 frames per second it would last 2
    picture = neighbor_sheet(table, query, [best], start_sec=4.0)
    assert picture.height > 2 * 128  # frames of the query and of its neighbor


def test_other_weights_than_the_tables_are_refused_in_one_line(table: FeatureTable, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.parquet was made with other weights .* extract the .* again"):
        query_feature(table, folder / "0.mp4", model=network(seed=1))


def test_a_table_of_tokens_is_refused(folder: Path, weights: str, tmp_path: Path) -> None:
    output = tmp_path / "f.parquet"
    extract_features(weights, read_list(folder / "0.mp4"), output, pooling="frames", num_workers=0, device="cpu")
    with pytest.raises(ValueError, match="holds frames, several vectors a row"):
        query_feature(FeatureTable(output), folder / "0.mp4")


def test_a_query_that_cannot_be_read_is_an_error(table: FeatureTable, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("bad.mp4", "bad.png", "missing.mp4"):
        with pytest.raises(VideoReadError, match=name):
            query_feature(table, tmp_path / name, device="cpu")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(
        ValueError, match=r"text\.parquet is not a Parquet file or a folder of them; svt-zoo extract writes one$"
    ):
        FeatureTable(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"missing\.parquet: no such table"):
        FeatureTable(tmp_path / "missing.parquet")


@pytest.mark.parametrize("key", ["weights_sha256", "root", "has_times"])
def test_tables_of_a_folder_that_differ_are_refused(tmp_path: Path, key: str) -> None:
    table_of(tmp_path / "a.parquet", torch.eye(4))
    table_of(tmp_path / "b.parquet", torch.eye(4), list_sha256="other")
    assert len(FeatureTable(tmp_path)) == 8
    table_of(tmp_path / "c.parquet", torch.eye(4), **{key: "True"})
    with pytest.raises(ValueError, match=rf"tables that differ: .*c\.parquet has another {key}; separate them"):
        FeatureTable(tmp_path)


def test_the_sheet_shows_the_query_and_every_neighbor(table: FeatureTable, folder: Path) -> None:
    neighbors = search(table, query_feature(table, folder / "0.mp4", device="cpu"), top=3)
    three = neighbor_sheet(table, folder / "0.mp4", neighbors)
    two = neighbor_sheet(table, folder / "0.mp4", neighbors[:2])
    assert three.height - two.height == (two.height - neighbor_sheet(table, folder / "0.mp4", []).height) / 2
    with_image = neighbor_sheet(table, folder / "still.png", neighbors)
    assert with_image.size == three.size


def test_a_neighbor_whose_file_is_gone_has_a_caption_only(table: FeatureTable, folder: Path, tmp_path: Path) -> None:
    moved = FeatureTable(table.path)
    moved.metadata["root"] = str(tmp_path)
    neighbors = search(table, query_feature(table, folder / "0.mp4", device="cpu"), top=1)
    sheet = neighbor_sheet(moved, folder / "0.mp4", neighbors)
    assert sheet.height < neighbor_sheet(table, folder / "0.mp4", neighbors).height


def test_the_tool_searches_and_reports(
    table: FeatureTable, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("search")
    arguments = [str(table.path), str(folder / "0.mp4"), "--device", "cpu"]
    assert main([*arguments, "--top", "2", "--sheet", str(tmp_path / "sheet.png")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "copy.mp4" in printed[0]
    assert len(printed) == 3
    assert Image.open(tmp_path / "sheet.png").height > 3 * 128
    shutil.copy(folder / "0.mp4", tmp_path / "0.mp4")
    assert main([str(tmp_path / "nothing.parquet"), str(folder / "0.mp4")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_tool_makes_folders_and_refuses_wrong_files_before_it_computes(
    table: FeatureTable, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("search")
    query = [str(table.path), str(folder / "0.mp4"), "--device", "cpu"]
    assert main([*query, "--sheet", str(tmp_path / "new" / "sheet.png")]) == 0
    assert (tmp_path / "new" / "sheet.png").exists()
    capsys.readouterr()
    assert main([*query, "--sheet", str(tmp_path / "sheet.xyz")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.strip().endswith("sheet.xyz: the file to write ends in .png or .jpg")
    with pytest.raises(SystemExit, match="2"):
        main([*query, "--top", "0"])
    assert "--top: must be an integer >= 1, got 0" in capsys.readouterr().err


def test_a_table_without_features_is_an_error(tmp_path: Path) -> None:
    schema = make_schema(4, "float32", {"weights_sha256": "0", "root": "", "pooling": "cls"})
    shard = Shard([ClipRow(0, None, None, "broken")], torch.empty(0, 0))
    write_table(tmp_path / "f.parquet", schema, [shard], ["a.mp4"])
    table = FeatureTable(tmp_path / "f.parquet")
    with pytest.raises(ValueError, match=r"no row of .*f\.parquet has a feature"):
        query_feature(table, "a.mp4")


def test_a_part_outside_the_video_is_a_clear_error(table: FeatureTable, folder: Path) -> None:
    with pytest.raises(VideoReadError, match=r"no frame from 100\.0 s on; the last is shown at 2\.36 s"):
        query_feature(table, folder / "0.mp4", start_sec=100.0, device="cpu")
    with pytest.raises(ValueError, match="the start of a query must be >= 0 seconds, got -3"):
        query_feature(table, folder / "0.mp4", start_sec=-3.0, device="cpu")


def test_names_of_videos_are_one_line_and_use_only_letters_of_the_font() -> None:
    assert printable("a\nb é Привет 日本 \udcff.mp4") == "a\\nb é Привет 日本 \\udcff.mp4"
    assert drawable("a\nb é Привет 日本 \udcff.mp4") == "a\\nb é Привет \\u65e5\\u672c \\udcff.mp4"


def test_a_sheet_shows_cyrillic_letters(table: FeatureTable, folder: Path, tmp_path: Path) -> None:
    names = [shutil.copy(folder / "still.png", tmp_path / f"{letter}.png") for letter in "жфЖ"]
    sheets = {neighbor_sheet(table, name, []).tobytes() for name in names}
    assert len(sheets) == 3  # missing letters would look the same as boxes
