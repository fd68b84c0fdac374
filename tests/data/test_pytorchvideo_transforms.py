"""Code for `pytorchvideo.transforms` runs after a change of the import, and gives the same clips."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision.transforms._functional_tensor as functional_tensor
from torch.testing import assert_close
from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

import svt_zoo.data.pytorchvideo_transforms as ours
from svt_zoo.data.pytorchvideo_transforms import functional
from svt_zoo.data.pytorchvideo_transforms.policies import apply_operation

SHIM = "torchvision.transforms.functional_tensor"  # the module that torchvision took away


@pytest.fixture(scope="module")
def original() -> Iterator[ModuleType]:
    """PyTorchVideo's own transforms, imported with the module they miss and taken out again."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, SHIM, functional_tensor)
        yield importlib.import_module("pytorchvideo.transforms")
    for name in set(sys.modules) - before:
        if name.startswith("pytorchvideo.transforms"):
            del sys.modules[name]
    vars(sys.modules["pytorchvideo"]).pop("transforms", None)


def clip_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(transform, *inputs, seed: int = 0):
    torch.manual_seed(seed)
    return transform(*inputs)


def test_the_video_classification_recipe_runs_and_equals_pytorchvideos(original):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def recipe(module):
        return Compose(
            [
                module.ApplyTransformToKey(
                    key="video",
                    transform=Compose(
                        [
                            module.UniformTemporalSubsample(16),
                            Lambda(lambda x: x / 255.0),
                            module.Normalize(mean, std),
                            module.RandomShortSideScale(min_size=256, max_size=320),
                            RandomCrop(224),
                            RandomHorizontalFlip(p=0.5),
                        ]
                    ),
                ),
            ]
        )

    video = clip_of(3, 20, 128, 160) * 255
    got = seeded(recipe(ours), {"video": video.clone(), "label": 7})
    expected = seeded(recipe(original), {"video": video.clone(), "label": 7})
    assert got["video"].shape == (3, 16, 224, 224)
    assert got["label"] == 7
    assert_close(got["video"], expected["video"])


def test_every_public_name_of_pytorchvideo_is_there(original):
    def public(module):
        return {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "").startswith(module.__name__)
        }

    assert public(original) <= set(ours.__all__)
    theirs = importlib.import_module("pytorchvideo.transforms.functional")
    assert public(theirs) <= set(functional.__all__)


CLIP_TRANSFORMS = {
    "UniformTemporalSubsample": {"num_samples": 5},
    "UniformTemporalSubsampleRepeated": {"frame_ratios": (1, 2)},
    "ShortSideScale": {"size": 20},
    "RandomShortSideScale": {"min_size": 16, "max_size": 40},
    "Normalize": {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
    "ConvertFloatToUint8": {},
    "Permute": {"dims": (1, 0, 2, 3)},
    "Div255": {},
}


@pytest.mark.parametrize("name", CLIP_TRANSFORMS)
@pytest.mark.parametrize("shape", [(3, 8, 24, 36), (3, 3, 36, 24)])
def test_a_clip_transform_equals_pytorchvideos(original, name, shape):
    options = CLIP_TRANSFORMS[name]
    clip = clip_of(*shape)
    got = seeded(getattr(ours, name)(**options), clip.clone())
    assert_close(got, seeded(getattr(original, name)(**options), clip.clone()))


def test_uint8_becomes_float_as_in_pytorchvideo(original):
    clip = (clip_of(3, 4, 8, 8) * 255).to(torch.uint8)
    assert_close(ours.ConvertUint8ToFloat()(clip), original.ConvertUint8ToFloat()(clip))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("log_uniform_ratio", [False, True])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 0.9)])
def test_random_resized_crop_equals_pytorchvideos(original, shift, log_uniform_ratio, scale):
    options = {"shift": shift, "log_uniform_ratio": log_uniform_ratio}
    clip = clip_of(3, 5, 24, 60)
    for seed in range(5):
        got, expected = (
            seeded(module.RandomResizedCrop(16, 20, scale, (3 / 4, 4 / 3), **options), clip, seed=seed)
            for module in (ours, original)
        )
        assert_close(got, expected)


@pytest.mark.parametrize("shape", [(3, 2, 32, 48), (3, 2, 49, 32)])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_uniform_crop_equals_pytorchvideos(original, shape, index):
    video = clip_of(*shape)
    got, expected = (
        module.UniformCropVideo(32)({"video": video, "aug_index": index})["video"] for module in (ours, original)
    )
    assert_close(got, expected)


