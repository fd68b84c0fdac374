"""The recipe of a fine-tuning run: a network and a linear layer, trained on labels. Defaults are the SVT paper's."""

from dataclasses import dataclass, field
from typing import Literal

from .evaluation import ClipConfig, MultiviewConfig, RepeatConfig, ReportConfig, refuse_fast_views
from .options import DataConfig, ModelConfig, OptimConfig, RunConfig
from .temporal import TemporalConfig


@dataclass(frozen=True)
class FinetuneViewsConfig:
    """The random clip of a training video: a random window, a random crop of a random scale, a flip.

    Attributes:
        short_side: pixels from and to which the short side is scaled before the crop; null is 1 to 1.25 times the
            clip's `resize_size` (256 to 320).
        hflip: probability of a horizontal flip; 0 where left and right matter.
        policy: torchvision's RandAugment or AutoAugment, the same for all frames of a clip.
        slow_fast: show the network a slow and a fast clip of the same window and crop (SVT section 3.4).
    """

    short_side: tuple[int, int] | None = None
    hflip: float = 0.5
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    slow_fast: bool = True

    def __post_init__(self) -> None:
        if self.slow_fast and self.policy != "none":
            raise ValueError(f"policy={self.policy} needs a single clip; set views.slow_fast=false")


@dataclass(frozen=True)
class ClassifyConfig:
    """The objective, cross entropy; its regularization is not in the paper and off.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of mixup; 0 is none. With `cutmix`, each batch draws one of the two.
        cutmix: alpha of cutmix, the same box in all frames; 0 is none.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class FinetuneOptimConfig(OptimConfig):
    """How the weights move, and for how long (SVT section 4.1: TimeSformer's training with these numbers).

    Attributes:
        layer_decay: the learning rate of a block is this times that of the next one; 1 is the same for all.
        lr_factors: of the learning rate, by globs of parameter names, such as {"*.blocks.*": 0.1}.
    """

    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = 5e-3
    scale_lr: bool = False
    epochs: int = 15
    warmup_epochs: int = 0
    weight_decay: float = 1e-4
    weight_decay_end: float = 1e-4
    clip_grad: float | None = None
    clip_mode: Literal["per_parameter", "global"] = "global"
    schedule: Literal["cosine", "steps"] = "steps"
    milestones: tuple[float, ...] = (11.0, 14.0)
    layer_decay: float = 1.0
    lr_factors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning run and the test of what it gives.

    Attributes:
        kind: states that this is a recipe of fine-tuning.
        init: where the backbone's weights come from: a row of `svt_zoo.list_weights()`, a file, an address, the
            folder of a finished run, or "svt", "dino", "image_supervised", "random" for `model`; "random:" before one
            of these gives its architecture and its clip with random weights, to compare with it.
    """

    kind: Literal["finetune"] = "finetune"
    init: str = "svt"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    views: FinetuneViewsConfig = field(default_factory=FinetuneViewsConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    optim: FinetuneOptimConfig = field(default_factory=FinetuneOptimConfig)
    multiview: MultiviewConfig = field(default_factory=MultiviewConfig)
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", self.report.within(self.run.output))
        refuse_fast_views(self.multiview.views, slow_fast=self.views.slow_fast, where="multiview.")
        if self.views.slow_fast and self.classify.cutmix:
            raise ValueError(
                f"classify.cutmix={self.classify.cutmix} needs clips of one size; set views.slow_fast=false or cutmix=0"
            )
        if self.temporal.is_on and (self.views.slow_fast or self.classify.mixup or self.classify.cutmix):
            raise ValueError(
                f"the temporal terms need a single clip without mixing, got views.slow_fast={self.views.slow_fast}, "
                f"classify.mixup={self.classify.mixup}, classify.cutmix={self.classify.cutmix}; set false, 0 and 0"
            )
