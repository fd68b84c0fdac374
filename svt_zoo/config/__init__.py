"""Every option of a run as frozen dataclasses, and the strict loader of recipes (YAML) into them."""

from .cpc import CPCConfig, CPCOptimConfig, CPCRecipe, CPCViewsConfig
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
from .find import find_recipe, list_recipes
from .finetune import ClassifyConfig, FinetuneOptimConfig, FinetuneRecipe, FinetuneViewsConfig
from .options import DataConfig, ModelConfig, OptimConfig, RunConfig, SVTConfig, ViewsConfig
from .recipe import (
    EVALUATIONS,
    PRETRAINING,
    PretrainRecipe,
    Recipe,
    describe,
    load_any,
    load_evaluation,
    load_recipe,
    read_recipe,
)
from .repeat import cases
from .strict import ConfigError, build, current_names, differences, flatten, to_dict, was_removed
from .temporal import TemporalConfig

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
    "cases",
    "current_names",
    "describe",
    "differences",
    "find_recipe",
    "flatten",
    "list_recipes",
    "load_any",
    "load_evaluation",
    "load_recipe",
    "read_recipe",
    "to_dict",
    "was_removed",
]
