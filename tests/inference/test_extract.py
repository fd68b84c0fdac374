"""Extraction: every engine gives the same rows, also after any number of kills."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from commands import command
from processes import ROOT
from torch.testing import assert_close

from svt_zoo import embed
from svt_zoo.data.lists import Row, VideoList, read_list
from svt_zoo.data.pool import CommonFailure
from svt_zoo.data.sampling import dense_clips
from svt_zoo.evaluation.shards import ClipRow, Computed, Shard, ShardFolder
from svt_zoo.inference.extract import extract_features
from svt_zoo.models import ZooModel, create_model
from svt_zoo.video import open_video

TOOL = ROOT / "tools" / "extract_features.py"
TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
CLIP = {"num_frames": 4, "sampling_rate": 5, "resize_size": 36, "crop_size": 32, "mean": (0.45,) * 3, "std": (0.2,) * 3}


def network(seed: int = 0, num_classes: int = 0) -> ZooModel:
    torch.manual_seed(seed)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
    model = create_model("svt_vitt", num_classes=num_classes, **options).eval()
    model.meta["clip"] = CLIP
    return model


def rows(path: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(path).to_pylist()


def embeddings(path: Path) -> torch.Tensor:
    return torch.tensor([row["embedding"] for row in rows(path)])


def extract(videos: VideoList, output: Path, **options: Any) -> Any:
    model = options.pop("model", None) or network()
    return extract_features(model, videos, output, **{"num_workers": 0, "device": "cpu", **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """Seven files, of which the third is not a video."""
    path = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(7):
        make_video(path / f"{i}.mp4", rng.integers(0, 256, (26 + 5 * i, 48, 64, 3), dtype=np.uint8))
    (path / "2.mp4").write_bytes(b"no video")
    return path


@pytest.fixture(scope="module")
def videos(folder: Path) -> VideoList:
    return read_list(folder)


@pytest.fixture(scope="module")
def complete(videos: VideoList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a single uninterrupted call."""
    path = tmp_path_factory.mktemp("complete") / "features.parquet"
    summary = extract(videos, path, batch_size=2, shard_size=3)
    assert (summary.videos, summary.failed, summary.complete) == (7, 1, True)
    return path


def test_rows_equal_embed_in_the_order_of_the_list(complete: Path, folder: Path) -> None:
    found = rows(complete)
    assert [row["video"] for row in found] == [f"{i}.mp4" for i in range(7)]
    good = [row for row in found if row["error"] is None]
    expected = embed([folder / row["video"] for row in good], model=network(), dtype="float32", device="cpu")
    assert_close(torch.tensor([row["embedding"] for row in good]), expected)


def test_a_video_that_cannot_be_read_is_a_row_with_the_reason(complete: Path) -> None:
    [bad] = [row for row in rows(complete) if row["embedding"] is None]
    assert bad["video"] == "2.mp4"
    assert bad["error"]
    assert bad["start_sec"] is None


def test_times_are_those_of_the_frames_of_the_clip(complete: Path, folder: Path) -> None:
    row = rows(complete)[6]
    with open_video(folder / "6.mp4") as video:
        seen = network().transforms().clip_indices(video.num_frames, fps=video.fps)
        assert row["start_sec"] == video.pts[seen[0]]
        assert row["end_sec"] == pytest.approx(video.pts[seen[-1]] + 1 / 25)


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_embeddings_are_lists_of_fixed_size_and_the_metadata_names_their_origin(
    store: str, videos: VideoList, folder: Path, tmp_path: Path
) -> None:
    extract(videos, tmp_path / "f.parquet", store=store)
    schema = pyarrow.parquet.read_schema(tmp_path / "f.parquet")
    number = {"float16": pyarrow.float16(), "float32": pyarrow.float32()}[store]
    assert schema.names == ["video", "start_sec", "end_sec", "embedding", "error"]
    assert schema.field("embedding").type == pyarrow.list_(number, 24)
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert len(metadata["weights_sha256"]) == len(metadata["list_sha256"]) == 64
    assert (metadata["pooling"], metadata["views"], metadata["shape"], metadata["store"]) == (
        "cls",
        "1x1",
        "[24]",
        store,
    )
    assert json.loads(metadata["clip"])["num_frames"] == 4
    assert metadata["root"] == str(folder)
    assert "recipe" in metadata


def assert_same_rows(found: Path, expected: Path) -> None:
    """Equal up to rounding: a row of a matrix product may depend on the number of rows."""
    pairs = [(a.pop("embedding"), b.pop("embedding"), a, b) for a, b in zip(rows(found), rows(expected), strict=True)]
    for embedding, wanted, row, wanted_row in pairs:
        assert row == wanted_row
        assert (embedding is None) == (wanted is None)
        if wanted is not None:
            assert_close(torch.tensor(embedding), torch.tensor(wanted))


