"""Self-supervised Video Transformer (SVT): a student predicts the outputs of an EMA teacher for other views of a video.

Ranasinghe et al., "Self-supervised Video Transformer" (CVPR 2022), section 3.2. It is DINO's self-distillation (Caron
et al., ICCV 2021) with views that differ in time as well as in space.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..distributed import all_mean
from ..models import Backbone
from ..options import bounds
from ..schedules import cosine, warmup_epochs
from .method import Method, check_choices, check_views, full_precision, info_nce

Correspondence = Literal["local_to_global", "global_to_global", "global_to_local", "local_to_local"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class SVTConfig:
    """SVT's objective (SVT sections 3.2 and 3.3), with DINO's values where the paper gives none.

    Attributes:
        out_dim: number K of outputs (prototypes) of the projection head.
        hidden_dim, bottleneck_dim: widths inside the projection head.
        use_bn_in_head: batch normalization inside the projection head.
        norm_last_layer: keep the length of the head's prototypes at 1.
        correspondences: which pairs of views are compared (SVT table 4), the student's view first: any of
            local_to_global (cross-view), global_to_global (motion), global_to_local, local_to_local. Views in no pair
            are not computed.
        student_temp: temperature of the student's softmax.
        teacher_temp: temperature of the teacher's softmax.
        warmup_teacher_temp: temperature of the teacher's softmax at the start.
        warmup_teacher_temp_epochs: epochs over which it changes from `warmup_teacher_temp` to `teacher_temp`.
        center_momentum: weight of the old center in its running mean.
        momentum: weight of the old teacher in its running mean at the first step; a cosine over the run raises it to 1.
        freeze_last_layer: epochs at the start in which the head's prototypes are not trained.
        teacher_mode: "replica" applies the student's drop path in the teacher too, as in the paper and the released
            code; "eval" turns it off, as in DINO. Batch normalization uses batch statistics in both.
        contrast: weight at the first step of InfoNCE between the two global views of each video, among all videos of
            the batch; a cosine over the run changes it to `contrast_end`. It keeps the features of a few hundred videos
            apart. Ours; the paper has none.
        contrast_end: its weight at the last step.
        contrast_temp: temperature of InfoNCE.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    use_bn_in_head: bool = False
    norm_last_layer: bool = True
    correspondences: tuple[Correspondence, ...] = ("local_to_global", "global_to_global")
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    warmup_teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: int = 0
    center_momentum: float = 0.9
    momentum: float = 0.996
    freeze_last_layer: float = 1.0
    teacher_mode: Literal["replica", "eval"] = "replica"
    contrast: float = 0.0
    contrast_end: float = 0.0
    contrast_temp: float = 0.2

    def __post_init__(self) -> None:
        check_choices(self)
        bounds(self, "out_dim", "hidden_dim", "bottleneck_dim", low=1)
        bounds(self, "student_temp", "teacher_temp", "warmup_teacher_temp", above=0)
        bounds(self, "center_momentum", "momentum", low=0, high=1)
        bounds(self, "warmup_teacher_temp_epochs", "freeze_last_layer", low=0)
        bounds(self, "contrast", "contrast_end", low=0)
        bounds(self, "contrast_temp", above=0)
        allowed = get_args(Correspondence)
        if not self.correspondences or not set(self.correspondences) <= set(allowed):
            raise ValueError(f"correspondences must be one or more of {', '.join(allowed)}, got {self.correspondences}")


