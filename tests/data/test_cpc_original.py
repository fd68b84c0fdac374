"""The original CPC code's augmentations, bit for bit, and the random numbers they leave behind."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.data import cpc_original as original
from svt_zoo.data.cpc_original import Images

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
Chain = Callable[[Images, random.Random, np.random.RandomState], Images]
JITTER = (0.5, 0.5, 0.5, 0.25)
SMALL: dict[str, Chain] = {
    "hflip": lambda images, python, _: original.horizontal_flip(images, python),
    "crop24": lambda images, python, _: original.random_crop(images, python, 24),
    "rsc24": lambda images, python, _: original.sized_crop(images, python, 24, probability=1),
    "rsc24_p03": lambda images, python, _: original.sized_crop(images, python, 24, probability=0.3),
    "rsc24_p0": lambda images, python, _: original.sized_crop(images, python, 24, probability=0),
    "gray_indep": lambda images, python, n: original.replicate_channel(images, python, n, consistent=False),
    "gray_cons": lambda images, python, n: original.replicate_channel(images, python, n, consistent=True),
    "jitter_indep": lambda images, python, _: original.jitter(
        images, python, probability=1, strengths=JITTER, consistent=False
    ),
    "jitter_cons_p03": lambda images, python, _: original.jitter(
        images, python, probability=0.3, strengths=JITTER, consistent=True
    ),
    "centercrop24": lambda images, python, _: original.center_crop(images, 24),
    "scale12x12": lambda images, python, _: original.scale(images, 12),
}
PIPELINES: dict[str, Chain] = {
    "pipeline_pretrain": lambda images, python, n: original.pretrain_chain(images, python, n, 40),
    "pipeline_finetune": lambda images, python, _: original.finetune_chain(images, python, 40),
    "pipeline_val": lambda images, python, _: original.finetune_chain(images, python, 40, train=False),
    "pipeline_test": lambda images, python, _: original.evaluation_chain(images, python, 40),
}


def recorded_images(width: int, height: int, num_frames: int) -> Images:
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([3 * x + 5 * t, 2 * y + 7 * t, x + y + 11 * t], axis=-1) % 256 for t in range(num_frames)]
    return [Image.fromarray(frame.astype(np.uint8)) for frame in frames]


@pytest.mark.parametrize("name", [*SMALL, *PIPELINES])
def test_a_chain_equals_the_original_bit_by_bit(oracle: Oracle, name: str) -> None:
    tensors, _ = oracle("cpc/augmentation")
    cases = oracle("cpc/oracle")[1]["augmentation"][name]
    for case in cases:
        python, numpy = random.Random(case["seed"]), np.random.RandomState(case["seed"])
        images = recorded_images(40, 32, 3) if name in SMALL else recorded_images(320, 240, 2)
        found = original.to_tensor((SMALL | PIPELINES)[name](images, python, numpy))
        expected = tensors[f"aug.{name}.seed{case['seed']}"]
        if name in PIPELINES:  # recorded behind the normalisation
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
            found = ((found / 255 - mean) / std).permute(0, 3, 1, 2)  # (T, 3, H, W)
        assert_close(found, expected, atol=1e-6, rtol=0) if name in PIPELINES else assert_close(found, expected)
        assert python.random() == case["next_python_random"]
        assert numpy.random() == case["next_numpy_random"]


def test_frames_are_scaled_to_the_short_side_of_the_originals_images() -> None:
    frames = torch.zeros(4, 100, 150, 3, dtype=torch.uint8)
    views = original.pretrain_images(frames, np.random.default_rng(0), size=64)
    assert views.shape == (4, 64, 64, 3)
    assert views.dtype == torch.uint8
