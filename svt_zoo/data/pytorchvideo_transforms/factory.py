"""`create_video_transform`: PyTorchVideo's usual training and validation pipelines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchvision.transforms import CenterCrop, Compose, RandomCrop, RandomHorizontalFlip

from .policies import AugMix, RandAugment
from .transforms import (
    ApplyTransformToKey,
    ConvertUint8ToFloat,
    Normalize,
    Permute,
    RandomResizedCrop,
    RandomShortSideScale,
    RemoveKey,
    ShortSideScale,
    UniformTemporalSubsample,
)

_POLICIES: dict[str, type[RandAugment] | type[AugMix]] = {"randaug": RandAugment, "augmix": AugMix}


def create_video_transform(
    mode: str,
    video_key: str | None = None,
    remove_key: Sequence[str] | None = None,
    num_samples: int | None = 8,
    convert_to_float: bool = True,
    video_mean: Sequence[float] = (0.45, 0.45, 0.45),
    video_std: Sequence[float] = (0.225, 0.225, 0.225),
    min_size: int = 256,
    max_size: int = 320,
    crop_size: int | tuple[int, int] = 224,
    horizontal_flip_prob: float = 0.5,
    aug_type: str = "default",
    aug_paras: Mapping[str, Any] | None = None,
    random_resized_crop_paras: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """Build a pipeline for clips (C, T, H, W), or for samples that hold one under `video_key`.

    "train": subsample, policy, to float, normalise, random scale and crop (or random resized crop), random
    flip. "val": subsample, to float, normalise, short side to `min_size`, centre crop. Unlike PyTorchVideo's,
    the flip also follows a random resized crop, as its documentation says, and `crop_size` may be a pair
    there.

    Args:
        mode: "train" or "val".
        video_key: key of the clip in the samples; None takes bare clips.
        remove_key: keys to take out of the samples.
        num_samples: frames to keep, spread evenly; None keeps all.
        convert_to_float: turn uint8 into float on the scale [0, 1]; False expects float.
        video_mean: mean of each channel.
        video_std: standard deviation of each channel.
        min_size: shortest short side of the random scale; the short side in "val" mode.
        max_size: longest short side of the random scale.
        crop_size: side of the crop, or (height, width).
        horizontal_flip_prob: probability of a flip.
        aug_type: "default" (none), "randaug" or "augmix".
        aug_paras: options of the policy.
        random_resized_crop_paras: options of `RandomResizedCrop`, which then replaces random scale and crop.

    Raises:
        ValueError: options that exclude each other or are out of range.
    """
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    _check(mode, video_key, remove_key, (height, width), min_size, aug_type, aug_paras)
    steps: list[Callable[[Any], Any]] = []
    if num_samples is not None:
        steps.append(UniformTemporalSubsample(num_samples))
    if mode == "train" and aug_type != "default":
        options = {key: value for key, value in (aug_paras or {}).items() if value is not None}
        frames_first = Permute((1, 0, 2, 3))  # (T, C, H, W), and back
        steps += [frames_first, _POLICIES[aug_type](**options), frames_first]
    if convert_to_float:
        steps.append(ConvertUint8ToFloat())
    steps.append(Normalize(video_mean, video_std))
    if mode == "val":
        steps += [ShortSideScale(min_size), CenterCrop((height, width))]
    else:
        if random_resized_crop_paras is not None:
            defaults = {"scale": (0.08, 1.0), "aspect_ratio": (3 / 4, 4 / 3)}
            options = {**defaults, **random_resized_crop_paras, "target_height": height, "target_width": width}
            steps.append(RandomResizedCrop(**options))
        else:
            steps += [RandomShortSideScale(min_size, max_size), RandomCrop((height, width))]
        steps.append(RandomHorizontalFlip(horizontal_flip_prob))
    transform = Compose(steps)
    if video_key is None:
        return transform
    return Compose([ApplyTransformToKey(video_key, transform), *map(RemoveKey, remove_key or ())])


def _check(
    mode: str,
    video_key: str | None,
    remove_key: Sequence[str] | None,
    crop: tuple[int, int],
    min_size: int,
    aug_type: str,
    aug_paras: Mapping[str, Any] | None,
) -> None:
    if mode not in ("train", "val"):
        raise ValueError(f"mode must be 'train' or 'val', got {mode!r}")
    if max(crop) > min_size:
        raise ValueError(f"crop_size {crop} must not exceed min_size={min_size}")
    if remove_key is not None and video_key is None:
        raise ValueError(f"remove_key={remove_key} needs video_key: without it there is no dictionary")
    if aug_type != "default" and aug_type not in _POLICIES:
        raise ValueError(f"aug_type must be 'default', 'randaug' or 'augmix', got {aug_type!r}")
    if aug_type == "default" and aug_paras is not None:
        raise ValueError(f"aug_paras={aug_paras} needs aug_type 'randaug' or 'augmix'")
