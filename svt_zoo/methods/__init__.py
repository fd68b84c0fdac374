"""Objectives: networks, and the losses that train them. The options of each are the dataclass beside it."""

from .classify import Classify, ClassifyConfig
from .cpc import CPC, CPCConfig
from .method import Method
from .svt import SVT, DINOHead, SVTConfig
from .temporal import SVTTemporal, Temporal, TemporalConfig, TemporalTerms

__all__ = [
    "CPC",
    "SVT",
    "CPCConfig",
    "Classify",
    "ClassifyConfig",
    "DINOHead",
    "Method",
    "SVTConfig",
    "SVTTemporal",
    "Temporal",
    "TemporalConfig",
    "TemporalTerms",
]