class SVT(Method):
    """SVT's pre-training: student, teacher, their heads and the center.

    The first `num_global` views of a batch are global, the others local; every view may have its own frames and size.
    The loss is the mean over all pairs of a teacher view and another student view. The exported network is the
    teacher's backbone.

    `metrics()` has `teacher_entropy` in nats, which is 0 or log K at the two collapses; `feature_std` of the unit
    features over the batch, 0 if all videos look the same; `feature_rank`, their effective rank; `center_norm`,
    `teacher_temp` and `momentum`.

    Args:
        backbone: student and teacher start as copies of it.
        config: options of the objective.
        epochs: epochs of the run, over which `config.momentum` rises to 1.
        num_global: number of global views.
    """

    center: Tensor

    def __init__(self, backbone: Backbone, config: SVTConfig | None = None, *, epochs: float, num_global: int = 2):
        super().__init__()
        self.config = config = config or SVTConfig()
        if num_global < (needed := 2 if config.contrast else 1):
            raise ValueError(f"num_global must be >= {needed}, got {num_global}")
        self.student = MultiViewNetwork(backbone, DINOHead(backbone.cls_dim, config))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, config.out_dim))
        self.epochs, self.num_global = epochs, num_global
        self._teacher_means: list[Tensor] = []  # (1, K) of each batch since the last step
        self.train()

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # an alias; a submodule would duplicate state-dict keys
        """The teacher's backbone, which DINO and SVT evaluate; to train it further, set `requires_grad_(True)`."""
        return self.teacher.backbone

    def train(self, mode: bool = True) -> "SVT":
        """Set the mode of all networks; the teacher follows `config.teacher_mode`."""
        super().train(mode)
        if self.config.teacher_mode == "eval":
            self.teacher.eval()
            for module in self.teacher.modules():
                if isinstance(module, _BATCH_NORMS):
                    # Running statistics lag behind the weights, batch statistics do not (as in BYOL and DINO).
                    module.train(mode)
        return self

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch of views (B, 3, T, H, W); in training mode it also collects the step's center."""
        views = check_views(batch, "SVT", self.num_global)
        pairs = view_pairs(len(views), self.num_global, self.config.correspondences)
        student_views, teacher_views = sorted({s for s, _ in pairs}), sorted({t for _, t in pairs})
        contrast = cosine(self.config.contrast, self.config.contrast_end, epoch / self.epochs)
        if contrast:
            student_views = sorted({0, 1, *student_views})
        seen, student = self.student([views[i] for i in student_views])
        with torch.no_grad():
            features, teacher = self.teacher([views[i] for i in teacher_views])
        positions = [(student_views.index(s), teacher_views.index(t)) for s, t in pairs]
        start, warmup = self.config.warmup_teacher_temp, self.config.warmup_teacher_temp_epochs
        temp = warmup_epochs(start, self.config.teacher_temp, epoch=epoch, warmup=warmup)  # constant within an epoch
        with torch.autocast(student.device.type, enabled=False):  # a softmax over 65,536 needs more than 16 bits
            student, teacher = student.to(self.center.dtype), teacher.to(self.center.dtype)
            targets = ((teacher - self.center) / temp).softmax(dim=-1)  # (V, B, K)
            loss = pairs_cross_entropy(student / self.config.student_temp, targets, positions)
        losses = {"svt": loss}
        if contrast:
            one, two = (self.student.head.mlp(seen[student_views.index(view)]) for view in (0, 1))  # each (B, d)
            losses["contrast"] = contrast * symmetric_info_nce(one, two, self.config.contrast_temp)
        if self.training:
            self._teacher_means.append(teacher.mean(dim=(0, 1)).unsqueeze(0))  # (1, K)
            unit = F.normalize(features.to(targets.dtype), dim=-1)  # (V, B, D)
            self._metrics = {
                "teacher_entropy": torch.special.entr(targets).sum(dim=-1).mean(),
                "feature_std": unit.std(dim=1, correction=0).mean(),
                "feature_rank": effective_rank(unit).mean(),
                "teacher_temp": temp,
            }
        return losses

    def before_step(self, epoch: float) -> None:
        """Remove the gradients of frozen prototypes; the optimizer then skips them, weight decay included."""
        if epoch < self.config.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, epoch: float) -> None:
        """Update the center with the mean teacher output over all processes, and the teacher with the new student."""
        if self._teacher_means:
            mean = all_mean(torch.stack(self._teacher_means).mean(dim=0))
            self.center.lerp_(mean, 1.0 - self.config.center_momentum)
            self._teacher_means.clear()
        momentum = self.momentum_at(epoch)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1.0 - momentum)
        self._metrics |= {"center_norm": self.center.norm(), "momentum": momentum}

    def momentum_at(self, epoch: float) -> float:
        """Weight of the old teacher in a step at `epoch`."""
        return cosine(self.config.momentum, 1.0, epoch / self.epochs)


