"""Extraction to an object store, and on a Ray cluster of two nodes (on this machine) of which one is killed."""

import io
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
from processes import ROOT
from small_models import small
from video_files import numbered

from benchmarks.range_server import RangeServer
from svt_zoo.data.index import index_videos
from svt_zoo.data.lists import read_list
from svt_zoo.inference.extract import Summary, extract_features

VIDEOS = 24
CLIP = {"num_frames": 4, "sampling_rate": 2, "resize_size": 36, "crop_size": 32, "mean": (0.45,) * 3, "std": (0.2,) * 3}
PROGRAM = """
import os, sys, threading, time
import pyarrow.parquet
import ray
from ray.cluster_utils import Cluster
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.files import torch_folder
from svt_zoo.inference.extract import extract_features
from small_models import small

url, output = sys.argv[1:]
model = small("svt_vitt")
model.meta["clip"] = {clip}
videos = VideoList(tuple(Row(f"{{url}}/{{i}}.mp4") for i in range({videos})))
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2}})
second = cluster.add_node(num_cpus=2)
ray.init(cluster.address)
assert ray.cluster_resources()["CPU"] == 4

def kill():
    while len(done := list(torch_folder("features").glob("*.parts/shard_*"))) < 3:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    print("killed after", len(done), flush=True)

killer = threading.Thread(target=kill, daemon=True)
killer.start()
summary = extract_features(model, videos, output, engine="ray", device="cpu", batch_size=1, shard_size=1)
print(summary, flush=True)
killer.join(60)
while (alive := sum(node["Alive"] for node in ray.nodes())) > 1:  # until the cluster notices
    time.sleep(0.2)
extract_features(model, videos, output + ".local.parquet", device="cpu", batch_size=1, num_workers=0)
tables = [pyarrow.parquet.read_table(path.removeprefix("file://")) for path in (output, output + ".local.parquet")]
assert tables[0].equals(tables[1])  # every row once, in the order of the list, with the same bits
print(alive, "node alive,", tables[0].num_rows, "rows,", tables[0]["error"].null_count, "without an error", flush=True)
ray.shutdown()  # Ray's exit handler would end the program with status 1 after the loss of a node
cluster.shutdown()
"""


def test_a_table_at_a_url_is_complete_or_absent_and_not_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "videos").mkdir()
    numbered(tmp_path / "videos" / "a.mp4", 20)
    model, url = small("svt_vitt"), f"memory://{uuid.uuid4().hex}/sub/features.parquet"
    model.meta["clip"] = CLIP

    def run(**options: Any) -> Summary:
        return extract_features(model, tmp_path / "videos", url, device="cpu", num_workers=0, **options)

    first = run()
    assert (first.output, first.videos, first.failed, first.complete) == (url, 1, 0, True)
    assert len(pyarrow.parquet.read_table(io.BytesIO(fsspec.filesystem("memory").cat_file(url)))) == 1
    assert (run().videos, run().complete) == (0, True)
    assert list((tmp_path / "torch").rglob("*.parquet*")) == []
    with pytest.raises(ValueError, match="holds other features: store was float32, is float16"):
        run(store="float16")
    with pytest.raises(ValueError, match="2 processes cannot write memory://"):
        run(world_size=2)
    with pytest.raises(ValueError, match=r"ends in \.parquet"):
        extract_features(model, tmp_path / "videos", "memory://a/b.csv", device="cpu", num_workers=0)


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_row(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    pytest.importorskip("aiohttp", reason="byte ranges over http need pip install '.[remote]'")
    paths = [numbered(tmp_path / f"{i}.mp4", 20) for i in range(VIDEOS)]
    assert index_videos(read_list(tmp_path), workers=0).new == VIDEOS
    (tmp_path / "store").mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "TORCH_HOME": str(tmp_path / "torch"),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",  # for a busy machine
        "RAY_worker_niceness": "0",
    }
    with RangeServer() as server:
        server.files = {path.name: path.read_bytes() for path in [*paths, *tmp_path.glob("*.index")]}
        output = f"file://{tmp_path}/store/features.parquet"
        command = [sys.executable, "-c", PROGRAM.format(videos=VIDEOS, clip=CLIP), server.url, output]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=1500)
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(done.stdout.split("killed after ")[1].split()[0]) < VIDEOS
        assert f"1 node alive, {VIDEOS} rows, {VIDEOS} without an error" in done.stdout
        assert server.counts()["requests"] >= 4 * VIDEOS  # by Ray and by the local engine: indexes and packets
    assert not list((tmp_path / "torch").rglob("*.mp4"))
