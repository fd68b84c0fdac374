"""The objectives: networks, and the loss that trains them."""

from .classify import Classify
from .cpc import CPC
from .dino_head import DINOHead
from .method import Method
from .svt import SVT
from .temporal import SVTTemporal, Temporal, TemporalTerms

__all__ = ["CPC", "SVT", "Classify", "DINOHead", "Method", "SVTTemporal", "Temporal", "TemporalTerms"]
