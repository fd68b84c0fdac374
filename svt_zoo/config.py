"""Recipes: one dataclass per kind of run, and how it is read from YAML with `key=value` overrides."""

import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from .data.clips import FinetuneViewsConfig
from .data.lists import DataConfig
from .data.transforms import ClipConfig
from .data.views import CPCViewsConfig, ViewsConfig
from .evaluation.knn import KNNConfig
from .evaluation.linear import LinearConfig
from .evaluation.probe import ProbeConfig
from .evaluation.protocols import EvaluationRunConfig, MultiviewConfig
from .evaluation.results import RepeatConfig, ReportConfig
from .evaluation.views import refuse_fast_views
from .methods.classify import ClassifyConfig
from .methods.cpc import CPCConfig
from .methods.svt import SVTConfig
from .methods.temporal import TemporalConfig
from .options import ConfigError, build, read_options
from .training.optim import OptimConfig, RunConfig

T = TypeVar("T")
_MOVED = {
    "expand_repeats": "evaluation.run",
    **dict.fromkeys(("describe", "find_recipe", "flatten", "list_recipes", "to_dict"), "options"),
}


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: a registered model, one of `svt_zoo.list_models()`.
        options: keyword arguments of its builder, such as `model.options.drop_path_rate=0.1`, `img_size`, `num_frames`,
            `pos_mode`, `grad_checkpointing`; `table_std=0.5` for a start from random weights (see `create_model`).
    """

    name: str = "svt_vitb"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Pre-training by SVT.

    Attributes:
        method: "svt", also where a recipe names no method.
        init: initial weights of the backbone: "dino" (DINO's ImageNet weights, as in the paper), "image_supervised",
            "svt", "random", or a file, a URL or a row of `svt_zoo.list_weights()`.
    """

    method: Literal["svt"] = "svt"
    init: str = "dino"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    svt: SVTConfig = field(default_factory=SVTConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.temporal.low_confidence:
            raise ValueError("temporal.low_confidence needs classes, which SVT does not have; set it to 0")
        if self.temporal.flow and not self.views.consistent:
            raise ValueError("temporal.flow needs one crop for all frames; set views.consistent=true")


def _cpc_optim() -> OptimConfig:
    """The original's values, except optimizer and schedule."""
    return OptimConfig(
        lr=1e-3,
        scale_lr=False,
        epochs=300,
        warmup_epochs=0,
        weight_decay=1e-5,
        weight_decay_end=1e-5,
        clip_grad=None,
        clip_mode="global",
    )


@dataclass(frozen=True)
class CPCRecipe:
    """Pre-training by CPC.

    Attributes:
        method: "cpc".
        init: initial weights of the network: "random", or a file, a URL or a row of `svt_zoo.list_weights()`.
    """

    method: Literal["cpc"] = "cpc"
    init: str = "random"
    model: ModelConfig = field(default_factory=partial(ModelConfig, "cpc_resnet18"))
    data: DataConfig = field(default_factory=DataConfig)
    views: CPCViewsConfig = field(default_factory=CPCViewsConfig)
    cpc: CPCConfig = field(default_factory=CPCConfig)
    optim: OptimConfig = field(default_factory=_cpc_optim)
    run: RunConfig = field(default_factory=RunConfig)


PretrainRecipe = Recipe | CPCRecipe
PRETRAINING: dict[str, type[PretrainRecipe]] = {"svt": Recipe, "cpc": CPCRecipe}  # by the key `method` of a recipe


@dataclass(frozen=True)
class NetworkRecipe:
    """What fine-tuning and all evaluations share.

    Attributes:
        init: the network: a row of `svt_zoo.list_weights()`, a file, a URL, the folder of a finished run, or "svt",
            "dino", "image_supervised", "random" for `model`. "random:" before one of these gives its architecture and
            its clip with random weights, as a baseline.
    """

    init: str = "svt"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def _finetune_optim() -> OptimConfig:
    """SVT section 4.1: TimeSformer's training with these values."""
    return OptimConfig(
        name="sgd",
        lr=5e-3,
        scale_lr=False,
        epochs=15,
        warmup_epochs=0,
        weight_decay=1e-4,
        weight_decay_end=1e-4,
        clip_grad=None,
        clip_mode="global",
        schedule="steps",
        milestones=(11.0, 14.0),
    )


@dataclass(frozen=True)
class FinetuneRecipe(NetworkRecipe):
    """Fine-tuning of a backbone with a linear layer, and the test of the classifier; defaults are the SVT paper's.

    Attributes:
        kind: "finetune".
    """

    kind: Literal["finetune"] = "finetune"
    views: FinetuneViewsConfig = field(default_factory=FinetuneViewsConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    optim: OptimConfig = field(default_factory=_finetune_optim)
    multiview: MultiviewConfig = field(default_factory=MultiviewConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", self.report.within(self.run.output))
        if self.run.compare:
            raise ValueError("run.compare is for pre-training; fine-tuning ends with a test of its own")
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


@dataclass(frozen=True)
class EvaluationRecipe(NetworkRecipe):
    """What all evaluations of a network share."""

    run: EvaluationRunConfig = field(default_factory=EvaluationRunConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", self.report.within(self.run.output))


@dataclass(frozen=True)
class KNNRecipe(EvaluationRecipe):
    """A k-nearest-neighbor evaluation.

    Attributes:
        kind: "knn".
    """

    kind: Literal["knn"] = "knn"
    knn: KNNConfig = field(default_factory=KNNConfig)


@dataclass(frozen=True)
class LinearRecipe(EvaluationRecipe):
    """A linear probe.

    Attributes:
        kind: "linear".
    """

    kind: Literal["linear"] = "linear"
    linear: LinearConfig = field(default_factory=LinearConfig)


@dataclass(frozen=True)
class MultiviewRecipe(EvaluationRecipe):
    """The test of a classifier.

    Attributes:
        kind: "test".
        init: the classifier: a row of `svt_zoo.list_weights()` that has one, a file, a URL, or the folder of a finished
            fine-tuning run.
    """

    kind: Literal["test"] = "test"
    multiview: MultiviewConfig = field(default_factory=MultiviewConfig)


@dataclass(frozen=True)
class ProbeRecipe(EvaluationRecipe):
    """Probes with controls, on any number of sets.

    Attributes:
        kind: "probe".
        lists: one entry per set: LIST or TRAIN,TEST, and maybe @COLUMN=VALUE to take some rows (docs/evaluation.md).
    """

    kind: Literal["probe"] = "probe"
    lists: tuple[str, ...] = ()
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.train or self.data.val or self.repeat != RepeatConfig():
            raise ValueError("data.train, data.val and repeat have no effect on a probe; name the videos in lists")


AnyEvaluation = KNNRecipe | LinearRecipe | MultiviewRecipe
EVALUATIONS: dict[str, type[AnyEvaluation]] = {"knn": KNNRecipe, "linear": LinearRecipe, "test": MultiviewRecipe}
AnyOfNetwork = FinetuneRecipe | ProbeRecipe | AnyEvaluation
# By the key `kind` of a recipe.
KINDS: dict[str, type[AnyOfNetwork]] = {"finetune": FinetuneRecipe, "probe": ProbeRecipe, **EVALUATIONS}


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read a pre-training recipe; its `method` selects the class. Raises as `read_recipe`."""
    values = read_options(path, overrides)
    _check_command("pretrain", values, path)
    return build(_choose(PRETRAINING, "method", values.get("method", "svt"), path), values, source=str(path))


def load_evaluation(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> AnyEvaluation:
    """Read an evaluation recipe; its `kind` selects the class. Raises as `read_recipe`."""
    values = read_options(path, overrides)
    _check_command("evaluate", values, path)
    return build(_choose(EVALUATIONS, "kind", values.get("kind"), path), values, source=str(path))


def load_any(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PretrainRecipe | AnyOfNetwork:
    """Read any recipe; its `kind` or its `method` selects the class. Raises as `read_recipe`."""
    values = read_options(path, overrides)
    if "kind" in values:
        return build(_choose(KINDS, "kind", values["kind"], path), values, source=str(path))
    return build(_choose(PRETRAINING, "method", values.get("method", "svt"), path), values, source=str(path))


def _choose(classes: dict[str, type[T]], key: str, value: object, path: str | os.PathLike[str]) -> type[T]:
    """The class for a recipe's `method` or `kind`."""
    if not isinstance(value, str) or value not in classes:
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path}: {key} must be one of {', '.join(classes)}, got {got}; state it in the recipe")
    return classes[value]


def _check_command(expected: str, values: Mapping[str, Any], path: str | os.PathLike[str] | None) -> None:
    """Raise a ConfigError if the values are a recipe of another command than `expected`."""
    actual = _command_of(values.get("kind"))
    if "kind" not in values and values.keys() & {"method", *PRETRAINING}:
        actual = "pretrain"
    if actual not in (None, expected):
        raise ConfigError(f"{path} is a recipe of svt-zoo {actual}, not of svt-zoo {expected}")


def _command_of(kind: object) -> str | None:
    """The command that runs recipes of a kind; None for an unknown kind."""
    if not isinstance(kind, str) or kind not in KINDS:
        return None
    return "evaluate" if kind in EVALUATIONS else kind


def read_recipe(
    cls: type[T], path: str | os.PathLike[str] | None, overrides: Sequence[str] = (), **options: object
) -> T:
    """Read a recipe of the class `cls`, apply `key=value` overrides, such as `data.train=/videos`, and set `options`.

    `path` is a file, or the name of a recipe that comes with the package, such as "svt/vitb_k400"; None for defaults.
    `_BASE_: other.yaml` at the top of a recipe reads that file first; the recipe's own keys replace its values.

    Raises:
        ConfigError: a file that is not a recipe of this command, an unknown key, a wrong type, a value out of bounds.
    """
    values = {**read_options(path, overrides), **options}
    _check_command(_command_of(getattr(cls, "kind", None)) or "pretrain", values, path)
    return build(cls, values, source=str(path or "recipe"))


def __getattr__(name: str) -> Any:
    """Names that moved, for one release."""
    if home := _MOVED.get(name):
        warnings.warn(f"config.{name} is now {home}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(f".{home}", __package__), name)
    recipe = {"CPCOptimConfig": CPCRecipe, "FinetuneOptimConfig": FinetuneRecipe}.get(name)
    if recipe is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{name} is deprecated; use OptimConfig, or replace options of {recipe.__name__}().optim",
        DeprecationWarning,
        stacklevel=2,
    )
    return partial(replace, recipe().optim)
