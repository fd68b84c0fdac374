"""Training clips with flow labels: the labels belong to the right version of the frames."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svt_zoo.data.clips import ColorOperation, FinetuneViews, FinetuneViewsConfig, MovingOperation
from svt_zoo.data.crops import ViewSpec, ViewTransform
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.flow import FlowLabels
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import collate
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import TrainViews, VideoViews

CLIP = EvalTransform(num_frames=4, sampling_rate=None, resize_size=36, crop_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def options_of(**options: Any) -> FinetuneViewsConfig:
    return FinetuneViewsConfig(**options, slow_fast=False)


def moving_frames(num_frames: int = 12) -> torch.Tensor:
    """A random image that moves by (3, 2) pixels per frame: uint8 (T, 48, 64, 3)."""
    coarse = torch.rand(1, 3, 14, 16, generator=torch.Generator().manual_seed(0)) * 255
    large = nn.functional.interpolate(coarse, (112, 128), mode="bicubic")[0].clamp(0, 255).byte().permute(1, 2, 0)
    return torch.stack([large[2 * t : 2 * t + 48, 3 * t : 3 * t + 64] for t in range(num_frames)])


def made(seed: int, *, flow: FlowLabels | None = None, **options: Any) -> VideoViews:
    views = FinetuneViews(CLIP, options_of(**options), flow=flow)
    return views.make(moving_frames(), [[0, 1, 2, 3]], np.random.default_rng(seed))


def test_pixels_are_resized_as_in_evaluation() -> None:
    transform = EvalTransform(
        num_frames=2, sampling_rate=1, crop_size=32, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1)
    )
    frames = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = FinetuneViews(transform, options_of(short_side=(32, 32), hflip=0.0))
    view = views.make(frames, [[0, 1]], np.random.default_rng(0)).views[0]  # (2, 32, 32, 3): the full frame
    torch.testing.assert_close(view.permute(3, 0, 1, 2) / 255, transform(frames), atol=0.5 / 255 + 1e-6, rtol=0)


def test_labels_are_of_the_picture_before_its_colours_change_and_after_its_pixels_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = []
    for seed in range(12):
        whole = made(seed, policy="randaugment", flow=FlowLabels(16))
        with monkeypatch.context() as patch:
            patch.setattr(ColorOperation, "forward", lambda self, images: images)
            moved = made(seed, policy="randaugment", flow=FlowLabels(16))
        labels = FlowLabels(16)(moved.views[0], flip=bool(moved.params[0].flip[0]))
        assert torch.equal(whole.targets["flow"], labels)
        changed.append(not torch.equal(whole.views[0], moved.views[0]))
    assert sum(changed) > 6


def test_the_two_halves_of_randaugment_are_all_of_it() -> None:
    moving, color = (set(kind._AUGMENTATION_SPACE) for kind in (MovingOperation, ColorOperation))
    assert moving & color == {"Identity"}
    assert moving | color == set(MovingOperation.__mro__[1]._AUGMENTATION_SPACE)
    assert {"Rotate", "ShearX", "TranslateY"} <= moving


def test_labels_as_the_authors_code_are_of_the_final_picture() -> None:
    rule = FlowLabels(16, rule="relative")
    for seed in range(4):
        whole = made(seed, policy="randaugment", flow=rule)
        assert torch.equal(whole.targets["flow"], rule(whole.views[0], flip=bool(whole.params[0].flip[0])))


def test_labels_are_of_the_flipped_picture_if_it_is_flipped() -> None:
    for seed in range(4):
        [view], [params], targets = made(seed, flow=FlowLabels(16), hflip=1.0)
        assert bool(params.flip)
        assert torch.equal(targets["flow"], FlowLabels(16)(view.flip(2)))


def test_without_flow_labels_nothing_else_is_drawn() -> None:
    plain, labelled = made(3), made(3, flow=FlowLabels(16))
    assert torch.equal(plain.views[0], labelled.views[0])
    assert plain.targets == {}


def test_autoaugment_with_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="mixes moves and colors"):
        FinetuneViews(CLIP, options_of(policy="autoaugment"), flow=FlowLabels(16))


class InMemory:
    """A decoded video."""

    num_frames, fps = 12, 25.0
    pts = tuple(i / 25 for i in range(12))

    def frames_at(self, indices: Any) -> torch.Tensor:
        return moving_frames()[list(indices)]

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *exception: object) -> None: ...


@pytest.mark.parametrize("kind", ["fine-tuning", "pre-training"])
def test_labels_travel_to_the_batch(kind: str) -> None:
    flow = FlowLabels(16)
    spec = ViewTransform(ViewSpec(size=32))
    views = FinetuneViews(CLIP, options_of(), flow=flow)
    if kind == "pre-training":
        views = TrainViews(lambda total, fps, rng: [[0, 2, 4, 6], [1, 3]], [spec, spec], flow=flow)  # type: ignore[assignment]
    rows = VideoList((Row("a", label=0), Row("b", label=1)))
    dataset = VideoDataset(rows, views, train=True, open_row=lambda row: InMemory())
    batch = collate([dataset[0, 0], dataset[0, 1]]).to("cpu")
    assert batch.targets["flow"].shape == (2, 3, 4)
    for i in (0, 1):
        assert torch.equal(batch.targets["flow"][i], flow(batch.views[0][i], flip=bool(batch.params[0].flip[i])))


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment"])
def test_a_policy_does_the_same_to_all_frames_and_leaves_the_global_generator(policy: str) -> None:
    before = torch.get_rng_state()
    still = moving_frames(1).expand(4, -1, -1, -1)
    views = FinetuneViews(CLIP, options_of(policy=policy))
    changed = 0
    for seed in range(12):
        [view], [params], _ = views.make(still, [[0, 1, 2, 3]], np.random.default_rng(seed))
        assert torch.equal(view, view[:1].expand_as(view))
        changed += not torch.equal(view, views.view.crop(still, params.box, range(4)))
    assert changed >= 6
    assert torch.equal(torch.get_rng_state(), before)


def test_a_policy_keeps_every_frame_and_is_drawn_again_for_every_view() -> None:
    views = [made(seed, policy="randaugment").views[0] for seed in range(8)]
    assert all(len(view.unique(dim=0)) == 4 for view in views)
    assert len(torch.stack(views).unique(dim=0)) == 8


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="policy must be none, randaugment or autoaugment, got 'augmix'"):
        options_of(policy="augmix")
