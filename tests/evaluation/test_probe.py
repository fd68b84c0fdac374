"""Probes with controls: known answers for planted features, one decode pass, sweeps equal to single runs, resuming."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from svt_zoo import models
from svt_zoo.config import (
    ClipConfig,
    ConfigError,
    DataConfig,
    EvaluationRunConfig,
    ModelConfig,
    ProbeRecipe,
    build,
)
from svt_zoo.data import datasets
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.evaluation.attentive import AttentiveHead, Setting, fresh_head, train_side_by_side
from svt_zoo.evaluation.metrics import group_interval
from svt_zoo.evaluation.probe import ProbeConfig, Prober
from svt_zoo.evaluation.probe_run import probe, read_set
from svt_zoo.evaluation.results import Result, read_results
from svt_zoo.evaluation.tokens import ClipAndShuffled, Thumbnail, TokenConfig, pool_tokens
from svt_zoo.models import Backbone, Features
from tools.zoo_page import main as write_page

CPU = torch.device("cpu")
FAST = ProbeConfig(lrs=(3e-2, 3e-3), weight_decays=(0.1,), epochs=15, batch_size=8, ks=(1, 3), shots=(1, 2), draws=3)


class Brightness(Backbone):
    """Features of which the answer is known: the brightness of each frame, and of the whole clip."""

    embed_dim, num_frames, patch_size = 8, 4, 8
    cls_dim = 4

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, clip: Tensor) -> Features:
        levels = clip.mean(dim=(1, 3, 4)) * self.scale  # (B, T)
        columns = F.pad(torch.diag_embed(levels), (0, 4))  # (B, T, 8): frame t in column t
        return Features(levels, columns.unsqueeze(2).expand(-1, -1, 4, -1))


KINDS = {  # brightness of the four frames of each class
    "direction": {"up": (60, 120, 120, 180), "down": (180, 120, 120, 60)},
    "level": {"dark": (60, 60, 60, 60), "light": (180, 180, 180, 180)},
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Iterator[Path]:
    """A table of two sets: the class is the direction of a change of brightness, or the brightness itself."""
    patch = pytest.MonkeyPatch()
    patch.setattr(models, "_BUILDERS", {**models._BUILDERS, "brightness": Brightness})
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("probe")
    lines = ["file,label,class,set,split,group"]
    labels = {"up": 0, "down": 1, "dark": 5, "light": 9}
    for kind, classes in KINDS.items():
        for split, count in (("train", 10), ("test", 6)):
            for name, levels in classes.items():
                for i in range(count):
                    frames = np.repeat(levels, 4)[:, None, None, None] + rng.integers(-8, 9)
                    file = f"{kind}_{split}_{name}_{i}.mp4"
                    make_video(root / file, np.broadcast_to(frames, (16, 32, 32, 3)).astype(np.uint8))
                    lines.append(f"{file},{labels[name]},{name},{kind},{split},{kind}_{split}_{name}_{i // 2}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    yield root / "list.csv"
    patch.undo()


@pytest.fixture(scope="module")
def finished(lists: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Result], Path]:
    """Results of one run of all probes on both sets, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    return probe(make_recipe(lists, folder)), folder


@pytest.fixture
def recipe(lists: Path, tmp_path: Path) -> ProbeRecipe:
    """Two probes that train fast, with two controls."""
    options = dataclasses.replace(FAST, probes=("knn", "linear"), controls=("static", "reversed"))
    return dataclasses.replace(make_recipe(lists, tmp_path), probe=options)


def make_recipe(lists: Path, folder: Path) -> ProbeRecipe:
    made = build(ProbeRecipe, {"init": "random", "model": {"name": "brightness"}})
    return dataclasses.replace(
        made,
        lists=(f"{lists}@set=direction", f"{lists}@set=level"),
        clip=ClipConfig(sampling_rate="segments", resize_size=32, crop_size=32, mean=(0.5,) * 3, std=(0.5,) * 3),
        data=DataConfig(num_workers=0),
        run=EvaluationRunConfig(output=str(folder / "run"), device="cpu"),
        report=dataclasses.replace(made.report, folder=str(folder / "results")),
        probe=FAST,
    )


@pytest.mark.parametrize("name", ["knn", "linear", "attentive 1", "attentive 4", "2-shot"])
def test_direction_needs_motion_and_brightness_does_not(finished: tuple[list[Result], Path], name: str) -> None:
    metrics = {result.dataset: result.metrics for result in finished[0] if result.protocol == f"probe, {name}"}
    direction, level = metrics["direction"], metrics["level"]
    assert direction["top1"] > 90
    assert direction["reversed"] < 10  # the opposite class
    assert direction["static_low"] < 50 < direction["static_high"]
    assert direction["minus_static_low"] > 0
    assert direction["minus_thumbnail_low"] > 0
    for condition in ("top1", "static", "shuffled", "reversed", "thumbnail"):
        if (condition, name.split()[0]) == ("thumbnail", "attentive"):
            continue  # it normalizes each token, and a token of a gray thumbnail is constant
        assert level[condition] > 90
    assert level["minus_static"] == pytest.approx(0, abs=10)


