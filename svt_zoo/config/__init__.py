"""Recipes: dataclasses of all options, and the strict loader from YAML."""

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

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
from ..options import ConfigError, build, describe, find_recipe, flatten, list_recipes, to_dict
from ..training.optim import OptimConfig, RunConfig
from .recipe import (
    EVALUATIONS,
    PRETRAINING,
    CPCRecipe,
    EvaluationRecipe,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    ModelConfig,
    MultiviewRecipe,
    PretrainRecipe,
    Recipe,
    expand_repeats,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)

__all__ = [
    "EVALUATIONS",
    "PRETRAINING",
    "CPCConfig",
    "CPCRecipe",
    "CPCViewsConfig",
    "ClassifyConfig",
    "ClipConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationRecipe",
    "EvaluationRunConfig",
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
    "describe",
    "expand_repeats",
    "find_recipe",
    "flatten",
    "list_recipes",
    "load_any",
    "load_evaluation",
    "load_recipe",
    "read_recipe",
    "to_dict",
]


def __getattr__(name: str) -> Any:
    recipe = {"CPCOptimConfig": CPCRecipe, "FinetuneOptimConfig": FinetuneRecipe}.get(name)
    if recipe is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{name} is deprecated; use OptimConfig, or replace options of {recipe.__name__}().optim",
        DeprecationWarning,
        stacklevel=2,
    )
    return partial(replace, recipe().optim)
