"""The objectives: networks, and the loss that trains them."""

from .classify import Classify
from .dino_head import DINOHead
from .method import Method
from .svt import SVT

__all__ = ["SVT", "Classify", "DINOHead", "Method"]
