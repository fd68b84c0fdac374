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
    """What makes the labels of the flow term, if it counts.

    Raises:
        ConfigError: OpenCV is asked for and not installed.
    """
    if not temporal.flow:
        return None
    try:
        return FlowLabels(
            patch_size, method=temporal.flow_method, rule=temporal.flow_rule, threshold=temporal.flow_threshold
        )
    except ImportError as error:
        raise ConfigError(f"temporal.flow_method={temporal.flow_method}: {error}") from error
