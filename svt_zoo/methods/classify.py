"""Supervised training of a backbone and a linear layer: fine-tuning, or training from scratch."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..models import Backbone, Classifier
from ..options import bounds
from .method import Method, check_views, full_precision


@dataclass(frozen=True)
class ClassifyConfig:
    """Cross entropy; its regularization is not in the SVT paper and is off by default.

    Attributes:
        label_smoothing: fraction of the target that is spread evenly over all classes.
        mixup: alpha of mixup's Beta distribution (Zhang et al. 2018); 0 is off. With `cutmix`, each batch draws one of
            the two.
        cutmix: alpha of cutmix's Beta distribution (Yun et al. 2019), with the same box in all frames; 0 is off.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        bounds(self, "label_smoothing", "mixup", "cutmix", low=0)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be < 1, got {self.label_smoothing}")


class Classify(Method):
    """Cross entropy of a linear layer on the class feature, averaged over all views of a video.

    With one slow and one fast clip as views, this is SVT's slow-fast fine-tuning (SVT section 3.4). Mixup and cutmix
    use one weight or one box for all frames of a clip. `metrics()` has `train_top1` of the last batch in percent; after
    mixup or cutmix, it is that of the class with the larger weight.

    Args:
        backbone: the network to train.
        num_classes: K.
        config: options of the objective.
    """

    def __init__(self, backbone: Backbone, num_classes: int, config: ClassifyConfig | None = None) -> None:
        super().__init__()
        self.config = config or ClassifyConfig()
        self.classifier = Classifier(backbone, num_classes)
        self.num_classes = num_classes
        self.mixers = _mixers(num_classes, self.config)

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # an alias; a submodule would duplicate state-dict keys
        """The network below the linear layer."""
        return self.classifier.backbone

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch of views (B, 3, T, H, W) with labels. Raises as `check`."""
        views, labels = self.check(batch)
        if self.training and self.mixers:
            views, labels = self._mixed(views, labels)
        features = torch.stack([self.backbone(view).cls for view in views]).mean(dim=0)  # (B, D)
        return {"cross_entropy": self.cross_entropy(features, labels)}

    def check(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The views and labels of a batch.

        Raises:
            ValueError: a label outside of 0 to K - 1 (checked on a CPU; on a GPU the loss raises an error).
        """
        views = check_views(batch, "Classify", 1)
        labels = batch.labels
        # Reading labels on a GPU would synchronize in every step.
        if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < self.num_classes)).all()):
            raise ValueError(
                f"Classify: labels must lie in 0 to {self.num_classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())} (-1 is a video without a label); give data.train a list with labels"
            )
        return views, labels

    def cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss of the linear layer on features (B, D), with labels (B,) or class weights (B, K)."""
        logits = full_precision(self.classifier.head(features))  # (B, K)
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self._metrics = {"train_top1": 100 * (logits.detach().argmax(dim=1) == classes).float().mean()}
        return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def _mixed(self, views: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Views and class weights (B, K) after mixup or cutmix."""
        from torchvision.tv_tensors import Video

        mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
        *mixed, weights = mixer(*(Video(view) for view in views), labels)
        return [view.as_subclass(Tensor) for view in mixed], weights


def _mixers(num_classes: int, config: ClassifyConfig) -> list[Any]:
    """Torchvision's mixup and cutmix, if they are on."""
    if not (config.mixup or config.cutmix):
        return []
    from torchvision.transforms import v2  # imported late: most runs use neither

    options: dict[str, Any] = {"num_classes": num_classes, "labels_getter": itemgetter(-1)}  # labels follow all views
    kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
    return [kind(alpha=alpha, **options) for kind, alpha in kinds if alpha]
