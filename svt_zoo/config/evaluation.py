"""Recipes of evaluations: nearest neighbours, a linear probe, the multi-view test of a classifier."""

from dataclasses import dataclass, field, replace
from typing import Literal

from .options import DataConfig, ModelConfig


@dataclass(frozen=True)
class ClipConfig:
    """The clip that the network looks at; null takes what the weights say, and of those that say nothing, SVT's.

    Attributes:
        num_frames: frames of a clip, over the same seconds unless `sampling_rate` says otherwise.
        sampling_rate: a clip lasts `num_frames` times so many frames of a video of 30 a second; "segments" spreads its
            frames over the whole video (Something-Something).
        resize_size: short side in pixels before the crop.
        crop_size: side of the square crop in pixels.
        mean, std: normalization on the scale [0, 1].
    """

    num_frames: int | None = None
    sampling_rate: float | Literal["segments"] | None = None
    resize_size: int | None = None
    crop_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class KNNConfig:
    """Weighted nearest neighbors (Wu et al. 2018, section 3.4; as DINO and SVT evaluate).

    Attributes:
        ks: numbers of neighbors; each gives a result. More than there are training videos are left out.
        temperature: of the votes exp(similarity / temperature).
        views: crops x clips of each video, training and evaluation, whose features are averaged; "slow-fast 3x1"
            adds fast clips (SVT section 3.4).
        shots: so many training videos of each class, drawn by the seed; null takes all.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    views: str = "1x1"
    shots: int | None = None


@dataclass(frozen=True)
class LinearConfig:
    """A linear probe on frozen features (SVT section 4.1).

    Attributes:
        lrs: learning rates, not scaled by the batch; of several, a part of the training videos chooses one.
        epochs: passes over the training videos.
        batch_size: videos of a step.
        momentum, weight_decay: of SGD.
        standardize: bring each feature to mean 0 and deviation 1 first; not in SVT's recipe.
        validation_fraction: share of each class that is set aside to choose among `lrs`.
        clips: random clips of each training video, whose features are kept; each epoch draws one of them. As many as
            epochs is the paper's amount of variation, fewer take less time.
        hflip: probability of a horizontal flip; 0 where left and right matter.
        slow_fast: average the features of a slow and a fast clip in training, too (SVT section 3.4).
        views: crops x clips of each evaluation video; "slow-fast 3x1" for both kinds of clips.
        pool: "mean" of all views; "sum" adds up those of slow and of fast clips.
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
    """Refuse to test fast clips of a network, or of a layer, that has been trained without them.

    Raises:
        ValueError: `views` asks for fast clips although `slow_fast` is off.
    """
    if views.startswith("slow-fast") and not slow_fast:
        plain = views.removeprefix("slow-fast ")
        raise ValueError(f"{where}views={views!r} tests fast clips, but slow_fast=false; set {where}views={plain}")


@dataclass(frozen=True)
class MultiviewConfig:
    """The test of a classifier: the logits of all views of a video are pooled.

    Attributes:
        views: crops x clips, as "3x1" or "3x2"; "slow-fast 3x1" for both kinds of clips (SVT section 3.4).
        pool: "mean" of the logits of all views, which is their sum; "sum" averages slow clips and fast clips, and adds
            up the two; "softmax" averages probabilities; "max" takes each class's largest logit.
    """

    views: str = "slow-fast 3x1"
    pool: Literal["mean", "sum", "softmax", "max"] = "mean"


@dataclass(frozen=True)
class RepeatConfig:
    """How often an evaluation is done; the result is the mean.

    Attributes:
        num_seeds: seeds, counted from `run.seed`.
        splits: official splits; each number takes the place of {split} in `data.train`, `data.val` and the like.
    """

    num_seeds: int = 1
    splits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds must be >= 1, got {self.num_seeds}")


@dataclass(frozen=True)
class ReportConfig:
    """What a result says of itself, and where it goes.

    Attributes:
        name: what was evaluated; by default what `init` says.
        dataset: name of the data set; by default that of the list `data.val`.
        split: on which part of it.
        folder: where result files are written; by default `results` in `run.output`. The page of the zoo is made from
            those in the folder `results` of the checkout.
    """

    name: str = ""
    dataset: str = ""
    split: str = "test"
    folder: str = ""

    def within(self, output: str) -> "ReportConfig":
        """The same with a folder: in `output`, if none is named."""
        return self if self.folder else replace(self, folder=f"{output}/results")


@dataclass(frozen=True)
class EvaluationRunConfig:
    """Where an evaluation writes, and on what it runs.

    Attributes:
        output: folder of features, predictions and pictures; features that are there already are not made again.
        seed: of all that is drawn, and of the weights of init=random.
        device: "auto" takes a GPU if there is one.
        dtype: what the network computes in; "auto" is bfloat16 where that is faster on this machine.
    """

    output: str = "runs/evaluation"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True)
class EvaluationRecipe:
    """What all evaluations of a network say.

    Attributes:
        init: the network: a row of `svt_zoo.list_weights()`, a file, an address, the folder of a finished run, or
            "svt", "dino", "image_supervised", "random" for `model`; "random:" before one of these gives its
            architecture and its clip with random weights, to compare with it.
    """

    init: str = "svt"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    run: EvaluationRunConfig = field(default_factory=EvaluationRunConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", self.report.within(self.run.output))


@dataclass(frozen=True)
class KNNRecipe(EvaluationRecipe):
    """One evaluation by nearest neighbors.

    Attributes:
        kind: states that this is a recipe of nearest neighbors.
    """

    kind: Literal["knn"] = "knn"
    knn: KNNConfig = field(default_factory=KNNConfig)


@dataclass(frozen=True)
class LinearRecipe(EvaluationRecipe):
    """One linear probe.

    Attributes:
        kind: states that this is a recipe of a linear probe.
    """

    kind: Literal["linear"] = "linear"
    linear: LinearConfig = field(default_factory=LinearConfig)


@dataclass(frozen=True)
class MultiviewRecipe(EvaluationRecipe):
    """One test of a classifier.

    Attributes:
        init: the classifier: a row of `svt_zoo.list_weights()` that has one, a file, an address, or the folder of a
            finished fine-tuning run.
        kind: states that this is a recipe of a classifier's test.
    """

    kind: Literal["test"] = "test"
    multiview: MultiviewConfig = field(default_factory=MultiviewConfig)
