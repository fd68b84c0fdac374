"""Sections of evaluation recipes: nearest neighbors, linear probe, multi-view test of a classifier."""

from dataclasses import dataclass, replace
from typing import Literal

from ..options import bounds


@dataclass(frozen=True)
class KNNConfig:
    """Weighted k-nearest-neighbor evaluation (Wu et al. 2018, section 3.4; as DINO and SVT).

    Attributes:
        ks: numbers of neighbors, one result each; those above the number of training videos are skipped.
        temperature: temperature of the votes exp(similarity / temperature).
        views: crops x clips of each training and evaluation video, whose features are averaged; "slow-fast 3x1" adds
            fast clips (SVT section 3.4).
        shots: number of training videos per class, drawn by the seed; null uses all.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    views: str = "1x1"
    shots: int | None = None


@dataclass(frozen=True)
class LinearConfig:
    """A linear probe on frozen features (SVT section 4.1).

    Attributes:
        lrs: learning rates, not scaled with the batch; with several, held-out training videos choose one.
        epochs: passes over the training videos.
        batch_size: videos per step.
        momentum, weight_decay: options of SGD.
        standardize: scale each feature to mean 0 and standard deviation 1 first; not in SVT's recipe.
        validation_fraction: fraction of each class to hold out for the choice among `lrs`.
        clips: random clips per training video whose features are stored; each epoch draws one of them. The paper's
            variation needs `clips` = `epochs`; fewer clips take less time.
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        slow_fast: average the features of a slow and a fast clip in training too (SVT section 3.4).
        views: crops x clips of each evaluation video; "slow-fast 3x1" adds fast clips.
        pool: "mean" of all views; "sum" adds the mean of the slow and the mean of the fast clips.
    """

    lrs: tuple[float, ...] = (8e-3,)
    epochs: int = 20
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 0.0
    standardize: bool = False
    validation_fraction: float = 0.2
    clips: int = 20
    hflip: float = 0.5
    slow_fast: bool = True
    views: str = "slow-fast 3x1"
    pool: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        refuse_fast_views(self.views, slow_fast=self.slow_fast, where="")


def refuse_fast_views(views: str, *, slow_fast: bool, where: str) -> None:
    """Refuse fast clips in the test of a network or a layer that was trained without them.

    Raises:
        ValueError: `views` contains fast clips although `slow_fast` is off.
    """
    if views.startswith("slow-fast") and not slow_fast:
        plain = views.removeprefix("slow-fast ")
        raise ValueError(f"{where}views={views!r} tests fast clips, but slow_fast=false; set {where}views={plain}")


@dataclass(frozen=True)
class MultiviewConfig:
    """The test of a classifier, with pooled logits of all views of a video.

    Attributes:
        views: crops x clips, such as "3x1" or "3x2"; "slow-fast 3x1" adds fast clips (SVT section 3.4).
        pool: "mean" averages the logits of all views. "sum" adds the mean of the slow and the mean of the fast clips.
            "softmax" averages probabilities. "max" takes the largest logit of each class.
    """

    views: str = "slow-fast 3x1"
    pool: Literal["mean", "sum", "softmax", "max"] = "mean"


@dataclass(frozen=True)
class RepeatConfig:
    """Repetitions of an evaluation; the result is the mean.

    Attributes:
        num_seeds: number of seeds, counted from `run.seed`.
        splits: official splits; each number replaces {split} in `data.train`, `data.val` and other options of `data`.
    """

    num_seeds: int = 1
    splits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        bounds(self, "num_seeds", low=1)


@dataclass(frozen=True)
class ReportConfig:
    """Names in a result file, and its folder.

    Attributes:
        name: what was evaluated; by default the name of `init`.
        dataset: name of the data set; by default the name of the list `data.val`.
        split: part of the data set.
        folder: folder of the result files; by default `results` in `run.output`. MODEL_ZOO.md is made from the files in
            `results` of the checkout.
    """

    name: str = ""
    dataset: str = ""
    split: str = "test"
    folder: str = ""

    def within(self, output: str) -> "ReportConfig":
        """The same section with a folder: `results` in `output`, unless one is given."""
        return self if self.folder else replace(self, folder=f"{output}/results")


@dataclass(frozen=True)
class EvaluationRunConfig:
    """The folder, the device and the seed of an evaluation.

    Attributes:
        output: folder of features, predictions and figures; existing features are reused.
        seed: seed of everything random, and of the weights of init=random.
        device: "auto" uses a GPU if there is one.
        dtype: data type of the network; "auto" is bfloat16 where that is faster.
    """

    output: str = "runs/evaluation"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