def test_table_picture_and_page_show_the_results(finished: tuple[list[Result], Path], tmp_path: Path) -> None:
    results, folder = finished
    [file] = (folder / "results").iterdir()
    assert [one.metrics for one in read_results(file)] == [one.metrics for one in results]
    assert all(one.recipe["model"] == {"name": "brightness", "options": {}} for one in results)
    table = (folder / "run" / "probe.md").read_text()
    assert "**direction**: 20 training and 12 test videos in 6 groups, chance 50.0" in table
    assert "**level**: 20 training and 12 test videos in 6 groups, chance 50.0" in table  # its labels are 5 and 9
    assert "| attentive 4 | 100.0 (" in table
    assert (folder / "run" / "probe.png").read_bytes().startswith(b"\x89PNG")
    write_page(["--results", str(folder / "results"), "--output", str(tmp_path / "page.md")])
    assert "probe, attentive 4 | top1 100.00, static" in (tmp_path / "page.md").read_text()


def test_every_video_is_read_once_and_a_kill_loses_no_finished_work(
    recipe: ProbeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    trained: list[str] = []
    open_row, train = datasets.open_row, Prober._heads

    def counting(row: Any, **options: Any) -> Any:
        opened.append(row.path)
        return open_row(row, **options)

    def killed(self: Prober, *args: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        return noting(self, *args)

    def noting(self: Prober, key: Any, *args: Any) -> Any:
        trained.append(f"{key[0]} of {Path(self.data.groups[0]).name.partition('_')[0]}")
        return train(self, key, *args)

    monkeypatch.setattr("svt_zoo.data.datasets.open_row", counting)
    with monkeypatch.context() as patch:
        patch.setattr(Prober, "_heads", killed)
        with pytest.raises(KeyboardInterrupt):
            probe(recipe)
    assert len(opened) == len(set(opened)) == 32  # the first set, for all conditions
    monkeypatch.setattr(Prober, "_heads", noting)
    continued = probe(recipe)
    assert trained == ["input of direction", "static of direction", "input of level", "static of level"]
    assert len(opened) == len(set(opened)) == 64
    fresh = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, output=f"{recipe.run.output}_fresh"))
    assert [one.metrics for one in continued] == [one.metrics for one in probe(fresh)]


def test_unreadable_videos_are_counted(recipe: ProbeRecipe, lists: Path, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [line for line in lists.read_text().splitlines() if "level" in line]
    rows = [f"{lists.parent}/{line}" for line in rows] + [f"{tmp_path}/broken.mp4,5,dark,level,test,alone"]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,class,set,split,group", *rows]) + "\n")
    with caplog.at_level(logging.WARNING):
        results = probe(dataclasses.replace(recipe, lists=(str(tmp_path / "list.csv"),)))
    assert {(one.n, one.n_missing) for one in results} == {(12, 1)}
    assert "1 of 33 videos cannot be read" in caplog.text
    assert "broken.mp4" in (tmp_path / "run" / "list" / "missing.csv").read_text()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_sweep_trains_each_setting_as_if_alone(depth: int) -> None:
    features = torch.randn(24, 5, 32, generator=torch.Generator().manual_seed(0))
    features = features if depth else features[:, 0]
    labels = (features.flatten(1)[:, 0] > 0).long()
    settings = [Setting(1e-2, 0.5), Setting(1e-3, 0.0), Setting(3e-3, 0.1)]

    def train(some: list[Setting]) -> Tensor:
        options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "seed": 1, "device": CPU}
        head, rows = fresh_head(32, 2, depth, seed=0), torch.arange(24)
        return train_side_by_side(head, some, lambda rows: features[rows], rows, labels, **options).values

    together = train(settings)
    for number, setting in enumerate(settings):
        assert_close(together[number], train([setting])[0], rtol=1e-4, atol=1e-6)


def test_cross_attention_is_the_textbooks() -> None:
    torch.manual_seed(0)
    head, tokens = AttentiveHead(64, 3, depth=1).double(), torch.randn(2, 7, 64, dtype=torch.float64)
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = head.norm1(tokens)

    def split(y: Tensor) -> Tensor:  # (B, h, S, d)
        return y.unflatten(-1, (head.num_heads, -1)).transpose(1, 2)

    q, k, v = split(head.q(head.query.expand(2, 1, 64))), split(head.k(x)), split(head.v(x))
    attended = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v  # (B, h, 1, d)
    pooled = head.query + attended.transpose(1, 2).flatten(2)[:, 0]
    assert_close(head(tokens), head.head(pooled + head.mlp(head.norm2(pooled))))


