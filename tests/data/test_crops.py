"""The random parameters of a view, which depend only on its generator."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import default_collate
from view_params import identity_params

from svt_zoo.data.clips import FinetuneViews, FinetuneViewsConfig
from svt_zoo.data.crops import ViewParams, ViewSpec, ViewTransform, crop_and_resize, draw_view
from svt_zoo.data.transforms import EvalTransform
from svt_zoo.data.views import ViewsConfig


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(spec: ViewSpec, num: int = 1500) -> ViewParams:
    generator = rng()
    return default_collate([draw_view(spec, 120, 160, 4, generator) for _ in range(num)])


def frames_of(num: int = 6, height: int = 40, width: int = 60) -> torch.Tensor:
    return torch.from_numpy(rng(1).integers(0, 256, (num, height, width, 3), dtype=np.uint8))


def test_a_view_is_a_function_of_its_generator():
    transform = ViewTransform(ViewSpec(size=32))
    first, first_params = transform(frames_of(), rng(7))
    torch.manual_seed(99)
    second, second_params = transform(frames_of(), rng(7))
    assert_close(first, second)
    assert_close(tuple(first_params), tuple(second_params))


def test_a_view_is_the_drawn_box_of_the_picked_frames():
    frames = frames_of()
    view, params = ViewTransform(ViewSpec(size=32))(frames, rng(), index=[4, 1])
    assert_close(view, crop_and_resize(frames[[4, 1]], params.box[0].tolist(), 32))


def test_parameters_are_drawn_once_for_a_consistent_view():
    params = draw_view(ViewSpec(), 120, 160, 8, rng())
    assert {len(field) for field in params} == {1}


def test_an_inconsistent_view_draws_everything_for_each_frame():
    params = draw_view(ViewSpec(consistent=False, jitter=1.0, blur=1.0), 120, 160, 8, rng())
    assert {len(field) for field in params} == {8}
    for field in (params.box, params.brightness, params.sigma):
        assert len(field.unique(dim=0)) == 8


def test_an_inconsistent_view_crops_each_frame_by_its_own_box():
    frames = frames_of()
    view, params = ViewTransform(ViewSpec(size=32, consistent=False))(frames, rng())
    for frame, box, got in zip(frames, params.box.tolist(), view, strict=True):
        assert_close(got, crop_and_resize(frame[None], box, 32)[0])


def test_colours_alone_can_differ_between_frames():
    params = draw_view(ViewSpec(consistent_color=False, jitter=1.0), 120, 160, 8, rng())
    assert len(params.brightness.unique()) == 8
    assert len(params.box.unique(dim=0)) == 1
    assert len(params.flip.unique()) == 1


def test_probabilities_are_kept():
    params = draws(ViewSpec(hflip=0.3, jitter=0.8, grayscale=0.2, blur=0.5, solarize=0.1))
    jittered = (params.brightness != 1).float().mean()
    for share, expected in [
        (params.flip.float().mean(), 0.3),
        (jittered, 0.8),
        ((params.gray == 1).float().mean(), 0.2),
        ((params.sigma > 0).float().mean(), 0.5),
        (params.solarize.float().mean(), 0.1),
    ]:
        assert abs(share - expected) < 0.05  # 4 standard errors of 1500 draws


def test_ranges_are_kept():
    params = draws(ViewSpec(jitter=1.0, hue=0.1, blur=1.0))
    for field, low, high in [
        (params.brightness, 0.6, 1.4),
        (params.contrast, 0.6, 1.4),
        (params.saturation, 0.8, 1.2),
        (params.hue, -0.1, 0.1),
        (params.sigma, 0.1, 2.0),
    ]:
        margin = 0.01 * (high - low)
        assert low <= field.min() < low + margin
        assert high - margin < field.max() <= high


def test_the_steps_of_the_jitter_come_in_every_order():
    assert len(draws(ViewSpec()).order.flatten(0, 1).unique(dim=0)) == 24


def test_channel_grayscale_repeats_each_colour_equally_often():
    params = draws(ViewSpec(grayscale=1.0, grayscale_by="channel"))
    counts = torch.bincount(params.gray.flatten(), minlength=5)
    assert counts[:2].sum() == 0
    assert counts[2:].min() > 400


def test_no_flip_is_drawn_where_the_recipe_forbids_it():
    assert not draws(ViewSpec(hflip=0.0)).flip.any()


def test_one_option_does_not_shift_what_another_draws():
    plain = draw_view(ViewSpec(), 120, 160, 8, rng(3))
    blurred = draw_view(ViewSpec(blur=1.0, grayscale=1.0), 120, 160, 8, rng(3))
    assert_close((plain.box, plain.flip, plain.contrast), (blurred.box, blurred.flip, blurred.contrast))


def test_no_crop_shows_the_whole_frame():
    assert draw_view(ViewSpec(area=None), 120, 160, 8, rng()).box.tolist() == [[0, 0, 120, 160]]


def test_a_short_side_crop_is_square():
    spec = ViewSpec(size=112, area=None, short_side=(128, 160))
    height, width = draw_view(spec, 120, 160, 8, rng()).box[0, 2:].tolist()
    assert height == width
    assert 120 * 112 // 160 <= height <= 120 * 112 // 128


def test_svt_has_two_large_views_and_eight_small_ones():
    specs = ViewsConfig(blur_and_solarize=True).specs()
    assert [spec.size for spec in specs] == [224, 224] + [96] * 8
    assert [spec.blur for spec in specs] == [1.0, 0.1] + [0.5] * 8
    assert [spec.solarize for spec in specs] == [0.0, 0.2] + [0.0] * 8
    assert {spec.area for spec in specs[2:]} == {(0.05, 0.4)}


def test_svt_without_spatial_variation_shows_every_view_whole():
    specs = ViewsConfig(spatial_variation=False).specs()
    assert {(spec.size, spec.area) for spec in specs} == {(224, None)}


def test_what_the_released_svt_ran_has_neither_blur_nor_solarisation():
    assert {(spec.blur, spec.solarize) for spec in ViewsConfig().specs()} == {(0.0, 0.0)}


def test_fine_tuning_crops_and_flips_but_leaves_the_colours():
    clip = EvalTransform(num_frames=2, sampling_rate=1, crop_size=96, resize_size=96, mean=(0,) * 3, std=(1,) * 3)
    params = draws(FinetuneViews(clip, FinetuneViewsConfig()).view.spec, num=50)
    unchanged = identity_params(50)
    assert params.flip.any()
    assert len(params.box.unique(dim=0)) > 10
    for name in ("brightness", "contrast", "saturation", "hue", "gray", "sigma", "solarize"):
        assert_close(getattr(params, name)[:, 0], getattr(unchanged, name))


def test_collating_keeps_the_type_and_adds_the_batch():
    batch = default_collate([identity_params(), identity_params()])
    assert isinstance(batch, ViewParams)
    assert batch.flip.shape == (2, 1)
    assert batch.order.shape == (2, 1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": 1.5}, "blur must be >= 0 and <= 1, got 1.5"),
        ({"area": (0.5, 0.4)}, "0 < low <= high <= 1"),
        ({"short_side": (256, 320)}, "exclude each other"),
        ({"area": None, "short_side": (200, 320)}, "at least size=224"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ViewSpec(**options)
