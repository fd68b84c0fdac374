"""Self-supervised Video Transformer: a student matches, over views of a video, what a slower teacher says.

Ranasinghe et al., "Self-supervised Video Transformer" (CVPR 2022), section 3.2, which is DINO's self-distillation
(Caron et al., ICCV 2021) with views that differ in time as well as in space.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..distributed import all_mean
from ..models import Backbone
from ..schedules import cosine, warmup_epochs
from .dino_head import DINOHead
from .method import Method, check_views

Correspondence = Literal["local_to_global", "global_to_global", "global_to_local", "local_to_local"]
TeacherMode = Literal["eval", "replica"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SVT(Method):
    """SVT's pre-training: student, teacher, their heads and the center.

    The first `num_global` views of a batch are global, the others local; frames and sizes may differ from view to
    view. The loss is the mean over all pairs of a teacher's view and another view of the student's. What is exported is
    the teacher's backbone.

    Args:
        backbone: any network of the zoo's contract; student and teacher start as copies of it.
        epochs: epochs of the run, over which `momentum` grows to 1.
        out_dim, hidden_dim, bottleneck_dim, use_bn_in_head, norm_last_layer: see `DINOHead`.
        num_global: how many of the views are global.
        correspondences: which pairs count (SVT table 4), student's view first: "local_to_global" predicts the teacher's
            global views from local ones, the paper's cross-view correspondence; "global_to_global" one global view from
            another with a different frame rate, its motion correspondence; the two whose teacher sees local views are
            the ablations. Views in no pair are not computed.
        student_temp: temperature of the student's softmax.
        teacher_temp: temperature of the teacher's, which grows from `warmup_teacher_temp` over the first
            `warmup_teacher_temp_epochs` epochs.
        center_momentum: share of the old center that stays in a step.
        momentum: share of the teacher that stays in the first step; a cosine over the run leads to 1.
        freeze_last_layer: epochs at the start in which the prototypes do not move.
        teacher_mode: "replica" (paper and released code) has the student's drop path in the teacher, too; "eval" has
            none, as DINO. Batch normalization uses the batch's statistics in both, as the student does.
    """

    center: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        epochs: float,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        use_bn_in_head: bool = False,
        norm_last_layer: bool = True,
        num_global: int = 2,
        correspondences: Sequence[Correspondence] = ("local_to_global", "global_to_global"),
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        warmup_teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 0,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        freeze_last_layer: float = 1.0,
        teacher_mode: TeacherMode = "replica",
    ) -> None:
        super().__init__()
        if teacher_mode not in get_args(TeacherMode):
            raise ValueError(f"teacher_mode must be one of {', '.join(get_args(TeacherMode))}, got {teacher_mode!r}")
        if num_global < 1:
            raise ValueError(f"SVT needs num_global >= 1 global views for its teacher, got {num_global}")
        _check_correspondences(correspondences)
        head = DINOHead(
            backbone.cls_dim,
            out_dim,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
            use_bn=use_bn_in_head,
            norm_last_layer=norm_last_layer,
        )
        self.student = MultiViewNetwork(backbone, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, out_dim))
        self.epochs, self.num_global, self.correspondences = epochs, num_global, tuple(correspondences)
        self.student_temp, self.teacher_temp = student_temp, teacher_temp
        self.warmup_teacher_temp, self.warmup_teacher_temp_epochs = warmup_teacher_temp, warmup_teacher_temp_epochs
        self.center_momentum, self.momentum = center_momentum, momentum
        self.freeze_last_layer, self.teacher_mode = freeze_last_layer, teacher_mode
        self._teacher_means: list[Tensor] = []  # (1, K) of each batch since the last step
        self._metrics: dict[str, float | Tensor] = {}
        self.train()

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # a name for the teacher's, not a second copy of its keys
        """The teacher's backbone: what DINO and SVT evaluate."""
        return self.teacher.backbone

    def train(self, mode: bool = True) -> "SVT":
        """Set the mode of all networks; the teacher follows `teacher_mode`."""
        super().train(mode)
        if self.teacher_mode == "eval":
            self.teacher.eval()
            for module in self.teacher.modules():
                if isinstance(module, _BATCH_NORMS):
                    # Running statistics lag behind the weights; those of the batch do not (BYOL and DINO do so too).
                    module.train(mode)
        return self

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch of views (B, 3, T, H, W); in training mode the step's centre is taken note of."""
        views = check_views(batch, "SVT", self.num_global)
        pairs = view_pairs(len(views), self.num_global, self.correspondences)
        student_views, teacher_views = sorted({s for s, _ in pairs}), sorted({t for _, t in pairs})
        _, student = self.student([views[i] for i in student_views])
        with torch.no_grad():
            features, teacher = self.teacher([views[i] for i in teacher_views])
        places = [(student_views.index(s), teacher_views.index(t)) for s, t in pairs]
        temp = self.teacher_temp_at(epoch)
        with torch.autocast(student.device.type, enabled=False):  # a softmax over 65,536 is no place for 16 bits
            student, teacher = student.to(self.center.dtype), teacher.to(self.center.dtype)
            targets = ((teacher - self.center) / temp).softmax(dim=-1)  # (V, B, K)
            loss = pairs_cross_entropy(student / self.student_temp, targets, places)
        if self.training:
            self._teacher_means.append(teacher.mean(dim=(0, 1)).unsqueeze(0))  # (1, K)
            unit = F.normalize(features.to(targets.dtype), dim=-1)  # (V, B, D)
            self._metrics = {
                "teacher_entropy": torch.special.entr(targets).sum(dim=-1).mean(),
                "feature_std": unit.std(dim=1, correction=0).mean(),
                "feature_rank": effective_rank(unit).mean(),
                "teacher_temp": temp,
            }
        return {"svt": loss}

    def before_step(self, epoch: float) -> None:
        """While the prototypes are frozen, take their gradients away: the optimiser then skips them, decay and all."""
        if epoch < self.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, epoch: float) -> None:
        """Move the centre to the mean of what the teacher said, on all ranks, and the teacher to the new student."""
        if self._teacher_means:
            mean = all_mean(torch.stack(self._teacher_means).mean(dim=0))
            self.center.lerp_(mean, 1.0 - self.center_momentum)
            self._teacher_means.clear()
        momentum = self.momentum_at(epoch)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1.0 - momentum)
        self._metrics |= {"center_norm": self.center.norm(), "momentum": momentum}

    def teacher_temp_at(self, epoch: float) -> float:
        """The teacher's temperature, the same for all steps of an epoch."""
        return warmup_epochs(
            self.warmup_teacher_temp, self.teacher_temp, epoch=epoch, warmup=self.warmup_teacher_temp_epochs
        )

    def momentum_at(self, epoch: float) -> float:
        """Share of the teacher that stays in a step."""
        return cosine(self.momentum, 1.0, epoch / self.epochs)

    def metrics(self) -> dict[str, float | Tensor]:
        """Of the last step: entropy in nats of the teacher's targets (0 and log K are the two collapses), deviation of
        its unit features over the batch (0: all videos look the same), their effective rank (1: they differ along one
        line), norm of the center, temperature, momentum.
        """
        return dict(self._metrics)


