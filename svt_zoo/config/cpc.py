"""The recipe of a pre-training by contrastive predictive coding; by default nothing has seen the future."""

from dataclasses import dataclass, field
from typing import Literal

from .options import DataConfig, ModelConfig, OptimConfig, RunConfig


@dataclass(frozen=True)
class CPCModelConfig(ModelConfig):
    """The network that is trained.

    Attributes:
        name: a registered model, one of `svt_zoo.list_models()`; cpc_* are CPC's own.
        options: keywords of its builder, such as `model.options.positions=true`, `relu`, `dropout`, `num_frames`.
    """

    name: str = "cpc_resnet18"


@dataclass(frozen=True)
class CPCViewsConfig:
    """The one clip of a video that CPC looks at: frames that are seen, and behind them frames that are predicted.

    Attributes:
        context_frames: frames that are seen.
        pred_frames: frames that are predicted.
        frame_step: distance of two frames of the clip, in frames of the video.
        size: pixels of the square clip.
        short_side: pixels to which the short side is scaled before the crop; null is `size` x 240 / 224, as in the
            original.
        hflip: probability of a horizontal flip; 0 where left and right matter.
        jitter: how often colors are drawn: once a "clip", or for each "frame" as in the original.
        jitter_strength: of brightness, contrast and saturation (factors 1 - x to 1 + x); half of it of the hue.
        grayscale: probability that one channel takes the place of all three.
        mean, std: normalization on the scale [0, 1].
    """

    context_frames: int = 5
    pred_frames: int = 3
    frame_step: int = 3
    size: int = 224
    short_side: int | None = None
    hflip: float = 0.5
    jitter: Literal["clip", "frame"] = "clip"
    jitter_strength: float = 0.5
    grayscale: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("context_frames", "pred_frames", "frame_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return self.context_frames + self.pred_frames

    @property
    def scaled_side(self) -> int:
        """Pixels of the short side in front of the crop."""
        return round(self.size * 240 / 224) if self.short_side is None else self.short_side


@dataclass(frozen=True)
class CPCConfig:
    """CPC's objective.

    Attributes:
        attention: "isolated" encodes the context by itself and each predicted frame by itself; "frame_causal" hides
            later frames from earlier ones, but not the context from what is to be predicted; "full" hides nothing, as
            in the original.
        target: what is predicted: tokens behind the "transformer", or of the "backbone" in front of it.
        negatives: the candidates beside the right one: "all" tokens of the batch, those of the "same_clip", or of
            "other_clips".
        normalize: compare directions instead of dot products.
        temperature: that scores are divided by.
        dropout: of the ConvGRU, where the network brings none of its own (`model.options.dropout` is for cpc_*).
    """

    attention: Literal["isolated", "frame_causal", "full"] = "isolated"
    target: Literal["transformer", "backbone"] = "transformer"
    negatives: Literal["all", "same_clip", "other_clips"] = "all"
    normalize: bool = True
    temperature: float = 0.1
    dropout: float = 0.1


@dataclass(frozen=True)
class CPCOptimConfig(OptimConfig):
    """How the weights move, and for how long (the original's numbers, but for the optimiser and the schedule)."""

    lr: float = 1e-3
    scale_lr: bool = False
    epochs: int = 300
    warmup_epochs: int = 0
    weight_decay: float = 1e-5
    weight_decay_end: float = 1e-5
    clip_grad: float | None = None
    clip_mode: Literal["per_parameter", "global"] = "global"


@dataclass(frozen=True)
class CPCRecipe:
    """One pre-training by CPC.

    Attributes:
        method: says that this is a recipe of CPC.
        init: where the network's weights come from: "random", or a file, an address or a row of
            `svt_zoo.list_weights()`.
    """

    method: Literal["cpc"] = "cpc"
    init: str = "random"
    model: CPCModelConfig = field(default_factory=CPCModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    views: CPCViewsConfig = field(default_factory=CPCViewsConfig)
    cpc: CPCConfig = field(default_factory=CPCConfig)
    optim: CPCOptimConfig = field(default_factory=CPCOptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
