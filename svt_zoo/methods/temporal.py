"""TIME: temporal losses (order of frames, motion of patches) besides classification or SVT.

Yun et al., "Time Is MattEr: Temporal Self-supervision for Video Transformers" (ICML 2022). docs/time.md lists the
differences from the authors' code; `permutation="batch"` and `flow_rule="relative"` reproduce it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone, Features
from ..options import bounds
from .classify import Classify, ClassifyConfig
from .method import Method, check_choices, full_precision
from .svt import SVT

Permutation = Literal["video", "batch"]
_OPPOSITES = (
    *(("left", "right"), ("up", "down"), ("upwards", "downwards"), ("top", "bottom"), ("forward", "backward")),
    *(("forwards", "backwards"), ("open", "close"), ("opening", "closing"), ("push", "pull"), ("pushing", "pulling")),
    *(("fold", "unfold"), ("folding", "unfolding"), ("covering", "uncovering"), ("entering", "leaving")),
)
NUM_DIRECTIONS = 9  # no motion, and eight sectors of 45 degrees


@dataclass(frozen=True)
class TemporalConfig:
    """Temporal losses besides the main one, whose weight is 1 (TIME, Yun et al. 2022); a weight of 0 is off.

    Attributes:
        order: weight of the loss on the position in time of each frame.
        low_confidence: weight of the loss that asks for uniform class probabilities of clips with shuffled frames.
        flow: weight of the loss on the direction in which each patch moves; needs OpenCV (pip install "svt-zoo[flow]").
        order_smoothing, flow_smoothing: fraction of the target that is spread evenly over all classes.
        order_of: "straight", as in the authors' code, predicts the position of frames in order, which the time
            embedding alone gives away; "shuffled" predicts the original position of shuffled frames. Where the same
            motion occurs in both directions, the latter has no answer and makes the features blind to direction.
        permutation: "video" draws a permutation per video, never the identity; "batch", as in the authors' code, draws
            one for the batch.
        flow_rule: "absolute": patches of the later frame, none below `flow_threshold`, before color augmentation.
            "relative", as in the authors' code: patches of the earlier frame, none below 1 % of the pair's range.
            docs/time.md lists the other differences.
        flow_threshold: pixels of the clip, from one frame to the next.
    """

    order: float = 0.0
    low_confidence: float = 0.0
    flow: float = 0.0
    order_smoothing: float = 0.2
    flow_smoothing: float = 0.2
    order_of: Literal["straight", "shuffled"] = "straight"
    permutation: Permutation = "video"
    flow_rule: Literal["absolute", "relative"] = "absolute"
    flow_threshold: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self)
        bounds(self, "order", "low_confidence", "flow", "flow_threshold", low=0)
        bounds(self, "order_smoothing", "flow_smoothing", low=0, high=1)

    @property
    def is_on(self) -> bool:
        """Whether any weight is above 0."""
        return bool(self.order or self.low_confidence or self.flow)


def reversed_classes(names: Sequence[str]) -> tuple[str, str] | None:
    """Two class names that differ only by opposite words, such as "move left" and "move right"; None without any."""
    known = {tuple(re.findall(r"[a-z]+", name.lower())): name for name in names}
    for words, name in known.items():
        for one, other in _OPPOSITES:
            swapped = tuple({one: other, other: one}.get(word, word) for word in words)
            if swapped != words and swapped in known:
                return name, known[swapped]
    return None


class TemporalTerms(nn.Module):
    """The temporal losses on one clip, for any backbone; a loss with weight 0 is not computed and has no head.

    A step in time is one index of T in `Features.patches`: a frame, or a tubelet of several frames. Shuffling keeps
    the frames of a step together. The flow between two steps is that from the last frame of one to the first frame of
    the next.

    Args:
        backbone: the heads read its patches.
        config: weights and options of the losses.
    """

    def __init__(self, backbone: Backbone, config: TemporalConfig) -> None:
        super().__init__()
        self.config = config
        self.weights = {"order": config.order, "low_confidence": config.low_confidence, "flow": config.flow}
        steps = getattr(backbone, "num_times", backbone.num_frames)  # a network of tubelets has fewer
        self.heads = TemporalHeads(backbone.embed_dim, steps, order=config.order > 0, flow=config.flow > 0)
        self._metrics: dict[str, float | Tensor] = {}

    def forward(
        self,
        backbone: Backbone,
        clip: Tensor,
        features: Features,
        targets: Mapping[str, Tensor],
        classifier: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses by name.

        Args:
            backbone: the network.
            clip: (B, 3, T, H, W), frames in order.
            features: the network's features of it.
            targets: for the flow loss, labels "flow" (B, T-1, N).
            classifier: for the low-confidence loss, class features (B, D) -> logits (B, K).

        Raises:
            ValueError: flow labels are missing or have another shape, or the clip has a single step in time.
        """
        losses: dict[str, Tensor] = {}
        self._metrics = {}
        if self.weights["flow"]:
            losses["flow"] = self._flow(features, clip.shape[2], targets)
        steps = features.patches.shape[1]
        ordered, positions = features, torch.arange(steps, device=clip.device).expand(len(clip), -1)
        if self.weights["low_confidence"] or (self.weights["order"] and self.config.order_of == "shuffled"):
            permutations = draw_permutations(len(clip), steps, clip.device, per=self.config.permutation)
            shuffled: Features = backbone(shuffle_steps(clip, permutations))
            if self.weights["low_confidence"]:
                if classifier is None:
                    raise ValueError("low_confidence needs a classifier; set temporal.low_confidence=0")
                losses["low_confidence"] = self._low_confidence(classifier(shuffled.cls))
            if self.config.order_of == "shuffled":
                ordered, positions = shuffled, permutations
        if self.weights["order"]:
            losses["order"] = self._order(ordered, positions)
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def _order(self, features: Features, positions: Tensor) -> Tensor:
        """Cross entropy of the position in time (B, T) of each step."""
        logits = full_precision(self.heads.order(features.patches))  # (B, T, T)
        self._metrics["order_top1"] = 100 * (logits.detach().argmax(dim=-1) == positions).float().mean()
        return F.cross_entropy(logits.flatten(0, 1), positions.flatten(), label_smoothing=self.config.order_smoothing)

    def _low_confidence(self, logits: Tensor) -> Tensor:
        """Cross entropy of logits (B, K) with the uniform distribution; its minimum is log K."""
        log = full_precision(logits).log_softmax(dim=-1)
        self._metrics["shuffled_confidence"] = log.detach().amax(dim=-1).exp().mean()
        return -log.mean()

    def _flow(self, features: Features, num_frames: int, targets: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of the directions."""
        batch, steps, patches, _ = features.patches.shape
        if "flow" not in targets:
            raise ValueError("the flow loss needs the target 'flow'; give the views FlowLabels, or set temporal.flow=0")
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
        return F.cross_entropy(logits.flatten(0, 2), labels.flatten(), label_smoothing=self.config.flow_smoothing)

    def metrics(self) -> dict[str, float | Tensor]:
        """Numbers of the last batch: `order_top1` (percent of steps), `flow_top1_moving` (percent of moving patches),
        `shuffled_confidence` (mean probability of the most likely class).
        """
        return dict(self._metrics)


class TemporalHeads(nn.Module):
    """Heads on the patches of any backbone.

    Parameters have TIME's names: `temp_head` for the order; `mlp_q`, `mlp_k`, `mlp_v`, `mlp_proj`, `mlp_norm` and
    `flow_head` for the flow.

    Args:
        embed_dim: width D of the patches.
        num_steps: largest number of steps in time.
        order, flow: which heads exist.
    """

    def __init__(self, embed_dim: int, num_steps: int, *, order: bool = True, flow: bool = True) -> None:
        super().__init__()
        if order:
            self.temp_head = nn.Linear(embed_dim, num_steps)
        if flow:
            self.mlp_q, self.mlp_k, self.mlp_v, self.mlp_proj = (nn.Linear(embed_dim, embed_dim) for _ in range(4))
            self.mlp_norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.flow_head = nn.Linear(embed_dim, NUM_DIRECTIONS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Not a fixed std such as the code's 0.02: in a narrow head, mlp_norm then divides by a tiny number.
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def order(self, patches: Tensor) -> Tensor:
        """Logits (B, T, T) of the position in time of each step of patches (B, T, N, D)."""
        steps = patches.shape[1]
        if steps > self.temp_head.out_features:
            raise ValueError(
                f"the order head has {self.temp_head.out_features} steps, the network outputs {steps} per clip; build "
                "the network with that num_frames, or use shorter clips"
            )
        return self.temp_head(patches.mean(dim=2))[..., :steps]

    def flow(self, patches: Tensor) -> Tensor:
        """Logits (B, T-1, N, 9) of the direction in which each patch moved, by attention to the previous step."""
        before, after = patches[:, :-1], patches[:, 1:]  # (B, T-1, N, D)
        attended = F.scaled_dot_product_attention(self.mlp_q(after), self.mlp_k(before), self.mlp_v(before))
        return self.flow_head(self.mlp_norm(self.mlp_proj(attended)))


class Temporal(Classify):
    """Classification with temporal losses, as TIME fine-tunes.

    Args:
        backbone: the network to train.
        num_classes: K.
        temporal: weights and options of the temporal losses.
        config: options of the classification loss; without mixup and cutmix.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, temporal: TemporalConfig, config: ClassifyConfig | None = None
    ) -> None:
        super().__init__(backbone, num_classes, config)
        self.terms = TemporalTerms(backbone, temporal)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The losses of a batch of one view (B, 3, T, H, W) with labels.

        Raises:
            ValueError: more than one view, a video without a label, or as `TemporalTerms.forward`.
        """
        views, labels = self.check(batch)
        if len(views) != 1:
            raise ValueError(f"temporal losses need one clip of a video, got {len(views)}; set views.slow_fast=false")
        features = self.backbone(views[0])
        loss = self.cross_entropy(features.cls, labels)
        terms = self.terms(self.backbone, views[0], features, batch.targets, self.classifier.head)
        return {"cross_entropy": loss, **terms}

    def metrics(self) -> dict[str, float | Tensor]:
        """The metrics of `Classify` and `TemporalTerms`."""
        return {**super().metrics(), **self.terms.metrics()}


class SVTTemporal(Method):
    """SVT's pre-training with the order and flow losses on the student's first view.

    Args:
        svt: the objective that owns the networks.
        temporal: weights and options; `low_confidence` must be 0, because there are no classes.
    """

    def __init__(self, svt: SVT, temporal: TemporalConfig) -> None:
        super().__init__()
        self.svt, self.terms = svt, TemporalTerms(svt.student.backbone, temporal)

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # an alias; a submodule would duplicate state-dict keys
        """The backbone that SVT exports: the teacher's."""
        return self.svt.backbone

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """SVT's loss and the temporal losses."""
        losses = self.svt(batch, epoch)
        student, clip = self.svt.student.backbone, batch.views[0]
        return {**losses, **self.terms(student, clip, student(clip), batch.targets)}

    def before_step(self, epoch: float) -> None:
        """As SVT."""
        self.svt.before_step(epoch)

    def after_step(self, epoch: float) -> None:
        """Calls SVT's."""
        self.svt.after_step(epoch)

    def metrics(self) -> dict[str, float | Tensor]:
        """The metrics of SVT and `TemporalTerms`."""
        return {**self.svt.metrics(), **self.terms.metrics()}


