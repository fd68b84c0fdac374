"""The original CPC code's augmentations, image by image, with its order of random numbers: for parity.

Each takes a clip as a list of PIL images and draws from generators that are passed. The default augmentation of the
zoo (`random_views`, `augment`) does the same to whole batches, on the device, without the nearest-pixel resize.
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

Images = list[Image.Image]
Change = Callable[[Image.Image], Image.Image]


def pretrain_images(
    frames: Tensor, rng: np.random.Generator, *, size: int, short_side: int = 240, crop: int = 224
) -> Tensor:
    """Frames uint8 (T, H, W, 3) as the original pre-trains on them: uint8 (T, size, size, 3)."""
    images = [Image.fromarray(frame.numpy()) for frame in frames]
    if min(images[0].size) != short_side:  # its extraction of frames has done this
        images = [_scaled_short_side(image, short_side) for image in images]
    seeds = rng.integers(2**32, size=2)
    images = pretrain_chain(images, random.Random(int(seeds[0])), np.random.RandomState(int(seeds[1])), size, crop)
    return to_tensor(images)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images as uint8 (T, H, W, 3)."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def pretrain_chain(
    images: Images, python: random.Random, numpy: np.random.RandomState, size: int, crop: int = 224
) -> Images:
    """Flip, crop, nearest-pixel resize for the clip; channel replication and colour jitter for each frame."""
    images = scale(random_crop(horizontal_flip(images, python), python, crop), size)
    images = replicate_channel(images, python, numpy, consistent=False)
    return jitter(images, python, probability=1.0, strengths=(0.5, 0.5, 0.5, 0.25), consistent=False)


def finetune_chain(images: Images, python: random.Random, size: int, crop: int = 224, *, train: bool = True) -> Images:
    """A crop of random size (in validation with probability 0.3), resize, flip, jitter with probability 0.3."""
    images = scale(sized_crop(images, python, crop, probability=1.0 if train else 0.3), size)
    strengths = (0.5, 0.5, 0.5, 0.25) if train else (0.2, 0.2, 0.2, 0.1)
    return jitter(horizontal_flip(images, python), python, probability=0.3, strengths=strengths, consistent=True)


def evaluation_chain(images: Images, python: random.Random, size: int, crop: int = 224) -> Images:
    """The centre; one number is drawn all the same."""
    return scale(sized_crop(images, python, crop, probability=0.0), size)


def horizontal_flip(images: Images, python: random.Random) -> Images:
    """All images mirrored, with probability a half."""
    if python.random() < 0.5:
        return [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return images


def random_crop(images: Images, python: random.Random, size: int) -> Images:
    """The same square of all images; nothing is drawn if they have its size."""
    width, height = images[0].size
    if (width, height) == (size, size):
        return images
    left, top = python.randint(0, width - size), python.randint(0, height - size)
    return [image.crop((left, top, left + size, top + size)) for image in images]


def center_crop(images: Images, size: int) -> Images:
    """The square in the middle."""
    width, height = images[0].size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return [image.crop((left, top, left + size, top + size)) for image in images]


def sized_crop(images: Images, python: random.Random, size: int, *, probability: float) -> Images:
    """With `probability` a random part of half the image or more, bilinearly resized; else the centre."""
    if python.random() >= probability:
        return center_crop(images, size)
    width, height = images[0].size
    for _ in range(10):
        area = python.uniform(0.5, 1) * width * height
        aspect = python.uniform(3 / 4, 4 / 3)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if python.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            left, top = python.randint(0, width - w), python.randint(0, height - h)
            parts = (image.crop((left, top, left + w, top + h)) for image in images)
            return [part.resize((size, size), Image.Resampling.BILINEAR) for part in parts]
    return center_crop([_scaled_short_side(image, size) for image in images], size)


def scale(images: Images, size: int) -> Images:
    """All images squeezed into a square, to the nearest pixel."""
    return [image.resize((size, size), Image.Resampling.NEAREST) for image in images]


def replicate_channel(
    images: Images, python: random.Random, numpy: np.random.RandomState, *, consistent: bool
) -> Images:
    """With probability a half, decided for each image or for all, one colour of an image in the place of all three."""
    decided = [python.random() < 0.5] * len(images) if consistent else [python.random() < 0.5 for _ in images]
    return [
        Image.merge("RGB", [image.getchannel(int(numpy.choice(3)))] * 3) if replicate else image
        for image, replicate in zip(images, decided, strict=True)
    ]


def jitter(
    images: Images,
    python: random.Random,
    *,
    probability: float,
    strengths: tuple[float, float, float, float],
    consistent: bool,
) -> Images:
    """With `probability`, brightness, contrast, saturation and hue in random order; drawn once, or for each image."""
    if python.random() >= probability:
        return images
    if consistent:
        changes = [_draw_jitter(python, strengths)] * len(images)
    else:
        changes = [_draw_jitter(python, strengths) for _ in images]
    out = []
    for image, steps in zip(images, changes, strict=True):
        for step in steps:
            image = step(image)
        out.append(image)
    return out


def _draw_jitter(python: random.Random, strengths: tuple[float, float, float, float]) -> list[Change]:
    brightness, contrast, saturation = (python.uniform(1 - x, 1 + x) for x in strengths[:3])
    hue = python.uniform(-strengths[3], strengths[3])
    steps: list[Change] = [
        lambda image: F.adjust_brightness(image, brightness),
        lambda image: F.adjust_contrast(image, contrast),
        lambda image: F.adjust_saturation(image, saturation),
        lambda image: F.adjust_hue(image, hue),
    ]
    python.shuffle(steps)
    return steps


def _scaled_short_side(image: Image.Image, size: int) -> Image.Image:
    """The image with its short side at `size`, bilinearly; the long one is rounded down."""
    width, height = image.size
    shape = (int(size * width / height), size) if width >= height else (size, int(size * height / width))
    return image.resize(shape, Image.Resampling.BILINEAR)
