"""The random clips that a classifier is trained on: one, or a slow and a fast one of the same window and crop."""

from typing import Any, Literal

import numpy as np
from torch import Tensor

from .datasets import Indices
from .random_views import ViewTransform, finetune_view_spec
from .transforms import EvalTransform, crop_and_resize


class FinetuneViews:
    """A random window, a random crop of a random scale, a flip, no colours: as TimeSformer and SVT fine-tune.

    The views are uint8 and come with what was drawn, for `augment.Augment`. A fast clip has the window, crop and flip
    of the slow one (SVT section 3.4).

    Args:
        transform: of the network's evaluation; it says frames, rate and sizes. Its crop must be square.
        fast: of the fast clips, if the network shall see them too.
        short_side: pixels from and to which the short side is scaled before the crop; by default 1 to 1.25 times the
            transform's `resize_size`.
        hflip: probability of a horizontal flip; 0 where left and right matter.
        policy: RandAugment or AutoAugment, for slow clips alone.

    Raises:
        ValueError: a crop that is not square or does not fit `short_side`, or a policy together with fast clips.
    """

    def __init__(
        self,
        transform: EvalTransform,
        *,
        fast: EvalTransform | None = None,
        short_side: tuple[int, int] | None = None,
        hflip: float = 0.5,
        policy: Literal["none", "randaugment", "autoaugment"] = "none",
    ) -> None:
        self.transforms = [transform] if fast is None else [transform, fast]
        for given in self.transforms:
            if given.crop_size[0] != given.crop_size[1]:
                raise ValueError(f"random clips need a square crop, got crop_size={given.crop_size}")
        if fast is not None and policy != "none":
            raise ValueError(f"policy={policy!r} acts on one clip, there is a fast one beside it; use one of the two")
        sides = short_side or (transform.resize_size, round(1.25 * transform.resize_size))
        spec = finetune_view_spec(size=transform.crop_size[0], short_side=sides, hflip=hflip, policy=policy)
        self.view = ViewTransform(spec)

    def indices(self, total: int, fps: float, rng: np.random.Generator) -> Indices:
        """Frame numbers of the slow clip, and of the fast one."""
        seed = int(rng.integers(2**32))  # both draw the same window
        return [
            transform.random_clip_indices(total, fps=fps, rng=np.random.default_rng(seed))
            for transform in self.transforms
        ]

    def make(self, frames: Tensor, places: Indices, rng: np.random.Generator) -> tuple[list[Tensor], list[Any]]:
        """Views uint8 (T, size, size, 3) and the `ViewParams` of each."""
        view, params = self.view(frames, rng, index=places[0])
        views = [view]
        for transform, place in zip(self.transforms[1:], places[1:], strict=True):
            views.append(crop_and_resize(frames, params.box[0].tolist(), transform.crop_size[0], index=place))
        return views, [params] * len(views)