@pytest.mark.parametrize("sampling", ["gaussian", "uniform"])
def test_randaugment_equals_pytorchvideos_for_the_same_seed(original, sampling):
    clip = clip_of(3, 3, 20, 28)
    got, expected = (module.RandAugment(prob=0.9, sampling_type=sampling) for module in (ours, original))
    for seed in range(25):
        assert_close(seeded(got, clip, seed=seed), seeded(expected, clip, seed=seed), atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", [-1, 2])
def test_augmix_equals_pytorchvideos_for_the_same_seed(original, depth):
    clip = clip_of(3, 3, 20, 28)
    got, expected = (module.AugMix(magnitude=7, depth=depth) for module in (ours, original))
    for seed in range(10):
        assert_close(seeded(got, clip, seed=seed), seeded(expected, clip, seed=seed), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["MixUp", "CutMix", "MixVideo"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mix_equals_pytorchvideos_for_the_same_seed(original, name, smoothing):
    clips, labels = clip_of(4, 3, 2, 16, 20), torch.tensor([0, 3, 1, 4])
    for seed in range(5):
        got, expected = (
            seeded(getattr(module, name)(label_smoothing=smoothing, num_classes=5), clips.clone(), labels, seed=seed)
            for module in (ours, original)
        )
        assert_close(got, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "val"},
        {"mode": "train"},
        {"mode": "train", "num_samples": None, "crop_size": (24, 28)},
        {"mode": "train", "aug_type": "randaug", "convert_to_float": False},
        {"mode": "train", "aug_type": "augmix", "aug_paras": {"magnitude": 2}, "convert_to_float": False},
    ],
)
def test_create_video_transform_equals_pytorchvideos(original, options):
    video = clip_of(3, 10, 40, 50)
    if options.get("convert_to_float", True):
        video = (video * 255).to(torch.uint8)
    options = {
        "video_key": "video",
        "remove_key": ["audio"],
        "min_size": 32,
        "max_size": 40,
        "crop_size": 28,
        **options,
    }
    got, expected = (
        seeded(module.create_video_transform(**options), {"video": video, "audio": None, "label": 1})
        for module in (ours, original)
    )
    assert got.keys() == expected.keys() == {"video", "label"}
    assert_close(got["video"], expected["video"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["short_side_scale_with_boxes", "uniform_crop_with_boxes"])
def test_boxes_move_as_in_pytorchvideo(original, name):
    theirs = importlib.import_module("pytorchvideo.transforms.functional")
    boxes = np.array([[1.0, 2.0, 30.0, 20.0], [10.0, 0.0, 47.0, 31.0]])
    clip = clip_of(3, 2, 32, 48)
    arguments = {
        "short_side_scale_with_boxes": (clip, boxes, 16),
        "uniform_crop_with_boxes": (clip, 32, 2, boxes),
    }[name]
    got = getattr(functional, name)(*arguments)
    expected = getattr(theirs, name)(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments))
    assert_close(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1])


def test_the_flip_follows_a_random_resized_crop():
    transform = ours.create_video_transform(
        "train", num_samples=None, convert_to_float=False, video_mean=(0.0,) * 3, video_std=(1.0,) * 3,
        min_size=16, crop_size=16, horizontal_flip_prob=1.0,
        random_resized_crop_paras={"scale": (1.0, 1.0), "aspect_ratio": (1.0, 1.0)},
    )  # fmt: skip
    clip = clip_of(3, 2, 16, 16)
    assert_close(transform(clip), clip.flip(-1))


def test_channels_move_to_the_rear_and_back():
    clip = clip_of(3, 2, 4, 5)
    rear = ours.MoveChannelRear()(clip)
    assert rear.shape == (2, 4, 5, 3)
    assert_close(ours.MoveChannelFront()(rear), clip)


def test_a_policy_treats_all_frames_alike():
    still = clip_of(1, 3, 16, 16).expand(4, -1, -1, -1)
    for policy in (ours.RandAugment(prob=1.0), ours.AugMix()):
        out = policy(still)
        assert_close(out, out[:1].expand_as(out))


def test_a_policy_on_uint8_gives_uint8():
    clip = (clip_of(2, 3, 16, 16) * 255).to(torch.uint8)
    for policy in (ours.RandAugment(prob=1.0), ours.AugMix()):
        assert policy(clip).dtype == torch.uint8