class DINOHead(nn.Module):
    """An MLP to a unit vector, then its cosine similarity with each of K prototypes: (R, D) -> (R, K).

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), appendix C. Parameters have
    the names of the original: `mlp.0`, `mlp.2`, ..., `last_layer.weight_g`, `last_layer.weight_v`.

    Args:
        in_dim: width D of the features.
        config: number of prototypes, widths, normalization.
        num_layers: linear layers before the unit vector.
    """

    def __init__(self, in_dim: int, config: SVTConfig | None = None, *, num_layers: int = 3) -> None:
        super().__init__()
        config = config or SVTConfig()
        hidden_dim = config.hidden_dim
        if num_layers < 1:
            raise ValueError(f"num_layers must be >= 1, got {num_layers}")
        layers: list[nn.Module] = []
        for index in range(num_layers - 1):
            layers.append(nn.Linear(hidden_dim if index else in_dim, hidden_dim))
            layers += [nn.BatchNorm1d(hidden_dim), nn.GELU()] if config.use_bn_in_head else [nn.GELU()]
        last = nn.Linear(hidden_dim if layers else in_dim, config.bottleneck_dim)
        self.mlp = nn.Sequential(*layers, last) if layers else last
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = Prototypes(config.bottleneck_dim, config.out_dim, learn_length=not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (R, K) of features (R, D)."""
        x = self.mlp(x)  # (R, bottleneck_dim)
        # 1e-12 is 0 in half precision: a zero feature would become 0 / 0.
        return self.last_layer(F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12))


class Prototypes(nn.Module):
    """A linear layer without bias; each row is a direction `weight_v` times a length `weight_g`: (R, D) -> (R, K).

    It has plain parameters instead of torch's weight normalization: the names are the original's, and deepcopy works.
    """

    def __init__(self, in_dim: int, out_dim: int, *, learn_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=learn_length)
        self.weight_v = nn.Parameter(torch.empty(out_dim, in_dim))
        nn.init.uniform_(self.weight_v, -(in_dim**-0.5), in_dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Dot products (R, K) of x (R, D) with every prototype."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


def symmetric_info_nce(one: Tensor, two: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views (B, D) of B videos, by cosine similarity, averaged over both directions (SimCLR)."""
    one, two = (F.normalize(full_precision(view), dim=-1) for view in (one, two))
    directions = ((one / temperature, two), (two / temperature, one))
    return torch.stack([info_nce(a, b, rows_of_clip=1).loss for a, b in directions]).mean()


class MultiViewNetwork(nn.Module):
    """A backbone and a head for views of different shapes."""

    def __init__(self, backbone: Backbone, head: DINOHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (V, B, D) and logits (V, B, K) of V views (B, 3, T, H, W), in the order of the views.

        Views with the same (T, H, W) pass the backbone together.
        """
        groups: dict[torch.Size, list[int]] = {}
        for index, view in enumerate(views):
            groups.setdefault(view.shape[2:], []).append(index)
        features: list[Tensor] = [torch.empty(0)] * len(views)
        for group in groups.values():
            together = self.backbone(torch.cat([views[i] for i in group])).cls  # (len(group)*B, D)
            for index, of_view in zip(group, together.chunk(len(group)), strict=True):
                features[index] = of_view
        stacked = torch.stack(features)  # (V, B, D)
        logits = self.head(stacked.flatten(0, 1))  # (V*B, K)
        return stacked, logits.unflatten(0, stacked.shape[:2])


def view_pairs(num_views: int, num_global: int, correspondences: Iterable[Correspondence]) -> list[tuple[int, int]]:
    """The pairs (student view, teacher view) of `correspondences`, without pairs of a view with itself."""
    kinds = {"global": range(num_global), "local": range(num_global, num_views)}
    pairs = set()
    for name in correspondences:
        student, _, teacher = name.partition("_to_")
        pairs |= {(s, t) for s in kinds[student] for t in kinds[teacher] if s != t}
    if not pairs:
        raise ValueError(
            f"no pair of views for {', '.join(correspondences)} among {num_views} views with {num_global} global ones; "
            "change the number of views or the correspondences"
        )
    return sorted(pairs)


def pairs_cross_entropy(logits: Tensor, targets: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Mean cross entropy over `pairs` (student view, teacher view) of logits (V, B, K) with targets (U, B, K).

    SVT equations 2 and 3, with a mean instead of the sum, as in the released code.
    """
    # Cross entropy is linear in its target. Summing the targets of a view first needs one pass over K per view.
    loss = logits.new_zeros(())
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in sorted({student for student, _ in pairs}):
        sources = tuple(teacher for student, teacher in pairs if student == view)
        if sources not in sums:
            sums[sources] = torch.stack([targets[teacher] for teacher in sources]).sum(dim=0)  # (B, K)
        loss = loss + F.cross_entropy(logits[view], sums[sources])
    return loss / len(pairs)


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank (...) of features (..., B, D) over their batch: from 1 to B - 1, or 0 if all are equal.

    It is 1 / sum(p^2) for the eigenvalues of the covariance as fractions p of their sum: the exponential of their
    entropy of order two (Roy and Vetterli, EUSIPCO 2007). This equals (trace C)^2 / trace(C^2), without eigenvalues.
    """
    centered = features - features.mean(dim=-2, keepdim=True)
    gram = centered @ centered.mT  # (..., B, B), which has the eigenvalues of the covariance
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return trace.square() / gram.square().sum(dim=(-2, -1)).clamp(min=torch.finfo(gram.dtype).tiny)