def test_the_interval_covers_the_truth_in_95_of_100_experiments() -> None:
    rng, hits = np.random.default_rng(0), 0
    groups = [str(i // 5) for i in range(200)]
    for trial in range(200):
        values = torch.from_numpy((rng.normal(size=40).repeat(5) + 0.1 * rng.normal(size=200) > 0).astype(float))
        low, high = group_interval(values, groups, resamples=400, seed=trial)
        hits += low <= 0.5 <= high
    assert 180 <= hits <= 199
    assert group_interval(torch.zeros(200), groups) == (0, 0)
    with pytest.raises(ValueError, match="two or more groups, got 1"):
        group_interval(torch.zeros(5), ["one"] * 5)


def test_videos_of_one_group_widen_the_interval() -> None:
    values = (torch.arange(100) % 20 < 10).double()
    alone = group_interval(values, [str(i) for i in range(100)])
    grouped = group_interval(values, [str(i // 10) for i in range(100)])
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])


def test_shuffled_frames_are_the_same_frames_in_another_order() -> None:
    transform = EvalTransform(num_frames=2, sampling_rate=None, crop_size=8, resize_size=8, mean=(0,) * 3, std=(1,) * 3)
    frames = torch.stack([torch.full((8, 8, 3), level, dtype=torch.uint8) for level in (10, 20)])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clip, shuffled = ClipAndShuffled(transform).make(frames, [[0, 1]], rng).views
        assert torch.equal(shuffled, clip.flip(1))


def test_tokens_are_means_of_cells() -> None:
    patches = torch.arange(2 * 16.0).view(1, 2, 16, 1)
    assert torch.equal(pool_tokens(patches, frames=8, grid=2).flatten()[:4], torch.tensor([2.5, 4.5, 10.5, 12.5]))
    assert pool_tokens(patches, frames=1, grid=1).item() == 15.5
    assert pool_tokens(torch.rand(1, 3, 6, 5), frames=2, grid=2).shape == (1, 8, 5)  # no square
    assert TokenConfig(controls=("thumbnail",), layers=(2, 1)).keys() == [("input", 1), ("input", 2), ("thumbnail", 0)]
    assert Thumbnail()(torch.rand(2, 3, 4, 48, 48)).patches.shape == (2, 1, 16, 27)


def test_layers_are_probed_one_by_one(recipe: ProbeRecipe) -> None:
    tiny = ModelConfig("svt_vitt", {"img_size": 32, "num_frames": 4, "embed_dim": 32, "depth": 3, "num_heads": 2})
    options = dataclasses.replace(FAST, layers=(3, 1), probes=("linear",), controls=("static", "thumbnail"))
    results = probe(dataclasses.replace(recipe, model=tiny, probe=options, lists=recipe.lists[1:]))
    assert [one.protocol for one in results] == ["probe, linear, layer 1", "probe, linear, layer 3"]
    with pytest.raises(ValueError, match="indices must name blocks"):
        probe(dataclasses.replace(recipe, model=tiny, probe=dataclasses.replace(options, layers=(4,))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrs": [0]}, "lrs must be > 0, got"),
        ({"probes": ["svm"]}, "probes"),
        ({"controls": ["static", "static"]}, "controls must hold one or more different values"),
        ({"layers": [0]}, "layers must be >= 1"),
        ({"deep_settings": 21}, "deep_settings must be >= 1 and <= 20, got 21"),
        ({"grid": 0}, "grid must be >= 1, got 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ProbeRecipe, {"probe": options})


def test_lists_that_cannot_be_probed_are_refused(lists: Path, tmp_path: Path, recipe: ProbeRecipe) -> None:
    with pytest.raises(FileNotFoundError, match="no such list"):
        read_set("missing.csv", recipe.data)
    with pytest.raises(ValueError, match="nothing to filter by 'kind'"):
        read_set(f"{lists}@kind=a", recipe.data)
    table = "file,class,split,group\na.mp4,x,train,g\nb.mp4,y,train,h\nc.mp4,x,test,g\nd.mp4,y,test,i\n"
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(ValueError, match="share 1 files or groups, such as group g"):
        read_set(str(tmp_path / "list.csv"), recipe.data)
    with pytest.raises(ValueError, match="sets with different names"):
        probe(dataclasses.replace(recipe, lists=recipe.lists[:1] * 2))
    with pytest.raises(ConfigError, match=r"data\.train, data\.val and repeat have no effect"):
        build(ProbeRecipe, {"data": {"train": "list.csv"}})


def test_lists_come_as_a_table_as_two_files_or_as_a_folder(lists: Path, tmp_path: Path, recipe: ProbeRecipe) -> None:
    one = read_set(f"{lists}@set=level", recipe.data)
    assert (one.name, len(one.train), len(one.test)) == ("level", 20, 12)
    one.train.save(tmp_path / "a.csv")
    one.test.save(tmp_path / "b.csv")
    pair = read_set(f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}", recipe.data)
    assert (list(pair.train.rows), list(pair.test.rows)) == (list(one.train.rows), list(one.test.rows))
    one.train.save(tmp_path / "train.csv")
    assert read_set(f"{tmp_path / 'train.csv'},{tmp_path / 'b.csv'}", recipe.data).name == tmp_path.name
    held = read_set(str(tmp_path / "a.csv"), recipe.data)
    assert len(held.train) + len(held.test) == 20
    assert not {row.group for row in held.train.rows} & {row.group for row in held.test.rows}