def test_workers_batches_and_shards_do_not_matter_but_for_rounding(
    complete: Path, videos: VideoList, tmp_path: Path
) -> None:
    extract(videos, tmp_path / "f.parquet", num_workers=2, batch_size=1, shard_size=2)
    assert_same_rows(tmp_path / "f.parquet", complete)


def test_the_same_batches_give_the_same_rows_to_the_last_bit(complete: Path, videos: VideoList, tmp_path: Path) -> None:
    extract(videos, tmp_path / "f.parquet", num_workers=2, batch_size=2, shard_size=3)
    assert rows(tmp_path / "f.parquet") == rows(complete)


def test_views_are_averaged(folder: Path, tmp_path: Path) -> None:
    one = read_list(folder / "6.mp4")
    extract(one, tmp_path / "f.parquet", views="3x2")
    expected = embed(folder / "6.mp4", model=network(), views="3x2", dtype="float32", device="cpu")
    assert_close(embeddings(tmp_path / "f.parquet"), expected)


def test_rows_at_a_fixed_interval_cover_the_video(folder: Path, tmp_path: Path) -> None:
    extract(read_list(folder / "6.mp4"), tmp_path / "f.parquet", every=0.2, batch_size=2)
    model, found = network(), rows(tmp_path / "f.parquet")
    with open_video(folder / "6.mp4") as video:
        clips = dense_clips(video.num_frames, 4, window=4 * 5 * 25 / 30, step=0.2 * 25)
        assert [row["start_sec"] for row in found] == [video.pts[clip[0]] for clip in clips]
        views = torch.stack([model.transforms()(video.frames_at(clip)) for clip in clips])
    assert_close(embeddings(tmp_path / "f.parquet"), model(views).cls.detach())
    assert found[-1]["end_sec"] == pytest.approx(56 / 25)


def test_a_part_of_a_video_gives_the_features_of_that_part(folder: Path, tmp_path: Path) -> None:
    row = Row(str(folder / "6.mp4"), start_sec=0.4, end_sec=1.2)
    extract(VideoList((row,)), tmp_path / "f.parquet", every=0.2)
    found = rows(tmp_path / "f.parquet")
    assert found[0]["start_sec"] == pytest.approx(0.4)
    assert found[-1]["end_sec"] == pytest.approx(1.2)


