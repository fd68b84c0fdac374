"""Supervised training: a backbone and a linear layer learn the labels, to fine-tune or from scratch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..models import Backbone, Classifier
from .method import Method, check_views


class Classify(Method):
    """Cross entropy of a linear layer on the class feature, which is the mean over all views of a video.

    With one slow and one fast clip as views, that mean is SVT's slow-fast fine-tuning (SVT section 3.4). Mixup and
    cutmix mix whole clips: all frames of a clip with one weight, or in one box.

    Args:
        backbone: any network of the zoo's contract.
        num_classes: K.
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of mixup's Beta distribution (Zhang et al. 2018); 0 is none.
        cutmix: alpha of cutmix's (Yun et al. 2019); 0 is none. With both, each batch draws one of them.

    Raises:
        ValueError: a number that is out of its range.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing (classify.label_smoothing) lies in 0 to 1, got {label_smoothing}")
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixup and cutmix (classify) start at 0, got mixup={mixup}, cutmix={cutmix}")
        self.classifier = Classifier(backbone, num_classes)
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.mixers = _mixers(num_classes, mixup, cutmix)
        self._metrics: dict[str, float | Tensor] = {}

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # a name for the classifier's, not a second copy of its keys
        """The network below the linear layer."""
        return self.classifier.backbone

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch of views (B, 3, T, H, W) with labels.

        Raises:
            ValueError: a video without a label, or a label that is no class (on a CPU; on a GPU the loss refuses it).
        """
        views, labels = self.check(batch)
        if self.training and self.mixers:
            views, labels = self._mixed(views, labels)
        features = torch.stack([self.backbone(view).cls for view in views]).mean(dim=0)  # (B, D)
        return {"cross_entropy": self.cross_entropy(features, labels)}

    def check(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The views and labels of a batch.

        Raises:
            ValueError: a video without a label, or a label that is no class (on a CPU; on a GPU the loss refuses it).
        """
        views = check_views(batch, "Classify", 1)
        labels = batch.labels
        # On a GPU a look would wait for it, in every step; there the cross-entropy refuses such labels.
        if (
            labels.device.type == "cpu"
            and labels.numel()
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            raise ValueError(
                f"Classify: labels must lie in 0 to {self.num_classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())} (-1 is a video without a label); give data.train a list with labels"
            )
        return views, labels

    def cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Of the linear layer on features (B, D), with labels (B,) or shares (B, K)."""
        logits = full_precision(self.classifier.head(features))  # (B, K)
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self._metrics = {"train_top1": 100 * (logits.detach().argmax(dim=1) == classes).float().mean()}
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _mixed(self, views: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Views and labels after mixup or cutmix: the labels become shares (B, K)."""
        from torchvision.tv_tensors import Video

        mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
        *mixed, shares = mixer(*(Video(view) for view in views), labels)
        return [view.as_subclass(Tensor) for view in mixed], shares

    def metrics(self) -> dict[str, float | Tensor]:
        """Of the last batch: `train_top1` in percent; with mixup or cutmix, of the class with the larger share."""
        return dict(self._metrics)


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32 at least: a cross entropy is no place for 16 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _mixers(num_classes: int, mixup: float, cutmix: float) -> list[Any]:
    """Torchvision's mixup and cutmix, of those that are on."""
    if not (mixup or cutmix):
        return []
    from torchvision.transforms import v2  # asked for: most runs mix nothing

    options: dict[str, Any] = {"num_classes": num_classes, "labels_getter": _last}
    mixers: list[Any] = [v2.MixUp(alpha=mixup, **options)] if mixup else []
    return mixers + ([v2.CutMix(alpha=cutmix, **options)] if cutmix else [])


def _last(inputs: Sequence[Any]) -> Tensor:
    """The labels, which stand behind all views."""
    labels: Tensor = inputs[-1]
    return labels
