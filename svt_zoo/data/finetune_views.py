"""Random training clips for a classifier: one clip, or a slow and a fast clip with the same window and crop."""

from typing import Literal

import numpy as np
from torch import Tensor
from torchvision.transforms import v2

from .datasets import Indices, Made
from .flow import FlowLabels
from .random_views import POLICY_FILL, ViewTransform, apply_policy, finetune_view_spec
from .transforms import EvalTransform

_MOVING = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


class MovingOperation(v2.RandAugment):  # type: ignore[misc]  # torchvision is not typed
    """One random RandAugment operation that moves pixels, or none."""

    _AUGMENTATION_SPACE = {k: v for k, v in v2.RandAugment._AUGMENTATION_SPACE.items() if k in _MOVING}  # noqa: RUF012


class ColorOperation(v2.RandAugment):  # type: ignore[misc]
    """One random RandAugment operation that changes colors, or none."""

    _AUGMENTATION_SPACE = {  # noqa: RUF012
        k: v for k, v in v2.RandAugment._AUGMENTATION_SPACE.items() if k not in _MOVING[1:]
    }


class FinetuneViews:
    """A random window, a random crop at a random scale, a flip, no color jitter: as TimeSformer and SVT fine-tune.

    The views are uint8 and come with their drawn parameters, for `augment.Augment`. A fast clip has the window, crop
    and flip of the slow clip (SVT section 3.4).

    The rule "absolute" computes flow labels before the colors change. RandAugment then applies one operation that
    moves pixels before the labels, and one that changes colors after them. The rule "relative" computes labels of the
    final frames, as in TIME's code.

    Args:
        transform: evaluation transform of the network; it sets frames, rate and sizes. Its crop must be square.
        fast: evaluation transform of the fast clips, if the network uses them.
        short_side: range in pixels for the short side before the crop; by default 1 to 1.25 times the transform's
            `resize_size`.
        hflip: probability of a horizontal flip; 0 if left and right matter.
        policy: RandAugment or AutoAugment, only without fast clips.
        flow: makes the target "flow" of slow clips.

    Raises:
        ValueError: the crop is not square or does not fit `short_side`, or a policy is used with fast clips. Or
            AutoAugment is used with flow labels of "absolute"; it moves pixels and changes colors together.
    """

    def __init__(
        self,
        transform: EvalTransform,
        *,
        fast: EvalTransform | None = None,
        short_side: tuple[int, int] | None = None,
        hflip: float = 0.5,
        policy: Literal["none", "randaugment", "autoaugment"] = "none",
        flow: FlowLabels | None = None,
    ) -> None:
        self.transforms = [transform] if fast is None else [transform, fast]
        for given in self.transforms:
            if given.crop_size[0] != given.crop_size[1]:
                raise ValueError(f"random clips need a square crop, got crop_size={given.crop_size}")
        if fast is not None and policy != "none":
            raise ValueError(
                f"policy={policy!r} needs a single clip, but there is a fast one as well; use one of the two"
            )
        self.flow, self.halves = flow, []
        if flow is not None and flow.rule == "absolute" and policy != "none":
            if policy == "autoaugment":
                raise ValueError('policy="autoaugment" mixes moves and colours; flow labels go with "randaugment"')
            self.halves, policy = [kind(1, fill=POLICY_FILL) for kind in (MovingOperation, ColorOperation)], "none"
        sides = short_side or (transform.resize_size, round(1.25 * transform.resize_size))
        spec = finetune_view_spec(size=transform.crop_size[0], short_side=sides, hflip=hflip, policy=policy)
        self.view = ViewTransform(spec)

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of the slow clip, and of the fast clip if there is one."""
        seed = int(rng.integers(2**32))  # both clips draw the same window
        return [
            transform.random_clip_indices(total, fps=fps, rng=np.random.default_rng(seed))
            for transform in self.transforms
        ]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> Made:
        """Views uint8 (T, size, size, 3), the `ViewParams` of each, and the target "flow" (T-1, N)."""
        view, params = self.view(frames, rng, index=places[0])
        targets = {}
        if self.halves:
            view = apply_policy(self.halves[0], view, rng)
        if self.flow is not None:
            targets["flow"] = self.flow(view, flip=bool(params.flip[0]))
        if self.halves:
            view = apply_policy(self.halves[1], view, rng)
        views = [view]
        for transform, place in zip(self.transforms[1:], places[1:], strict=True):
            views.append(self.view.cut(frames, params.box[0].tolist(), place, transform.crop_size[0]))
        return Made(views, [params] * len(views), targets)