def test_damage_costs_only_the_rows_that_show_it(folder: Path, tmp_path: Path, make_video: Callable[..., Path]) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = make_video(tmp_path / "v.mp4", frames, options={"g": "10", "bf": "0", "crf": "20"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = os.urandom(1500)
    path.write_bytes(content)
    extract(read_list(path), tmp_path / "f.parquet", every=0.4)
    found = rows(tmp_path / "f.parquet")
    assert found[0]["embedding"] is not None
    bad = [row for row in found if row["error"]]
    assert 0 < len(bad) < len(found)
    assert all(row["start_sec"] is not None and row["embedding"] is None for row in bad)


def test_a_folder_given_by_a_url_gives_the_same_rows(
    complete: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    extract_features(network(), f"file://{folder}", tmp_path / "f.parquet", batch_size=2, num_workers=0, device="cpu")
    assert_same_rows(tmp_path / "f.parquet", complete)


@pytest.mark.parametrize("pooling", ["frames", "patches"])
def test_tokens_are_those_of_the_network(pooling: str, folder: Path, tmp_path: Path) -> None:
    extract(read_list(folder / "6.mp4"), tmp_path / "f.parquet", pooling=pooling)
    model = network()
    with open_video(folder / "6.mp4") as video:
        clip = model.transforms()(video.frames_at(model.transforms().clip_indices(video.num_frames, fps=video.fps)))
    patches = model(clip[None]).patches.detach()
    expected = patches.mean(dim=2) if pooling == "frames" else patches
    shape = json.loads(pyarrow.parquet.read_schema(tmp_path / "f.parquet").metadata[b"shape"])
    assert shape == list(expected.shape[1:])
    assert_close(embeddings(tmp_path / "f.parquet").unflatten(1, shape), expected)


def test_a_network_whose_features_never_fit_the_type_ends_the_run(folder: Path, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.norm.weight.mul_(1e6)
    with pytest.raises(CommonFailure, match="not finite in float16"):
        extract(read_list(folder / "6.mp4"), tmp_path / "f.parquet", model=model, store="float16")


def test_a_classifier_gives_the_features_of_its_backbone(folder: Path, tmp_path: Path) -> None:
    model = network(num_classes=7)
    extract(read_list(folder / "6.mp4"), tmp_path / "f.parquet", model=model)
    assert embeddings(tmp_path / "f.parquet").shape == (1, 24)


def test_processes_share_the_shards_and_the_last_one_writes_the_table(
    complete: Path, videos: VideoList, tmp_path: Path
) -> None:
    output, options = tmp_path / "f.parquet", {"batch_size": 2, "shard_size": 2}
    first = extract(videos, output, rank=0, world_size=2, **options)
    assert (first.videos, first.complete, output.exists()) == (4, False, False)
    assert len(list(output.with_name("f.parquet.parts").glob("shard_*"))) == 2
    second = extract(videos, output, rank=1, world_size=2, **options)
    assert (second.videos, second.complete) == (3, True)
    assert [row["video"] for row in rows(output)] == [row["video"] for row in rows(complete)]
    assert not output.with_name("f.parquet.parts").exists()


def test_a_finished_table_is_not_written_again(videos: VideoList, tmp_path: Path) -> None:
    extract(videos, tmp_path / "f.parquet")
    before = (tmp_path / "f.parquet").stat().st_mtime_ns
    again = extract(videos, tmp_path / "f.parquet", shard_size=2)
    assert (again.videos, again.complete) == (0, True)
    assert (tmp_path / "f.parquet").stat().st_mtime_ns == before


def test_an_output_with_other_features_is_refused(videos: VideoList, tmp_path: Path) -> None:
    output = tmp_path / "f.parquet"
    extract(videos, output)
    with pytest.raises(ValueError, match=r"f\.parquet holds other features: weights_sha256 was .* choose another"):
        extract(videos, output, model=network(seed=1))
    unfinished = tmp_path / "g.parquet"
    extract(videos, unfinished, world_size=2, shard_size=2)
    with pytest.raises(ValueError, match=r"g\.parquet\.parts holds other .* every was None, is 1; delete it or choose"):
        extract(videos, unfinished, every=1, shard_size=2)


def test_a_run_without_a_shard_does_not_block_another_one(videos: VideoList, tmp_path: Path) -> None:
    output = tmp_path / "f.parquet"
    extract(videos, output, rank=7, world_size=8)  # this rank has no shard
    assert output.with_name("f.parquet.parts").exists()
    extract(videos, output, every=1)
    assert len(rows(output)) > 7


def test_two_commands_at_once_do_not_share_an_output(tmp_path: Path) -> None:
    videos = VideoList((Row("a.mp4"), Row("b.mp4")))
    first, second = (ShardFolder(tmp_path, videos, {"every": every}, 1) for every in ("1", "2"))
    computed = [Computed(i, Shard([ClipRow(i, 0.0, 1.0)], torch.ones(1, 4)), True) for i in range(2)]
    first.claim()
    second.claim()  # the first has no shard yet
    list(first.collect(computed[:1], first.todo(0, 2, 1)))
    with pytest.raises(ValueError, match="every was 1, is 2"):
        list(second.collect(computed[1:], second.todo(1, 2, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"shard_size": 0}, "shard_size must be >= 1, got 0"),
        ({"num_workers": -1}, "workers must be >= 0, got -1"),
    ],
    ids=str,
)
def test_a_wrong_number_is_refused_before_the_output_is_taken(
    options: dict[str, Any], message: str, videos: VideoList, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        extract(videos, tmp_path / "f.parquet", **options)
    assert not any(tmp_path.iterdir())


def test_the_output_is_a_parquet_file(videos: VideoList, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"f\.csv: the file to write ends in \.parquet"):
        extract(videos, tmp_path / "f.csv")
    with pytest.raises(ValueError, match=r"is a folder; name a \.parquet file in it"):
        extract(videos, tmp_path)


def test_options_that_do_not_go_together_are_refused(videos: VideoList, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need views=1x1, got views='3x1'"):
        extract(videos, tmp_path / "f.parquet", views="3x1", pooling="patches")
    with pytest.raises(ValueError, match=r"every must be >= 0\.001 seconds, got 0"):
        extract(videos, tmp_path / "f.parquet", every=0)
    with pytest.raises(ValueError, match="pooling must be one of cls, frames, patches, got 'max'"):
        extract(videos, tmp_path / "f.parquet", pooling="max")


# Forks a process for each file rename and folder removal, and kills it at that point.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests", {here!r}]
import pyarrow.parquet, torch
torch.set_num_threads(1)
import test_extract as t
videos, folder = t.read_list({videos!r}), Path({output!r})

def run(output, dies_at=None):
    pid = os.fork()
    if pid == 0:
        events = [0]
        def dying(function):
            def call(*args, **options):
                for once in (function, None):
                    if events[0] == dies_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    events[0] += 1
                    result = once(*args, **options) if once else result
                return result
            return call
        Path.replace, shutil.rmtree = dying(Path.replace), dying(shutil.rmtree)
        t.extract(videos, output, batch_size=2, shard_size=3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

complete, kills = pyarrow.parquet.read_table({complete!r}), 0
while True:
    output = folder / str(kills) / "f.parquet"
    code = run(output, kills)
    if code == 0:
        break
    assert code == -9, code
    kills += 1
    assert run(output) == 0
    table = pyarrow.parquet.read_table(output)
    assert table.equals(complete) and table.schema.metadata == complete.schema.metadata
    assert [path.name for path in output.parent.iterdir()] == ["f.parquet"], list(output.parent.iterdir())
print(kills)
"""


def test_every_row_is_there_once_wherever_the_process_was_killed(complete: Path, folder: Path, tmp_path: Path) -> None:
    program = KILLED.format(
        root=str(ROOT),
        here=str(Path(__file__).parent),
        videos=str(folder),
        output=str(tmp_path),
        complete=str(complete),
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2 * 6  # settings, three shards, the table, the folder: before and after


# Four processes that start late in turn; before, either all shards exist or none.
RACE = """
import os, sys, time, traceback
from pathlib import Path
sys.path[:0] = [{root!r}]
import pyarrow.parquet, torch
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.evaluation.shards import ClipRow, Computed, Shard, ShardFolder
from svt_zoo.inference.extract import merge, plan
from svt_zoo.inference.feature_table import make_schema
torch.set_num_threads(1)
videos = VideoList(tuple(Row(f"{{i}}.mp4") for i in range(8)))
identity = {{"weights_sha256": "x"}}

def share(output, rank, last=True):
    shards = ShardFolder(output.with_name("f.parquet.parts"), videos, identity, 1)
    ranges = plan(output, shards, rank, 4, 1)
    rows = (Computed(one.start, Shard([ClipRow(one.start, 0.0, 1.0)], torch.ones(1, 4)), True) for one in ranges)
    list(shards.collect(rows, ranges))
    return last and merge(shards, output, make_schema(4, "float32", identity))

for turn in range(60):
    output = Path({output!r}, str(turn), "f.parquet")
    output.parent.mkdir()
    if turn % 2:
        [share(output, rank, last=False) for rank in range(4)]
    children = []
    for rank in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                time.sleep(rank * turn % 7 * 0.003)
                share(output, rank)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    assert not any([os.waitpid(child, 0)[1] for child in children]), turn
    assert pyarrow.parquet.read_table(output)["video"].to_pylist() == [row.path for row in videos.rows]
    assert [path.name for path in output.parent.iterdir()] == ["f.parquet"], list(output.parent.iterdir())
"""


def test_processes_that_start_and_end_at_any_moment_leave_one_table(tmp_path: Path) -> None:
    program = RACE.format(root=str(ROOT), output=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(network().save_pretrained(tmp_path_factory.mktemp("model")) / "model.safetensors")


def test_the_tool_writes_a_table_and_sums_up(
    folder: Path,
    complete: Path,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    main = command("extract")
    arguments = [str(folder), "-o", str(tmp_path / "f.parquet"), "--model", weights, "--device", "cpu"]
    with caplog.at_level(logging.INFO):
        assert main([*arguments, "--workers", "0", "--batch-size", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("7 videos in")
    assert "1 failed" in printed
    assert "7 of 7 videos (100%), 1 failed" in caplog.text  # no bar in a log
    assert "2.mp4: " in caplog.text
    assert_same_rows(tmp_path / "f.parquet", complete)
    assert main([*arguments, "--every", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error: every must be >= 0.001 seconds")


def test_the_tool_fails_when_its_only_video_cannot_be_read_also_the_second_time(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("extract")
    arguments = [str(folder / "2.mp4"), "-o", str(tmp_path / "f.parquet"), "--model", weights, "--device", "cpu"]
    for _ in range(2):
        assert main([*arguments, "--workers", "0"]) == 2
        assert "error: the first video fails for this reason: not a video" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchrun", "ray"])
def test_every_engine_gives_the_same_rows(
    engine: str, folder: Path, complete: Path, weights: str, tmp_path: Path
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    launcher = [sys.executable] if engine == "ray" else [sys.executable, "-m", *TORCHRUN]
    arguments = [str(folder), "-o", str(tmp_path / "f.parquet"), "--model", weights, "--device", "cpu"]
    arguments += ["--batch-size", "2", "--shard-size", "2", *(["--engine", "ray"] if engine == "ray" else [])]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(TOOL), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_rows(tmp_path / "f.parquet", complete)