def draw_permutations(batch: int, steps: int, device: torch.device, *, per: Permutation) -> Tensor:
    """Random permutations of T steps (B, T): entry [b, t] is the step that moves to position t.

    They use torch's global generator of `device`, which a run seeds per process. With "video" a shift by one step
    replaces the identity, and all permutations are equally likely otherwise.
    """
    if steps < 2:
        raise ValueError(f"a clip needs at least 2 steps in time to be shuffled, got {steps}; use longer clips")
    identity = torch.arange(steps, device=device)
    if per == "batch":
        return torch.randperm(steps, device=device).expand(batch, -1)
    permutations = torch.rand(batch, steps, device=device).argsort(dim=1)  # (B, T)
    is_identity = (permutations == identity).all(dim=1, keepdim=True)
    return torch.where(is_identity, identity.roll(1), permutations)


def shuffle_steps(clip: Tensor, permutations: Tensor) -> Tensor:
    """Clip (B, C, T, H, W) with its steps permuted by `permutations` (B, steps); a step is T / steps frames."""
    num_frames, steps = clip.shape[2], permutations.shape[1]
    if num_frames % steps:
        raise ValueError(
            f"{num_frames} frames cannot be divided into {steps} equal steps in time; use another number of frames"
        )
    grouped = clip.unflatten(2, (steps, -1))  # (B, C, steps, T / steps, H, W)
    index = permutations[:, None, :, None, None, None].expand_as(grouped[:, :, :, :1, :1, :1])
    return grouped.take_along_dim(index, dim=2).flatten(2, 3)  # (B, C, T, H, W)
