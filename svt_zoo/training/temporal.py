"""From the section `temporal` of a recipe to its losses and its flow labels."""

from ..config import ConfigError, TemporalConfig
from ..data.flow import FlowLabels
from ..methods import TemporalTerms
from ..models import Backbone


def build_terms(temporal: TemporalConfig, backbone: Backbone) -> TemporalTerms:
    """The temporal losses on `backbone`."""
    return TemporalTerms(
        backbone,
        order=temporal.order,
        low_confidence=temporal.low_confidence,
        flow=temporal.flow,
        order_smoothing=temporal.order_smoothing,
        flow_smoothing=temporal.flow_smoothing,
        order_of=temporal.order_of,
        permutation=temporal.permutation,
    )


def build_flow(temporal: TemporalConfig, patch_size: int) -> FlowLabels | None:
    """Makes the labels of the flow term; None if its weight is 0.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if not temporal.flow:
        return None
    try:
        return FlowLabels(patch_size, rule=temporal.flow_rule, threshold=temporal.flow_threshold)
    except ImportError as error:
        raise ConfigError(f"temporal.flow={temporal.flow}: {error}, or set temporal.flow=0") from error
