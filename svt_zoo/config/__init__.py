"""Recipes: dataclasses of all options, and the strict loader from YAML.

The options of a method are the dataclass beside its code in `methods/`; those of the lists and views are in `data/`,
those of the optimizer in `training/optim.py`.
"""

from ..data.clips import FinetuneViewsConfig
from ..data.lists import DataConfig
from ..data.transforms import ClipConfig
from ..data.views import CPCViewsConfig, ViewsConfig
from ..evaluation.knn import KNNConfig
from ..evaluation.linear import LinearConfig
from ..evaluation.protocols import EvaluationRunConfig, MultiviewConfig
from ..evaluation.results import RepeatConfig, ReportConfig
from ..methods.classify import ClassifyConfig
from ..methods.cpc import CPCConfig
from ..methods.svt import SVTConfig
from ..methods.temporal import TemporalConfig
from ..training.optim import CPCOptimConfig, FinetuneOptimConfig, OptimConfig
from .find import find_recipe, list_recipes
from .options import ModelConfig, RunConfig
from .recipe import (
    EVALUATIONS,
    PRETRAINING,
    CPCRecipe,
    EvaluationRecipe,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    MultiviewRecipe,
    PretrainRecipe,
    Recipe,
    expand_repeats,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)
from .strict import ConfigError, build, current_names, describe, differences, flatten, to_dict, was_removed, with_added

__all__ = [
    "EVALUATIONS",
    "PRETRAINING",
    "CPCConfig",
    "CPCOptimConfig",
    "CPCRecipe",
    "CPCViewsConfig",
    "ClassifyConfig",
    "ClipConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationRecipe",
    "EvaluationRunConfig",
    "FinetuneOptimConfig",
    "FinetuneRecipe",
    "FinetuneViewsConfig",
    "KNNConfig",
    "KNNRecipe",
    "LinearConfig",
    "LinearRecipe",
    "ModelConfig",
    "MultiviewConfig",
    "MultiviewRecipe",
    "OptimConfig",
    "PretrainRecipe",
    "Recipe",
    "RepeatConfig",
    "ReportConfig",
    "RunConfig",
    "SVTConfig",
    "TemporalConfig",
    "ViewsConfig",
    "build",
    "current_names",
    "describe",
    "differences",
    "expand_repeats",
    "find_recipe",
    "flatten",
    "list_recipes",
    "load_any",
    "load_evaluation",
    "load_recipe",
    "read_recipe",
    "to_dict",
    "was_removed",
    "with_added",
]
