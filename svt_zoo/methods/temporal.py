"""TIME: a classifier that is also asked for the order of frames and the motion of patches.

Yun et al., "Time Is MattEr: Temporal Self-supervision for Video Transformers" (ICML 2022). Where this differs from the
authors' code, and why, is in docs/time.md; `order_of="straight"` and `permutation="batch"` are theirs.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone, Features
from .classify import Classify, full_precision
from .method import Method
from .svt import SVT
from .temporal_heads import TemporalHeads

OrderOf = Literal["shuffled", "straight"]
Permutation = Literal["video", "batch"]


class TemporalTerms(nn.Module):
    """Three losses on one clip, for any backbone; one of weight 0 costs nothing and has no head.

    A step in time is what `Features.patches` has T of: a frame, or a tubelet of several frames. Frames are shuffled
    by whole steps, and the flow between two steps is that between the last frame of one and the first of the next.

    Args:
        backbone: whose patches the heads read.
        order: weight of "order": each step's place in time.
        low_confidence: weight of "low_confidence": on shuffled frames, the classes are equally likely.
        flow: weight of "flow": the direction in which each patch of a step has moved since the step before.
        order_smoothing, flow_smoothing: share of the target that is spread over all classes.
        order_of: "shuffled" asks for the original place of shuffled frames, of which position tables say nothing;
            "straight" for that of frames in order, which the time table alone gives away.
        permutation: "video" draws an order for each video, never the straight one; "batch" one for all, any.

    Raises:
        ValueError: a weight below 0, or a word that is not allowed.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        order: float = 1.0,
        low_confidence: float = 1.0,
        flow: float = 1.0,
        order_smoothing: float = 0.0,
        flow_smoothing: float = 0.0,
        order_of: OrderOf = "shuffled",
        permutation: Permutation = "video",
    ) -> None:
        super().__init__()
        if min(order, low_confidence, flow) < 0:
            raise ValueError(f"weights start at 0, got order={order}, low_confidence={low_confidence}, flow={flow}")
        if order_of not in get_args(OrderOf) or permutation not in get_args(Permutation):
            raise ValueError(
                f"order_of is one of {', '.join(get_args(OrderOf))} and permutation of "
                f"{', '.join(get_args(Permutation))}, got {order_of!r} and {permutation!r}"
            )
        self.weights = {"order": order, "low_confidence": low_confidence, "flow": flow}
        self.order_smoothing, self.flow_smoothing = order_smoothing, flow_smoothing
        self.order_of, self.permutation = order_of, permutation
        steps = getattr(backbone, "num_times", backbone.num_frames)  # a network of tubelets has fewer
        self.heads = TemporalHeads(backbone.embed_dim, steps, order=order > 0, flow=flow > 0)
        self._metrics: dict[str, float | Tensor] = {}

    def forward(
        self,
        backbone: Backbone,
        clip: Tensor,
        straight: Features,
        targets: Mapping[str, Tensor],
        classifier: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses by name.

        Args:
            backbone: the network.
            clip: (B, 3, T, H, W), frames in order.
            straight: what the network says of it.
            targets: for the flow, its labels "flow" (B, T-1, N).
            classifier: class features (B, D) -> logits (B, K), for low confidence.

        Raises:
            ValueError: flow labels are missing or of another shape, or the clip has a single step in time.
        """
        losses: dict[str, Tensor] = {}
        self._metrics = {}
        if self.weights["flow"]:
            losses["flow"] = self._flow(straight, clip.shape[2], targets)
        steps = straight.patches.shape[1]
        ordered, source = straight, torch.arange(steps, device=clip.device).expand(len(clip), -1)
        if self.weights["low_confidence"] or (self.weights["order"] and self.order_of == "shuffled"):
            places = draw_permutations(len(clip), steps, clip.device, per=self.permutation)
            shuffled: Features = backbone(shuffle_steps(clip, places))
            if self.weights["low_confidence"]:
                if classifier is None:
                    raise ValueError("low_confidence needs a classifier; set its weight to 0 where there is none")
                losses["low_confidence"] = self._low_confidence(classifier(shuffled.cls))
            if self.order_of == "shuffled":
                ordered, source = shuffled, places
        if self.weights["order"]:
            losses["order"] = self._order(ordered, source)
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def _order(self, features: Features, source: Tensor) -> Tensor:
        """Cross entropy of the place in time `source` (B, T) of each step."""
        logits = full_precision(self.heads.order(features.patches))  # (B, T, T)
        self._metrics["order_top1"] = 100 * (logits.detach().argmax(dim=-1) == source).float().mean()
        return F.cross_entropy(logits.flatten(0, 1), source.flatten(), label_smoothing=self.order_smoothing)

    def _low_confidence(self, logits: Tensor) -> Tensor:
        """Cross entropy of logits (B, K) with equal shares for all classes, log K at the least."""
        log = full_precision(logits).log_softmax(dim=-1)
        self._metrics["shuffled_confidence"] = log.detach().amax(dim=-1).exp().mean()
        return -log.mean()

    def _flow(self, features: Features, num_frames: int, targets: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of the directions."""
        batch, steps, patches, _ = features.patches.shape
        if "flow" not in targets:
            raise ValueError("the flow term needs the target 'flow'; give the views FlowLabels, or set its weight to 0")
        stride = num_frames // steps
        labels = targets["flow"][:, stride - 1 :: stride].long()  # (B, steps-1, N)
        if labels.shape != (batch, steps - 1, patches):
            raise ValueError(
                f"flow labels must be ({batch}, {num_frames - 1}, {patches}) for {num_frames} frames in {steps} steps "
                f"of {patches} patches, got {tuple(targets['flow'].shape)}; make them with the network's patch_size"
            )
        logits = full_precision(self.heads.flow(features.patches))  # (B, steps-1, N, 9)
        moving = labels > 0
        hits = (logits.detach().argmax(dim=-1) == labels) & moving
        self._metrics["flow_top1_moving"] = 100 * hits.sum() / moving.sum().clamp(min=1)
        return F.cross_entropy(logits.flatten(0, 2), labels.flatten(), label_smoothing=self.flow_smoothing)

    def metrics(self) -> dict[str, float | Tensor]:
        """Of the last batch: `order_top1` (percent of steps), `flow_top1_moving` (percent of the patches that move),
        `shuffled_confidence` (mean share of the likeliest class).
        """
        return dict(self._metrics)


class Temporal(Classify):
    """Cross entropy of the class, and the temporal terms: what TIME fine-tunes with.

    Args:
        backbone: any network of the zoo's contract.
        num_classes: K.
        terms: on the same backbone.
        label_smoothing: of the class.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, terms: TemporalTerms, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(backbone, num_classes, label_smoothing=label_smoothing)
        self.terms = terms

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The losses of a batch of one view (B, 3, T, H, W) with labels.

        Raises:
            ValueError: more than one view, a video without a label, or as of `TemporalTerms`.
        """
        views, labels = self.check(batch)
        if len(views) != 1:
            raise ValueError(f"Temporal takes one clip of a video, got {len(views)}; set views.slow_fast=false")
        straight = self.backbone(views[0])
        loss = self.cross_entropy(straight.cls, labels)
        return {
            "cross_entropy": loss,
            **self.terms(self.backbone, views[0], straight, batch.targets, self.classifier.head),
        }

    def metrics(self) -> dict[str, float | Tensor]:
        """Those of `Classify` and of `TemporalTerms`."""
        return {**super().metrics(), **self.terms.metrics()}


class SVTTemporal(Method):
    """SVT's pre-training with the temporal terms that need no labels, on the student's first view.

    Args:
        svt: the objective that owns the networks.
        terms: on the student's backbone, without low confidence.
    """

    def __init__(self, svt: SVT, terms: TemporalTerms) -> None:
        super().__init__()
        self.svt, self.terms = svt, terms

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # a name for SVT's, not a second copy of its keys
        """What SVT exports: the teacher's backbone."""
        return self.svt.backbone

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """SVT's loss and the temporal ones."""
        losses = self.svt(batch, epoch)
        student, clip = self.svt.student.backbone, batch.views[0]
        return {**losses, **self.terms(student, clip, student(clip), batch.targets)}

    def before_step(self, epoch: float) -> None:
        """As SVT."""
        self.svt.before_step(epoch)

    def after_step(self, epoch: float) -> None:
        """As SVT."""
        self.svt.after_step(epoch)

    def metrics(self) -> dict[str, float | Tensor]:
        """Those of both."""
        return {**self.svt.metrics(), **self.terms.metrics()}


def draw_permutations(batch: int, steps: int, device: torch.device, *, per: Permutation) -> Tensor:
    """Orders of T steps (B, T): entry [b, t] is the step that comes to place t.

    Drawn by torch's global generator of `device`, which a run seeds by its rank. Per video they are all equally likely,
    but in place of the straight one, 1 in T! draws, all steps move on by one.

    Raises:
        ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"the order of {steps} step in time cannot change; show the network longer clips")
    straight = torch.arange(steps, device=device)
    if per == "batch":
        return torch.randperm(steps, device=device).expand(batch, -1)
    drawn = torch.rand(batch, steps, device=device).argsort(dim=1)  # (B, T)
    same = (drawn == straight).all(dim=1, keepdim=True)
    return torch.where(same, straight.roll(1), drawn)


def shuffle_steps(clip: Tensor, places: Tensor) -> Tensor:
    """Clip (B, C, T, H, W) with its steps in the order `places` (B, steps); a step is T / steps frames, kept together.

    Raises:
        ValueError: T is no multiple of the number of steps.
    """
    num_frames, steps = clip.shape[2], places.shape[1]
    if num_frames % steps:
        raise ValueError(f"{num_frames} frames do not make {steps} equal steps in time; show the network other clips")
    grouped = clip.unflatten(2, (steps, -1))  # (B, C, steps, T / steps, H, W)
    index = places[:, None, :, None, None, None].expand_as(grouped[:, :, :, :1, :1, :1])
    return grouped.take_along_dim(index, dim=2).flatten(2, 3)  # (B, C, T, H, W)
