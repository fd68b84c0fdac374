"""The evaluation transform equals the published evaluation; crops on uint8 equal torchvision's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.transforms import RandomResizedCrop

from svt_zoo.data import sampling
from svt_zoo.data.crops import crop_and_resize, random_area_box, random_short_side_box
from svt_zoo.data.transforms import EvalTransform, short_side_size, spatial_crop

EVAL = {"num_frames": 8, "sampling_rate": 32, "mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


def clip_of(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("case", ["land", "land_same", "port", "square", "land_noresize"])
def test_resize_and_crops_equal_the_published_evaluation(oracle, case):
    tensors, spec = oracle("svt/eval_crops")
    case_spec = spec["cases"][case]
    frames = tensors[f"{case}/input"].double()  # (3, 1, H, W)
    size = short_side_size(*frames.shape[-2:], case_spec["short_side"])
    side = case_spec["crop"]
    resized = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    for crop in range(3):
        top, left = spatial_crop(*size, (side, side), crop=crop, num_crops=3)
        got = resized[..., top : top + side, left : left + side]
        assert_close(got, tensors[f"{case}/crop{crop}"], atol=1e-9, rtol=0)


def test_normalisation_equals_the_published_one(oracle):
    tensors, _ = oracle("svt/eval_crops")
    frames = tensors["normalize/uint8_THWC"]
    height, width = frames.shape[1:3]
    transform = EvalTransform(**EVAL, crop_size=(height, width), resize_size=min(height, width))
    expected = tensors["normalize/eval_mean045_std0225"].permute(3, 0, 1, 2)
    assert_close(transform(frames), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 72), (72, 40), (48, 48)])
@pytest.mark.parametrize("crop", [0, 1, 2])
def test_normalising_first_as_published_gives_the_same_clip(size, crop):
    frames = clip_of(3, *size)
    normalised = (frames.permute(3, 0, 1, 2).float() / 255 - 0.45) / 0.225
    resized_size = short_side_size(*size, 32)
    resized = F.interpolate(normalised, size=resized_size, mode="bilinear", align_corners=False)
    top, left = spatial_crop(*resized_size, (24, 24), crop=crop, num_crops=3)
    transform = EvalTransform(**EVAL, crop_size=24, resize_size=32)
    expected = resized[..., top : top + 24, left : left + 24]
    assert_close(transform(frames, crop=crop, num_crops=3), expected, atol=2e-5, rtol=0)


def test_the_default_crop_is_the_centre():
    frames = clip_of(2, 32, 64)
    transform = EvalTransform(**EVAL, crop_size=24, resize_size=32)
    assert_close(transform(frames), transform(frames, crop=1, num_crops=3))
    assert not torch.equal(transform(frames), transform(frames, crop=0, num_crops=3))


def test_without_a_sampling_rate_the_middles_of_segments_are_taken():
    transform = EvalTransform(**{**EVAL, "num_frames": 4, "sampling_rate": None}, crop_size=24, resize_size=32)
    assert transform.clip_indices(80, fps=25) == [10, 30, 49, 69]
    assert transform.clip_indices(80, fps=25, clip=1, num_clips=2) == [0, 20, 40, 59]
    with pytest.raises(ValueError, match="segments of the full video give 1 or 2 clips, got clip 0 of 3"):
        transform.clip_indices(80, fps=25, num_clips=3)


def test_bgr_swaps_red_and_blue_before_normalising():
    frames = clip_of(2, 32, 40)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    options = {"num_frames": 2, "sampling_rate": 1, "crop_size": 32, "resize_size": 32}
    bgr = EvalTransform(**options, mean=mean, std=std, channel_order="BGR")
    rgb = EvalTransform(**options, mean=mean[::-1], std=std[::-1])
    assert_close(bgr(frames), rgb(frames).flip(0))


def test_numpy_frames_are_taken_as_they_are():
    frames = clip_of(2, 32, 40)
    transform = EvalTransform(**EVAL, crop_size=32, resize_size=32)
    assert_close(transform(frames.numpy()), transform(frames))


def test_a_clip_lasts_equally_long_at_any_frame_rate():
    transform = EvalTransform(**EVAL, crop_size=224, resize_size=256)
    at_30 = transform.clip_indices(900, fps=30)
    at_60 = transform.clip_indices(1800, fps=60)
    assert at_30 == sampling.uniform_clip(900, 8, window=256)
    assert at_60 == sampling.uniform_clip(1800, 8, window=512)


def test_clips_of_a_video_are_numbered_from_its_start():
    transform = EvalTransform(**EVAL, crop_size=224, resize_size=256)
    clips = [transform.clip_indices(900, fps=30, clip=clip, num_clips=3) for clip in range(3)]
    assert clips[0][0] < clips[1][0] < clips[2][0]


def test_repr_shows_the_spec():
    text = repr(EvalTransform(**EVAL, crop_size=224, resize_size=256))
    for part in ("num_frames=8", "sampling_rate=32", "crop_size=(224, 224)", "resize_size=256", "0.225"):
        assert part in text


def test_float_frames_are_refused():
    transform = EvalTransform(**EVAL, crop_size=32, resize_size=32)
    with pytest.raises(ValueError, match="frames must be uint8"):
        transform(clip_of(2, 32, 32).float())


def test_a_crop_larger_than_the_short_side_is_refused():
    with pytest.raises(ValueError, match="resize_size=200"):
        EvalTransform(**EVAL, crop_size=224, resize_size=200)


def test_a_crop_that_leaves_the_frame_is_refused():
    with pytest.raises(ValueError, match="does not fit frames of 32x40"):
        spatial_crop(32, 40, (32, 48))


def test_a_crop_number_beyond_the_crops_is_refused():
    with pytest.raises(ValueError, match="crop must be 0 to 2"):
        spatial_crop(32, 40, (32, 32), crop=3, num_crops=3)


@given(
    height=st.integers(8, 300),
    width=st.integers(8, 300),
    size=st.integers(1, 8),
    num_crops=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_every_crop_lies_inside_the_frame(height, width, size, num_crops, data):
    crop = data.draw(st.integers(0, num_crops - 1))
    top, left = spatial_crop(height, width, (size, size), crop=crop, num_crops=num_crops)
    assert 0 <= top <= height - size
    assert 0 <= left <= width - size


@given(height=st.integers(1, 500), width=st.integers(1, 500), seed=st.integers(0, 2**32), low=st.floats(0.02, 1))
@settings(max_examples=200, deadline=None)
def test_every_random_box_lies_inside_the_frame(height, width, seed, low):
    rng = np.random.default_rng(seed)
    box = random_area_box(height, width, (low, 1.0), (3 / 4, 4 / 3), rng)
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert min(box.height, box.width) >= 1


@pytest.mark.parametrize(("height", "width"), [(256, 340), (180, 320)])
def test_boxes_are_distributed_as_those_of_torchvision(height, width):
    rng = np.random.default_rng(0)
    ours = np.array([random_area_box(height, width, (0.4, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = [RandomResizedCrop.get_params(image, [0.4, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    # Means of 4000 draws: the standard error of a box's size or position is below 1 % of the frame.
    for got, expected in zip(ours.mean(0), np.array(theirs).mean(0), strict=True):
        assert abs(got - expected) < 0.02 * width
    for got, expected in zip(ours.std(0), np.array(theirs).std(0), strict=True):
        assert abs(got - expected) < 0.02 * width


def test_a_frame_too_flat_for_any_box_gives_the_largest_centred_one():
    box = random_area_box(10, 1000, (0.9, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0))
    assert box == (0, (1000 - 13) // 2, 10, 13)


def test_a_short_side_box_covers_what_scaling_and_cropping_would_show():
    rng = np.random.default_rng(0)
    sides = [random_short_side_box(256, 340, 224, (256, 320), rng).height for _ in range(300)]
    assert min(sides) >= math.floor(256 * 224 / 320)
    assert max(sides) <= 224


@pytest.mark.parametrize("size", [32, 64])
def test_cropping_and_resizing_is_pils_bicubic_within_one_level(size):
    frames = clip_of(4, 60, 80)
    got = crop_and_resize(frames, (5, 7, 40, 50), size)
    crops = [Image.fromarray(frame.numpy()).crop((7, 5, 57, 45)) for frame in frames]
    expected = np.stack([np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)) for crop in crops])
    assert got.dtype == torch.uint8
    assert np.abs(got.numpy().astype(int) - expected.astype(int)).max() <= 1


def test_an_index_picks_frames_in_its_order():
    frames = clip_of(5, 32, 32)
    assert_close(
        crop_and_resize(frames, (0, 0, 32, 32), 16, index=[3, 0, 3]),
        crop_and_resize(frames[[3, 0, 3]], (0, 0, 32, 32), 16),
    )


def test_a_resize_without_antialiasing_in_float_is_that_of_the_released_svt(oracle):
    tensors, _ = oracle("svt/aug_ops")
    frames = tensors["clip_uint8_TCHW"].permute(0, 2, 3, 1).float() / 255
    part = crop_and_resize(frames, (7, 9, 21, 30), 32, antialias=False)
    whole = crop_and_resize(frames, (0, 0, 36, 44), 24, antialias=False)
    assert_close(part.permute(0, 3, 1, 2), tensors["crop_bicubic_32"], atol=1e-5, rtol=0)
    assert_close(whole.permute(0, 3, 1, 2), tensors["crop_bicubic_24_down"], atol=1e-5, rtol=0)
