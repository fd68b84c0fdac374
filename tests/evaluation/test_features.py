"""Features of a list equal a direct computation, for any number of processes, without unreadable videos."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.data.clips import RandomClips
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.evaluation.features import Compute, extract, view_features
from svt_zoo.evaluation.shards import ClipReader
from svt_zoo.evaluation.views import SlowFastViews, fast_transform, load_views, parse_views
from svt_zoo.models import Classifier, ZooModel, create_model
from svt_zoo.video import open_video

ROOT = Path(__file__).resolve().parents[2]
CLIP = {
    "num_frames": 4,
    "sampling_rate": 5,
    "resize_size": 36,
    "crop_size": 32,
    "mean": (0.45,) * 3,
    "std": (0.225,) * 3,
}


def network(seed: int = 0, num_classes: int = 0) -> ZooModel:
    torch.manual_seed(seed)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
    model = create_model("svt_vitt", num_classes=num_classes, **options).eval()
    model.meta["clip"] = CLIP
    return model


@pytest.fixture(scope="module")
def paths(gray_video: Callable[..., Path]) -> list[Path]:
    return [gray_video(n) for n in (26, 32, 38, 44, 50)]


@pytest.fixture(scope="module")
def videos(paths: list[Path]) -> VideoList:
    return VideoList(tuple(Row(str(path), label=i % 2) for i, path in enumerate(paths)), ("even", "odd"))


@pytest.fixture
def broken(videos: VideoList, tmp_path: Path) -> VideoList:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = (*videos.rows[:2], Row(str(tmp_path / "broken.mp4"), label=1), *videos.rows[2:])
    return VideoList(rows, videos.classes)


class Counting(ZooModel):
    """Returns the mean of each clip, counts its input clips, and can fail before a given clip."""

    seen = 0
    fails_after: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.meta["clip"] = CLIP

    def forward(self, clip: Tensor) -> Tensor:
        if Counting.fails_after is not None and Counting.seen + len(clip) > Counting.fails_after:
            raise KeyboardInterrupt
        Counting.seen += len(clip)
        return self.scale * clip.mean(dim=(2, 3, 4))


@pytest.fixture
def counting() -> Counting:
    Counting.seen, Counting.fails_after = 0, None
    return Counting()


@torch.inference_mode()
def by_hand(model: ZooModel, path: Path, num_crops: int = 1, num_clips: int = 1) -> Tensor:
    views = load_views(path, parse_views(f"{num_crops}x{num_clips}", model.transforms()))
    return torch.cat([model(view[None]).cls for view in views])


@pytest.mark.parametrize(("crops", "clips"), [(1, 1), (3, 1), (3, 2)])
def test_features_equal_a_plain_loop_over_the_views(
    videos: VideoList, paths: list[Path], crops: int, clips: int
) -> None:
    model = network()
    found = extract(model, videos, views=f"{crops}x{clips}", batch_size=2, device="cpu")
    plain = torch.stack([by_hand(model, path, crops, clips).mean(dim=0) for path in paths])
    assert_close(found.features, plain)
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    assert found.names == [str(path) for path in paths]
    assert found.missing == []


def test_views_may_be_kept_apart(videos: VideoList, paths: list[Path]) -> None:
    model = network()
    found = extract(model, videos, views="3x2", pool="none", device="cpu")
    assert found.features.shape == (5, 6, 24)
    assert_close(found.features[3], by_hand(model, paths[3], 3, 2))


def test_slow_fast_features_equal_an_explicit_average(videos: VideoList, paths: list[Path]) -> None:
    model = network()
    slow = model.transforms()
    fast = EvalTransform(**{**CLIP, "num_frames": 10, "sampling_rate": 2, "crop_size": 16, "resize_size": 18})
    views = SlowFastViews(slow, fast, num_crops=3)
    halves = []
    with open_video(paths[4]) as video, torch.inference_mode():
        for transform in (slow, fast):
            frames = video.frames_at(transform.clip_indices(video.num_frames, fps=video.fps))
            clips = torch.stack([transform(frames, crop=crop, num_crops=3) for crop in range(3)])
            halves.append(model(clips).cls.mean(dim=0))
    mean = extract(model, videos, views=views, device="cpu").features[4]
    total = extract(model, videos, views=views, pool="sum", device="cpu").features[4]
    assert_close(mean, (halves[0] + halves[1]) / 2)
    assert_close(total, halves[0] + halves[1])
    assert not torch.allclose(halves[0], halves[1], atol=1e-3)


def test_slow_fast_is_a_view_by_name(videos: VideoList) -> None:
    model = network()
    named = extract(model, videos, views="slow-fast 1x1", device="cpu")
    made = extract(model, videos, views=SlowFastViews(model.transforms(), num_crops=1), device="cpu")
    assert torch.equal(named.features, made.features)


def test_pooled_features_have_gradients_for_training_on_slow_and_fast_clips() -> None:
    model = network()
    slow, fast = torch.randn(2, 3, 4, 32, 32), torch.randn(2, 3, 16, 16, 16)
    pooled = view_features(model, [slow, fast])
    assert_close(pooled, (model(slow).cls + model(fast).cls) / 2)
    pooled.sum().backward()
    assert next(model.parameters()).grad is not None


def test_logits_of_views_are_pooled_by_mean_by_probability_or_by_the_largest() -> None:
    model = network(num_classes=7)
    views = [torch.randn(2, 3, 4, 32, 32) for _ in range(3)]
    logits = torch.stack([model(view) for view in views])  # (3, 2, 7)
    assert_close(view_features(model, views), logits.mean(dim=0))
    assert_close(view_features(model, views, "softmax").exp(), logits.softmax(dim=-1).mean(dim=0))
    assert_close(view_features(model, views, "max"), logits.amax(dim=0))


def test_a_classifier_gives_logits_and_its_backbone_features(videos: VideoList) -> None:
    model = network(num_classes=7)
    assert isinstance(model, Classifier)
    model.backbone.meta = model.meta
    logits = extract(model, videos, views="3x1", device="cpu").features
    features = extract(model.backbone, videos, views="3x1", device="cpu").features
    assert_close(logits, model.head(features).detach())  # logits of the mean are the mean of the logits


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_drawn_from_the_global_generator_which_a_training_may_use(
    videos: VideoList, num_workers: int
) -> None:
    model, before = network(), torch.get_rng_state()
    extract(model, videos, num_workers=num_workers, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_model_is_not_changed(videos: VideoList) -> None:
    model = network().train()
    extract(model, videos, device="cpu", dtype=torch.bfloat16)
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_workers_and_batch_sizes_do_not_matter(videos: VideoList) -> None:
    model = network()
    one = extract(model, videos, batch_size=1, device="cpu")
    many = extract(model, videos, batch_size=4, num_workers=2, shard_size=3, device="cpu")
    assert_close(many.features, one.features)
    assert many.names == one.names


def test_a_batch_may_start_before_the_features_of_the_one_before_are_read(broken: VideoList) -> None:
    model = network()
    reader = ClipReader(broken, parse_views("1x2", model.transforms()), batch_size=1)
    outputs = []
    for ahead in (0, 1):  # on a CPU, on a GPU
        compute = Compute(model, "mean", torch.device("cpu"), torch.float32)
        compute.ahead = ahead
        outputs.append(list(compute.stream(reader.batches(range(len(broken))))))
    assert [one.shard.rows for one in outputs[0]] == [one.shard.rows for one in outputs[1]]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one.shard.features, other.shard.features)


def test_a_batch_too_large_for_the_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of ...")

    compute = Compute(network(), "mean", torch.device("cpu"), torch.float32)
    monkeypatch.setattr(compute.network, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"3 rows of 1 x \(3, 2, 32, 32\): lower batch_size"):
        compute.features([torch.zeros(3, 3, 2, 32, 32)])


def test_missing_videos_are_reported_and_not_replaced(broken: VideoList, videos: VideoList) -> None:
    model = network()
    found = extract(model, broken, batch_size=2, shard_size=2, device="cpu")
    whole = extract(model, videos, batch_size=2, device="cpu")
    assert_close(found.features, whole.features)
    assert found.video_index.tolist() == [0, 1, 3, 4, 5]
    assert found.labels.tolist() == whole.labels.tolist()
    [failure] = found.missing
    assert failure.path.endswith("broken.mp4")
    assert failure.reason


def test_a_shard_may_have_only_missing_videos(broken: VideoList) -> None:
    found = extract(network(), broken, shard_size=1, device="cpu")
    assert found.features.shape == (5, 24)


def test_random_clips_are_the_same_for_a_seed_and_differ_for_another(videos: VideoList) -> None:
    model = network()
    views = RandomClips(model.transforms(), num_clips=2)
    first, again, other = (
        extract(model, videos, views=views, pool="none", seed=seed, device="cpu", batch_size=size).features
        for seed, size in ((0, 1), (0, 4), (1, 4))
    )
    assert first.shape == (5, 2, 24)
    assert_close(first, again)
    assert not torch.allclose(first, other, atol=1e-4)
    assert not torch.allclose(first[:, 0], first[:, 1], atol=1e-4)


def test_a_killed_run_continues_without_computing_anything_twice(
    videos: VideoList, counting: Counting, tmp_path: Path
) -> None:
    whole = extract(counting, videos, device="cpu")
    options = {"output": tmp_path, "shard_size": 2, "batch_size": 1, "device": "cpu"}
    Counting.seen, Counting.fails_after = 0, 3
    with pytest.raises(KeyboardInterrupt):
        extract(counting, videos, **options)
    Counting.seen, Counting.fails_after = 0, None
    resumed = extract(counting, videos, **options)
    assert Counting.seen == 3  # the finished shard of two was kept, the unfinished one was not
    assert torch.equal(resumed.features, whole.features)
    extract(counting, videos, **options)
    assert Counting.seen == 3


def test_a_killed_process_leaves_complete_shards(videos: VideoList, tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
import test_features as t
from svt_zoo.data.lists import VideoList, Row
videos = VideoList(tuple(Row(p, label=i % 2) for i, p in enumerate({[r.path for r in videos.rows]!r})), ("even", "odd"))
forward = t.Counting.forward
def dies(self, clip):
    if t.Counting.seen == 4:
        os.kill(os.getpid(), 9)
    return forward(self, clip)
t.Counting.forward = dies
t.extract(t.Counting(), videos, output={str(tmp_path)!r}, shard_size=1, batch_size=1, device="cpu")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    Counting.seen, Counting.fails_after = 0, None
    resumed = extract(Counting(), videos, output=tmp_path, shard_size=1, batch_size=1, device="cpu")
    assert Counting.seen == 1
    assert torch.equal(resumed.features, extract(Counting(), videos, device="cpu").features)


@pytest.mark.slow
def test_processes_of_one_group_wait_for_each_other_and_return_everything(videos: VideoList, tmp_path: Path) -> None:
    program = f"""
import sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
import test_features as t
from svt_zoo.data.lists import VideoList, Row
rank = int(sys.argv[1])
store = torch.distributed.FileStore({str(tmp_path / "store")!r}, 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
rows = tuple(Row(p, label=i % 2) for i, p in enumerate({[row.path for row in videos.rows]!r}))
videos = VideoList(rows, ("even", "odd"))
options = dict(output={str(tmp_path / "out")!r}, shard_size=1, device="cpu")
found = t.extract(t.network(), videos, **options)
assert found.features.shape == (5, 24)
torch.distributed.destroy_process_group()
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", program, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    together = extract(network(), videos, output=tmp_path / "out", shard_size=1, device="cpu")
    assert_close(together.features, extract(network(), videos, device="cpu").features)


def test_a_folder_of_other_features_is_refused(videos: VideoList, tmp_path: Path) -> None:
    extract(network(), videos, output=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"weights_sha256 was .* delete it or choose another output"):
        extract(network(seed=1), videos, output=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"views was .*num_crops=1.*num_crops=3"):
        extract(network(), videos, views="3x1", output=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="list_sha256 was"):
        extract(network(), VideoList(videos.rows[:3]), output=tmp_path, device="cpu")


def test_a_damaged_shard_is_named(videos: VideoList, tmp_path: Path) -> None:
    extract(network(), videos, output=tmp_path, device="cpu")
    [shard] = tmp_path.glob("shard_*")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"shard_0+\.safetensors is damaged .*delete it"):
        extract(network(), videos, output=tmp_path, device="cpu")


def test_several_processes_need_a_folder(videos: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svt_zoo.distributed.world_size", lambda: 2)
    with pytest.raises(ValueError, match="2 processes need a common folder"):
        extract(network(), videos)


def test_the_fast_clip_covers_the_same_seconds_and_the_same_picture() -> None:
    slow = EvalTransform(**{**CLIP, "num_frames": 8, "sampling_rate": 32, "crop_size": 224, "resize_size": 256})
    fast = fast_transform(slow)
    assert (fast.num_frames, fast.sampling_rate, fast.crop_size, fast.resize_size) == (64, 4, (96, 96), 110)
    few, many = (transform.clip_indices(300, fps=30) for transform in (slow, fast))
    assert (few[0], few[-1]) == (many[0], many[-1])
