"""TIME through svt-zoo finetune: a folder in Something-Something's layout trains, goes on, and is tested."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command
from training_runs import ROOT, lines_of, weights_of
from training_runs import TINY as SVT_TINY

from svt_zoo import load_model
from svt_zoo.config import ConfigError, FinetuneRecipe, TemporalConfig, load_recipe, read_recipe
from svt_zoo.evaluation.results import read_results
from svt_zoo.methods import Classify, Temporal
from svt_zoo.models import Classifier
from svt_zoo.training.engine import Trainer
from svt_zoo.training.objectives import build_flow
from svt_zoo.training.run import pretrain
from svt_zoo.video import open_video

TINY = ROOT / "configs" / "debug" / "time_tiny.yaml"
TEMPLATES = ("Moving [something] up", "Pushing [something] from left to right", "Drawing [something]")


@pytest.fixture(scope="module")
def ssv2(shared: Path, tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """A folder as Something-Something v2 is handed out: webm files named by id, and three JSON files."""
    root = tmp_path_factory.mktemp("ssv2")
    (root / "videos").mkdir()
    gestures = [sorted((shared / "actions" / f"gesture_{name}").glob("*.mp4"))[:5] for name in ("up", "right", "star")]
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for label, paths in enumerate(gestures):
        for i, path in enumerate(paths):
            number = 1000 + 10 * label + i
            with open_video(path) as video:
                frames = video.frames_at(range(0, video.num_frames, 4))
            fast = {"deadline": "realtime", "cpu-used": "8"}
            make_video(root / "videos" / f"{number}.webm", frames.numpy(), fps=12, codec="libvpx-vp9", options=fast)
            entries["train" if i < 4 else "validation"].append(
                {"id": str(number), "label": "-", "template": TEMPLATES[label], "placeholders": ["a cup"]}
            )
    labels = {template.replace("[", "").replace("]", ""): str(i) for i, template in enumerate(TEMPLATES)}
    for name, value in {"labels": labels, **entries}.items():
        (root / f"something-something-v2-{name}.json").write_text(json.dumps(value))
    return root


def arguments(ssv2: Path, output: Path, *more: str) -> list[str]:
    return [
        str(TINY),
        f"data.train={ssv2}/something-something-v2-train.json",
        f"data.val={ssv2}/something-something-v2-validation.json",
        f"data.root={ssv2}/videos",
        f"run.output={output}",
        f"report.folder={output}/results",
        *more,
    ]


def finetune(*given: str) -> int:
    """Run `svt-zoo finetune` in this process."""
    return command("finetune")(list(given))


def test_time_trains_and_tests_on_something_something(ssv2: Path, tmp_path: Path) -> None:
    assert finetune(*arguments(ssv2, tmp_path, "optim.epochs=1")) == 0
    lines = lines_of(tmp_path)
    assert len(lines) == 3
    assert {"cross_entropy", "order", "low_confidence", "flow"} <= set(lines[-1])
    [file] = (tmp_path / "results").iterdir()
    [result] = read_results(file)
    assert (result.n, result.n_missing, result.protocol) == (3, 0, "fine-tuned, 3x2 views")
    model = load_model(tmp_path / "final.safetensors", num_classes=None)
    assert isinstance(model, Classifier)
    assert model.meta["categories"][0] == "Moving something up"
    assert not [name for name in model.state_dict() if "terms" in name]  # the heads of the terms stay behind


def test_a_run_with_time_that_goes_on_equals_the_straight_run(
    ssv2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finetune(*arguments(ssv2, tmp_path / "straight")) == 0
    train_step = Trainer._train_step

    def killed(self: Trainer, *given: Any) -> Any:
        if self.step == 4:
            raise KeyboardInterrupt
        return train_step(self, *given)

    more = "run.checkpoint_every_steps=2"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", killed)
        assert finetune(*arguments(ssv2, tmp_path / "run", more)) == 130
    assert finetune(*arguments(ssv2, tmp_path / "run", more)) == 0
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "straight")
    tensors = [{k: v for k, v in weights_of(tmp_path / run).items() if k != "metadata"} for run in ("run", "straight")]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("pool", ["softmax", "max"])
def test_views_are_pooled_by_other_rules(ssv2: Path, tmp_path: Path, pool: str) -> None:
    assert finetune(*arguments(ssv2, tmp_path, "optim.epochs=1", f"multiview.pool={pool}", "temporal.flow=0")) == 0


def test_all_weights_at_zero_is_plain_fine_tuning() -> None:
    from svt_zoo.data.lists import Row, VideoList
    from svt_zoo.models import create_model
    from svt_zoo.training.run import build_classify

    off = ["temporal.order=0", "temporal.low_confidence=0", "temporal.flow=0"]
    videos = VideoList((Row("a", label=0), Row("b", label=1)))
    kinds = []
    for more in ([], off):
        recipe = read_recipe(FinetuneRecipe, TINY, more)
        backbone = create_model(recipe.model.name, **recipe.model.options)
        backbone.meta["clip"] = None
        kinds.append(type(build_classify(recipe, backbone, videos)))  # type: ignore[arg-type]
    assert kinds == [Temporal, Classify]


@pytest.mark.parametrize(
    ("classes", "options", "warns"),
    [
        (("move left", "move right"), ["temporal.order_of=shuffled"], True),
        (("move left", "move right"), ["temporal.order_of=straight"], False),
        (("move left", "move right"), ["temporal.order_of=shuffled", "temporal.order=0"], False),
        (("move left", "jump"), ["temporal.order_of=shuffled"], False),
    ],
)
def test_a_recipe_warns_if_shuffled_order_has_no_answer_for_its_classes(
    classes: tuple[str, ...], options: list[str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from svt_zoo.data.lists import Row, VideoList
    from svt_zoo.models import create_model
    from svt_zoo.training.run import build_classify

    recipe = read_recipe(FinetuneRecipe, TINY, options)
    backbone = create_model(recipe.model.name, **recipe.model.options)
    backbone.meta["clip"] = None
    build_classify(recipe, backbone, VideoList((Row("a", label=0), Row("b", label=1)), classes))  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [("move left and move right look like each other's reverse" in line) for line in said] == [True] * warns


def test_a_clip_that_is_mixed_or_comes_with_a_fast_one_is_refused() -> None:
    for more in ("views={slow_fast: true}", "classify.mixup=0.2"):
        with pytest.raises(ConfigError, match="need a single clip"):
            read_recipe(FinetuneRecipe, TINY, [more])


def test_a_missing_opencv_is_an_error_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r'temporal\.flow=1\.0: .*pip install "svt-zoo\[flow\]", or set'):
        build_flow(TemporalConfig(flow=1.0), 16)
    assert build_flow(TemporalConfig(), 16) is None


def test_the_authors_code_is_the_order_term_and_two_words_away() -> None:
    ours, theirs = (
        read_recipe(FinetuneRecipe, ROOT / "configs" / "time" / f"xvit_ssv2_time{name}.yaml") for name in ("", "_code")
    )
    assert (ours.temporal.order_of, ours.temporal.permutation, ours.temporal.flow_rule) == (
        "straight",
        "video",
        "absolute",
    )
    assert (theirs.temporal.order_of, theirs.temporal.permutation, theirs.temporal.flow_rule) == (
        "straight",
        "batch",
        "relative",
    )
    assert theirs.optim == ours.optim
    assert (ours.optim.lr, ours.optim.amsgrad, ours.optim.epochs, ours.optim.milestones) == (1e-4, True, 35, (20, 30))
    assert torch.tensor(ours.clip.mean).tolist() == [0.5] * 3


def test_svt_pre_trains_with_the_terms_and_time_goes_on_from_its_weights(
    videos: Path, ssv2: Path, tmp_path: Path
) -> None:
    options = "model.options={img_size: 32, patch_size: 16, num_frames: 4, embed_dim: 32, depth: 2, num_heads: 2}"
    more = ["views.global_frames=[4, 4]", "temporal.order=1", "temporal.flow=1", "optim.epochs=1", options]
    places = [f"data.train={videos}", f"run.output={tmp_path / 'svt'}", "optim.warmup_epochs=0", "data.subset=8"]
    assert pretrain(load_recipe(SVT_TINY, [*places, *more]))
    assert {"svt", "order", "flow"} <= set(lines_of(tmp_path / "svt")[-1])
    start = [f"init={tmp_path / 'svt'}", "optim.epochs=1", "optim.lr=0"]
    assert finetune(*arguments(ssv2, tmp_path / "time", *start)) == 0
    first, second = (load_model(tmp_path / run / "final.safetensors", num_classes=None) for run in ("svt", "time"))
    assert isinstance(second, Classifier)
    torch.testing.assert_close(second.backbone.state_dict(), first.state_dict())


def test_terms_that_svt_cannot_have_are_refused() -> None:
    for more, told in (
        ("temporal.low_confidence=1", "needs classes"),
        ("temporal={flow: 1, order: 1}", "one crop for all frames"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_recipe(SVT_TINY, [more, "views.consistent=false"])