class MultiViewNetwork(nn.Module):
    """A backbone and a head, over views of any shapes."""

    def __init__(self, backbone: Backbone, head: DINOHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (V, B, D) and logits (V, B, K) of V views (B, 3, T, H, W), in their order.

        Views of one (T, H, W) go through the backbone together.
        """
        groups: dict[torch.Size, list[int]] = {}
        for index, view in enumerate(views):
            groups.setdefault(view.shape[2:], []).append(index)
        features: list[Tensor] = [torch.empty(0)] * len(views)
        for group in groups.values():
            together = self.backbone(torch.cat([views[i] for i in group])).cls  # (len(group)*B, D)
            for index, part in zip(group, together.chunk(len(group)), strict=True):
                features[index] = part
        stacked = torch.stack(features)  # (V, B, D)
        logits = self.head(stacked.flatten(0, 1))  # (V*B, K)
        return stacked, logits.unflatten(0, stacked.shape[:2])


def view_pairs(num_views: int, num_global: int, correspondences: Iterable[Correspondence]) -> list[tuple[int, int]]:
    """The pairs (student's view, teacher's view) that `correspondences` name, no view with itself.

    Raises:
        ValueError: there is none.
    """
    kinds = {"global": range(num_global), "local": range(num_global, num_views)}
    pairs = set()
    for name in correspondences:
        student, _, teacher = name.partition("_to_")
        pairs |= {(s, t) for s in kinds[student] for t in kinds[teacher] if s != t}
    if not pairs:
        raise ValueError(
            f"SVT finds no pair of views for {', '.join(correspondences)} among {num_views} views of which "
            f"{num_global} are global; change the number of views or the correspondences"
        )
    return sorted(pairs)


def pairs_cross_entropy(logits: Tensor, targets: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Mean over `pairs` (student's view, teacher's view) of the cross entropy of logits (V, B, K), targets (U, B, K).

    SVT equations 2 and 3, with the mean for the sum, as the released code has it.
    """
    # Cross entropy is linear in its target, so the targets of a view are added first: one pass over K for each view.
    loss = logits.new_zeros(())
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in sorted({student for student, _ in pairs}):
        sources = tuple(teacher for student, teacher in pairs if student == view)
        if sources not in sums:
            sums[sources] = torch.stack([targets[teacher] for teacher in sources]).sum(dim=0)  # (B, K)
        loss = loss + F.cross_entropy(logits[view], sums[sources])
    return loss / len(pairs)


def effective_rank(features: Tensor) -> Tensor:
    """In how many directions features (..., B, D) differ over their batch: (...), from 1 to B - 1; 0 if they are equal.

    Of the covariance's eigenvalues as shares p, exp of their entropy (Roy and Vetterli, "The effective rank", EUSIPCO
    2007) of order two, 1 / sum(p^2), which needs no eigenvalues: (trace C)^2 / trace(C^2).
    """
    centred = features - features.mean(dim=-2, keepdim=True)
    gram = centred @ centred.mT  # (..., B, B): the covariance's eigenvalues, in a matrix of the batch's size
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return trace.square() / gram.square().sum(dim=(-2, -1)).clamp(min=torch.finfo(gram.dtype).tiny)


def _check_correspondences(correspondences: Sequence[str]) -> None:
    allowed = get_args(Correspondence)
    for name in correspondences:
        if name not in allowed:
            raise ValueError(f"correspondences are any of {', '.join(allowed)}, got {name!r}")
    if not correspondences:
        raise ValueError(f"SVT needs at least one correspondence: any of {', '.join(allowed)}")