def test_the_uncovered_edge_is_grey_in_uint8_too():
    clip = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert apply_operation("TranslateX", clip, 0.5, (0.5, 0.5, 0.5)).max() in (127, 128)


def test_mixing_leaves_the_batch_alone():
    clips, labels = clip_of(2, 3, 2, 8, 8), torch.tensor([0, 1])
    before = clips.clone()
    for mix in (ours.MixUp(), ours.CutMix()):
        mix(clips, labels)
    assert_close(clips, before)


def test_mixed_labels_add_up_to_one():
    mixed, labels = ours.MixVideo(label_smoothing=0.1, num_classes=4)(clip_of(2, 3, 2, 8, 8), torch.tensor([0, 3]))
    assert mixed.shape == (2, 3, 2, 8, 8)
    assert_close(labels.sum(1), torch.ones(2))


def test_a_random_crop_keeps_boxes_on_what_they_showed():
    clip = torch.zeros(3, 1, 12, 16)
    clip[:, :, 5:8, 6:10] = 1
    crop, boxes = functional.random_crop_with_boxes(clip, 11, np.array([[6.0, 5.0, 9.0, 7.0]]))
    x1, y1, x2, y2 = boxes[0].astype(int)
    assert crop.shape == (3, 1, 11, 11)
    assert crop[..., y1 : y2 + 1, x1 : x2 + 1].min() == 1
    assert crop.sum() == clip.sum()


def test_a_flip_mirrors_the_boxes():
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    _, flipped = functional.horizontal_flip_with_boxes(1.0, clip_of(3, 1, 8, 10), boxes)
    assert flipped.tolist() == [[5.0, 2.0, 8.0, 6.0]]
    assert boxes.tolist() == [[1.0, 2.0, 4.0, 6.0]]


def test_boxes_scale_with_the_short_side():
    clip, boxes = functional.random_short_side_scale_with_boxes(
        clip_of(3, 1, 8, 10), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), 16, 16
    )
    assert clip.shape[-2:] == (16, 20)
    assert boxes.tolist() == [[2.0, 4.0, 8.0, 12.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.UniformTemporalSubsample(0)(clip_of(3, 2, 4, 4)), "at least 1 frame"),
        (lambda: ours.ShortSideScale(4, backend="opencv")(clip_of(3, 2, 4, 4)), "must be 'pytorch'"),
        (lambda: ours.ShortSideScale(4)(clip_of(2, 4, 4)), r"\(C, T, H, W\)"),
        (lambda: ours.ConvertUint8ToFloat()(clip_of(3, 2, 4, 4)), "takes uint8"),
        (lambda: ours.ConvertFloatToUint8()(clip_of(3, 2, 4, 4).double()), "float32 or float16"),
        (lambda: ours.Permute((0, 0, 1)), "each of 0 to 2 once"),
        (lambda: ours.RandomResizedCrop(4, 4, (0.0, 1.0), (1, 1))(clip_of(3, 2, 4, 4)), "greater than 0"),
        (lambda: ours.MixUp()(clip_of(1, 3, 2, 4, 4), torch.tensor([0])), "at least 2 clips"),
        (lambda: ours.MixUp(num_classes=2)(clip_of(2, 3, 2, 4, 4), torch.tensor([0, 2])), "below num_class=2"),
        (lambda: ours.MixVideo(cutmix_prob=2), "from 0 to 1"),
        (lambda: ours.OpSampler([]), "num_sample_op"),
        (lambda: ours.OpSampler([abs], [0.0]), "1 positive numbers"),
        (lambda: ours.RandAugment(sampling_type="normal"), "'gaussian' or 'uniform', got 'normal'"),
        (lambda: ours.RandAugment(sampling_hparas={"std": 1}), r"needs \['sampling_std'\]"),
        (lambda: ours.AugMix(magnitude=11), "1 to 10, got 11"),
        (lambda: apply_operation("Sheer", clip_of(1, 3, 4, 4), 0.1, (0, 0, 0)), "unknown operation 'Sheer'"),
        (lambda: ours.create_video_transform("test"), "'train' or 'val', got 'test'"),
        (lambda: ours.create_video_transform("val", crop_size=300), "min_size=256"),
        (lambda: ours.create_video_transform("val", remove_key=["audio"]), "needs video_key"),
        (lambda: ours.create_video_transform("train", aug_type="mixup"), "'default', 'randaug' or 'augmix'"),
        (lambda: ours.create_video_transform("train", aug_paras={}), "needs aug_type"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
