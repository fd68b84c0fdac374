"""Every option of a run as frozen dataclasses, and the strict loader of recipes (YAML) into them."""

from .evaluation import (
    ClipConfig,
    EvaluationRecipe,
    EvaluationRunConfig,
    KNNConfig,
    KNNRecipe,
    LinearConfig,
    LinearRecipe,
    MultiviewConfig,
    MultiviewRecipe,
    RepeatConfig,
    ReportConfig,
)
from .finetune import ClassifyConfig, FinetuneOptimConfig, FinetuneRecipe, FinetuneViewsConfig
from .options import DataConfig, ModelConfig, OptimConfig, RunConfig, SVTConfig, ViewsConfig
from .recipe import Recipe, describe, load_recipe, read_recipe
from .repeat import cases
from .strict import ConfigError, build, differences, flatten, to_dict

__all__ = [
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
    "Recipe",
    "RepeatConfig",
    "ReportConfig",
    "RunConfig",
    "SVTConfig",
    "ViewsConfig",
    "build",
    "cases",
    "describe",
    "differences",
    "flatten",
    "load_recipe",
    "read_recipe",
    "to_dict",
]
