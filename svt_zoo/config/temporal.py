"""TIME's temporal terms as a section of a recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TemporalConfig:
    """Losses on time beside the main one, whose weight is 1 (TIME, Yun et al. 2022); a weight of 0 leaves one out.

    Attributes:
        order: weight of the place in time of each frame.
        low_confidence: weight of equally likely classes for a clip whose frames are shuffled.
        flow: weight of the direction in which each patch moves. Needs OpenCV: pip install "svt-zoo[flow]".
        order_smoothing, flow_smoothing: share of the target that is spread over all classes.
        order_of: "shuffled" asks for the original place of shuffled frames; "straight", of the authors' code, for that
            of frames in order, which the time table alone gives away.
        permutation: "video" draws an order for each video, never the straight one; "batch", of the authors' code, one
            for a whole batch.
        flow_rule: "absolute": patches of the later frame, none below `flow_threshold`, before colors change;
            "relative", of the authors' code: patches of the earlier frame, none below 1 % of the pair's own range. What
            else differs is in docs/time.md.
        flow_threshold: pixels of the clip, from a frame to the next.
    """

    order: float = 0.0
    low_confidence: float = 0.0
    flow: float = 0.0
    order_smoothing: float = 0.2
    flow_smoothing: float = 0.2
    order_of: Literal["shuffled", "straight"] = "shuffled"
    permutation: Literal["video", "batch"] = "video"
    flow_rule: Literal["absolute", "relative"] = "absolute"
    flow_threshold: float = 1.0

    def __post_init__(self) -> None:
        for name in ("order", "low_confidence", "flow", "flow_threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @property
    def is_on(self) -> bool:
        """Whether any term counts."""
        return bool(self.order or self.low_confidence or self.flow)
