"""Random clips for a classifier or a linear probe: one clip, or a slow and a fast one with the same window and crop."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from ..options import bounds
from .crops import ViewSpec, ViewTransform, crop_and_resize, random_short_side_box
from .flow import FlowLabels
from .transforms import EvalTransform
from .views import Indices, VideoViews

_FILL = [128, 128, 128]  # gray, for pixels that a shift or rotation leaves empty
_MOVING = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


@dataclass(frozen=True)
class FinetuneViewsConfig:
    """The random clip of a training video: a random window, a random crop at a random scale, a flip.

    Attributes:
        short_side: range of the short side before the crop, in pixels; null is 1 to 1.25 times the clip's `resize_size`
            (256 to 320).
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        policy: torchvision's RandAugment or AutoAugment, the same for all frames of a clip.
        slow_fast: use a slow and a fast clip of the same window and crop (SVT section 3.4).
    """

    short_side: tuple[int, int] | None = None
    hflip: float = 0.5
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    slow_fast: bool = True

    def __post_init__(self) -> None:
        bounds(self, "short_side", low=1)
        bounds(self, "hflip", low=0, high=1)
        if self.policy not in ("none", "randaugment", "autoaugment"):
            raise ValueError(f"policy must be none, randaugment or autoaugment, got {self.policy!r}")
        if self.slow_fast and self.policy != "none":
            raise ValueError(f"policy={self.policy} needs a single clip; set views.slow_fast=false")


class MovingOperation(v2.RandAugment):  # type: ignore[misc]  # torchvision is not typed
    """One random RandAugment operation that moves pixels, or none."""

    _AUGMENTATION_SPACE = {k: v for k, v in v2.RandAugment._AUGMENTATION_SPACE.items() if k in _MOVING}  # noqa: RUF012


class ColorOperation(v2.RandAugment):  # type: ignore[misc]
    """One random RandAugment operation that changes colors, or none."""

    _AUGMENTATION_SPACE = {  # noqa: RUF012
        k: v for k, v in v2.RandAugment._AUGMENTATION_SPACE.items() if k not in _MOVING[1:]
    }


def apply_policy(policy: nn.Module, view: Tensor, rng: np.random.Generator) -> Tensor:
    """Applies a torchvision policy to a view (T, H, W, 3), with the same operations for all frames."""
    # Policies draw from torch's global generator, so it is seeded from `rng` here.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        images: Tensor = policy(view.permute(0, 3, 1, 2))  # (T, 3, H, W)
    return images.permute(0, 2, 3, 1).contiguous()  # (T, H, W, 3)


class RandomClips:
    """Random clips for training a linear probe: random window, scale, crop and flip (SVT's evaluation).

    The short side becomes 1 to 1.25 times the transform's `resize_size` (256 to 320 pixels). The random choices depend
    only on the dataset's seed and the video's number, so features of several clips can be stored. `fast` is the
    transform of additional fast clips, with the same windows, crops and flips. Crops must be square.
    """

    def __init__(
        self, transform: EvalTransform, *, num_clips: int = 1, flip: float = 0.5, fast: EvalTransform | None = None
    ) -> None:
        self.transforms = [transform] if fast is None else [transform, fast]
        self.num_clips = num_clips
        self.flip = flip
        for each in self.transforms:
            if each.crop_size[0] != each.crop_size[1]:
                raise ValueError(f"random clips need a square crop, got crop_size={each.crop_size}")

    @property
    def short_side(self) -> tuple[int, int]:
        """Range of the short side before the crop, in pixels."""
        return self.transforms[0].resize_size, round(1.25 * self.transforms[0].resize_size)

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of all clips; for each clip the slow view comes before the fast one."""
        seeds = rng.integers(2**32, size=self.num_clips).tolist()  # slow and fast clips draw the same window
        return [
            transform.random_clip_indices(total, fps=fps, rng=np.random.default_rng(seed))
            for seed in seeds
            for transform in self.transforms
        ]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Float views (3, T, H, W), without parameters."""
        height, width = frames.shape[1:3]
        views = []
        count = len(self.transforms)
        for first in range(0, len(places), count):
            box = random_short_side_box(height, width, self.transforms[0].crop_size[0], self.short_side, rng)
            flipped = rng.random() < self.flip
            for transform, place in zip(self.transforms, places[first : first + count], strict=True):
                side = transform.crop_size[0]
                clip = crop_and_resize(frames, box, side, index=place, interpolation="bilinear", antialias=False)
                clip = clip.flip(2) if flipped else clip  # (T, side, side, 3)
                views.append(transform.resized(side)(clip))  # already resized and cropped
        return VideoViews(views, [])


class FinetuneViews(RandomClips):
    """A random window, a random crop at a random scale, a flip, no color jitter: as TimeSformer and SVT fine-tune.

    The views are uint8 and come with their drawn parameters, for `augment.Augment`. They are resized as in
    `EvalTransform`: bilinear, without antialiasing. A fast clip has the window, crop and flip of the slow clip (SVT
    section 3.4). `flow` makes the target "flow" of slow clips.

    The rule "absolute" computes flow labels before the colors change. RandAugment then applies one operation that
    moves pixels before the labels, and one that changes colors after them; AutoAugment, which does both together, is
    refused. The rule "relative" computes labels of the final frames, as in TIME's code.
    """

    def __init__(
        self,
        transform: EvalTransform,
        options: FinetuneViewsConfig,
        *,
        fast: EvalTransform | None = None,
        flow: FlowLabels | None = None,
    ) -> None:
        super().__init__(transform, flip=options.hflip, fast=fast)
        policy = options.policy
        if fast is not None and policy != "none":
            raise ValueError(f"policy={policy!r} needs a single clip, but there is a fast one as well; use one of them")
        self.flow = flow
        self.policies: list[nn.Module] = []  # before the flow labels
        self.late_policies: list[nn.Module] = []  # after them
        if flow is not None and flow.rule == "absolute" and policy != "none":
            if policy == "autoaugment":
                raise ValueError('policy="autoaugment" mixes moves and colors; flow labels need "randaugment"')
            self.policies, self.late_policies = [MovingOperation(1, fill=_FILL)], [ColorOperation(1, fill=_FILL)]
        elif policy == "randaugment":
            self.policies = [v2.RandAugment(fill=_FILL)]
        elif policy == "autoaugment":
            self.policies = [v2.AutoAugment(fill=_FILL)]
        self.view = ViewTransform(
            ViewSpec(
                size=transform.crop_size[0],
                area=None,
                short_side=options.short_side or self.short_side,
                hflip=options.hflip,
                jitter=0.0,
                grayscale=0.0,
                interpolation="bilinear",
                antialias=False,
            )
        )

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> VideoViews:
        """Views uint8 (T, size, size, 3), the `ViewParams` of each, and the target "flow" (T-1, N)."""
        view, params = self.view(frames, rng, index=places[0])
        for policy in self.policies:
            view = apply_policy(policy, view, rng)
        targets = {} if self.flow is None else {"flow": self.flow(view, flip=bool(params.flip[0]))}
        for policy in self.late_policies:
            view = apply_policy(policy, view, rng)
        views = [view]
        for transform, place in zip(self.transforms[1:], places[1:], strict=True):
            views.append(self.view.cut(frames, params.box[0].tolist(), place, transform.crop_size[0]))
        return VideoViews(views, [params] * len(views), targets)
