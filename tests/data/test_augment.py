"""Augmentation of batches: compared with the recorded original, with torchvision, and with single views."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as tv
from view_params import identity_params

from svt_zoo.data.augment import Augment, gaussian_blur
from svt_zoo.data.crops import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParams, ViewSpec, draw_view

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def views_of(batch: int = 2, frames: int = 3, size: int = 24, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (batch, frames, size, size, 3), dtype=torch.uint8, generator=generator)


def params_of(batch: int = 2, **fields: torch.Tensor | float | bool) -> ViewParams:
    """Parameters (batch, 1) that change nothing but `fields`."""
    params = default_collate([identity_params()] * batch)
    changed = {
        name: torch.as_tensor(value, dtype=getattr(params, name).dtype).expand_as(getattr(params, name)).clone()
        for name, value in fields.items()
    }
    return params._replace(**changed)


def drawn(batch: int, frames: int, **options) -> ViewParams:
    rng = np.random.default_rng(0)
    spec = ViewSpec(**{"blur": 0.5, "solarize": 0.5, "hue": 0.1, "grayscale": 0.3, **options})
    return default_collate([draw_view(spec, 32, 32, frames, rng) for _ in range(batch)])


def images(views: torch.Tensor) -> torch.Tensor:
    """float32 (B, T, 3, H, W) in [0, 1], the layout of torchvision."""
    return views.permute(0, 1, 4, 2, 3).float() / 255


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("brightness_alpha1.30", {"brightness": 1.3}),
        ("contrast_alpha0.75", {"contrast": 0.75}),
        ("saturation_alpha1.15", {"saturation": 1.15}),
        ("grayscale_as_coded", {"gray": 1}),
        ("flip", {"flip": True}),
    ],
)
def test_parity_mode_equals_the_released_svt(oracle, name, fields):
    tensors, _ = oracle("svt/aug_ops")
    views = tensors["clip_uint8_TCHW"].permute(0, 2, 3, 1)[None]  # (1, 2, 36, 44, 3)
    got = Augment(**RAW, parity=True)(views, params_of(1, **fields))
    assert_close(got[0].transpose(0, 1), tensors[name], atol=1e-5, rtol=0)


def test_normalisation_equals_the_released_svt(oracle):
    tensors, _ = oracle("svt/aug_ops")
    views = tensors["clip_uint8_TCHW"].permute(0, 2, 3, 1)[None]
    got = Augment()(views, params_of(1))
    assert_close(got[0].transpose(0, 1), tensors["normalized"], atol=1e-5, rtol=0)


def test_only_parity_mode_leaves_the_unit_range():
    views, params = views_of(), params_of(brightness=1.4)
    assert Augment(**RAW, parity=True)(views, params).max() > 1.3
    assert Augment(**RAW)(views, params).max() == 1.0


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ({"brightness": 1.3}, lambda x: tv.adjust_brightness(x, 1.3)),
        ({"brightness": 0.6}, lambda x: tv.adjust_brightness(x, 0.6)),
        ({"contrast": 1.4}, lambda x: tv.adjust_contrast(x, 1.4)),
        ({"contrast": 0.7}, lambda x: tv.adjust_contrast(x, 0.7)),
        ({"saturation": 1.2}, lambda x: tv.adjust_saturation(x, 1.2)),
        ({"saturation": 0.3}, lambda x: tv.adjust_saturation(x, 0.3)),
        ({"gray": 1}, lambda x: tv.rgb_to_grayscale(x, num_output_channels=3)),
        ({"sigma": 1.7}, lambda x: tv.gaussian_blur(x, [17, 17], [1.7, 1.7])),
        ({"solarize": True}, lambda x: tv.solarize(x, 0.5)),
        ({"flip": True}, tv.horizontal_flip),
    ],
)
def test_each_step_is_that_of_torchvision(fields, reference):
    views = views_of()
    got = Augment(**RAW)(views, params_of(**fields)).transpose(1, 2)
    # torchvision rounds the gray weights to 0.2989, 0.587, 0.114.
    assert_close(got, reference(images(views)), atol=2e-4, rtol=0)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_steps_are_applied_in_the_drawn_order(order):
    views = views_of(low=100, high=150)  # far from 0 and 255, because torchvision clamps after each step
    steps = {
        BRIGHTNESS: lambda x: tv.adjust_brightness(x, 1.2),
        CONTRAST: lambda x: tv.adjust_contrast(x, 0.7),
        SATURATION: lambda x: tv.adjust_saturation(x, 1.5),
    }
    expected = images(views)
    for step in order:
        expected = steps[step](expected)
    params = params_of(brightness=1.2, contrast=0.7, saturation=1.5, order=torch.tensor([*order, HUE]))
    assert_close(Augment(**RAW)(views, params).transpose(1, 2), expected, atol=2e-4, rtol=0)


def test_parameters_that_change_nothing_give_the_normalised_view():
    views = views_of()
    expected = (images(views) - 0.4) / 0.2
    got = Augment(mean=(0.4,) * 3, std=(0.2,) * 3)(views, params_of())
    assert_close(got.transpose(1, 2), expected, atol=1e-5, rtol=0)


def test_hue_turns_red_into_green_and_keeps_grey_and_luma():
    views = torch.zeros(1, 1, 1, 2, 3, dtype=torch.uint8)
    views[0, 0, 0, 0] = torch.tensor([150, 75, 75])
    views[0, 0, 0, 1] = 90
    got = Augment(**RAW)(views, params_of(1, hue=1 / 3))[0, :, 0, 0]  # (3, 2 pixels)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert got[:, 0].argmax() == 1
    assert_close(luma @ got[:, 0], luma @ torch.tensor([150.0, 75, 75]) / 255, atol=1e-4, rtol=0)
    assert_close(got[:, 1], torch.full((3,), 90 / 255), atol=1e-4, rtol=0)


def test_a_full_turn_of_hue_changes_nothing():
    views = views_of()
    assert_close(Augment(**RAW)(views, params_of(hue=1.0)), Augment(**RAW)(views, params_of()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_channel_grayscale_repeats_one_colour(channel):
    views = views_of()
    got = Augment(**RAW)(views, params_of(gray=2 + channel)).transpose(1, 2)
    assert_close(got, images(views)[:, :, [channel] * 3], atol=1e-6, rtol=0)


def test_grayscale_comes_after_the_jitter():
    views = views_of(low=100, high=150)
    expected = tv.adjust_saturation(images(views), 0.5)[:, :, [2, 2, 2]]
    got = Augment(**RAW)(views, params_of(gray=4, saturation=0.5)).transpose(1, 2)
    assert_close(got, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"consistent": False}, {"consistent_color": False}])
def test_a_batch_equals_its_views_one_by_one(options):
    views, params = views_of(6, 4), drawn(6, 4, **options)
    augment = Augment()
    single = [augment(views[i : i + 1], ViewParams(*(f[i : i + 1] for f in params))) for i in range(6)]
    assert_close(augment(views, params), torch.cat(single), atol=1e-5, rtol=1e-5)


def test_parameters_of_a_frame_act_on_that_frame_alone():
    views, params = views_of(2, 4), drawn(2, 4, consistent=False)
    augment = Augment()
    frames = [augment(views[:, t : t + 1], ViewParams(*(f[:, t : t + 1] for f in params))) for t in range(4)]
    assert_close(augment(views, params), torch.cat(frames, dim=2), atol=1e-5, rtol=1e-5)


def test_a_still_clip_stays_still_in_a_consistent_view():
    views = views_of(3, 1).expand(-1, 5, -1, -1, -1)
    out = Augment()(views, drawn(3, 5))
    assert_close(out, out[:, :, :1].expand_as(out))


def test_bgr_output_takes_its_mean_in_bgr_order():
    views, params = views_of(), drawn(2, 3)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    bgr = Augment(mean=mean, std=std, channel_order="BGR")(views, params)
    rgb = Augment(mean=mean[::-1], std=std[::-1])(views, params)
    assert_close(bgr, rgb.flip(1))


def test_autocast_does_not_round_the_colours():
    views, params = views_of(), drawn(2, 3)
    augment = Augment()
    expected = augment(views, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = augment(views, params)
    assert got.dtype == torch.float32
    assert_close(got, expected)


def test_the_views_that_came_in_are_left_alone():
    views, params = views_of(), drawn(2, 3)
    before = views.clone()
    Augment()(views, params)
    assert_close(views, before)


def test_nothing_of_an_augmentation_goes_into_a_checkpoint():
    assert Augment().state_dict() == {}


@pytest.mark.parametrize("size", [(12, 24), (5, 9), (1, 3)])
def test_small_pictures_are_blurred_too(size):
    x = torch.rand(1, 3, 2, *size, generator=torch.Generator().manual_seed(0))
    out = gaussian_blur(x, torch.tensor([[2.0]]))
    assert out.shape == x.shape
    assert out.var() < x.var()


def test_blur_keeps_an_even_picture():
    x = torch.full((1, 3, 1, 20, 20), 0.3)
    assert_close(gaussian_blur(x, torch.tensor([[1.3]])), x)


def test_a_single_white_pixel_spreads_as_a_gaussian():
    x = torch.zeros(1, 1, 1, 41, 41)
    x[..., 20, 20] = 1
    out = gaussian_blur(x, torch.tensor([[1.5]]))[0, 0, 0]
    distance = torch.arange(-20, 21).float()
    variance = (out.sum(0) * distance**2).sum()
    assert_close(variance, torch.tensor(1.5**2), atol=0.01, rtol=0)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    views, params = views_of(6, 4), drawn(6, 4)
    got = Augment().cuda()(views.cuda(), params).cpu()
    # Rounding near the middle of the range decides whether solarize inverts a pixel.
    close = (got - Augment()(views, params)).abs() < 1e-4
    assert close.float().mean() > 0.999


def test_float_views_are_refused():
    with pytest.raises(ValueError, match="uint8 views"):
        Augment()(views_of().float(), params_of())


def test_parameters_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"must be \(2, 1\) or \(2, 3\)"):
        Augment()(views_of(), params_of(3))


def test_an_unknown_channel_order_is_refused():
    with pytest.raises(ValueError, match="'RGB' or 'BGR'"):
        Augment(channel_order="GBR")
