"""MixUp and CutMix of batches of clips (B, C, T, H, W) with their labels."""

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from .clips import convert_to_one_hot


class MixUp(nn.Module):
    """Blends each clip with its counterpart from the other end of the batch (mixup, arXiv:1710.09412).

    Args:
        alpha: the share of a clip is drawn from Beta(alpha, alpha), once a batch.
        label_smoothing: share of each label that is spread over all classes.
        num_classes: length of a label row.
    """

    def __init__(self, alpha: float = 1.0, label_smoothing: float = 0.0, num_classes: int = 400) -> None:
        super().__init__()
        self.mixup_beta_sampler = Beta(alpha, alpha)
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix clips (B, ...) and labels (B,) into clips (B, ...) and rows (B, num_classes). `x` is left alone."""
        _check_batch(x, "MixUp")
        share = float(self.mixup_beta_sampler.sample())
        mixed = x * share + x.flip(0) * (1 - share)
        return mixed, _mix_labels(labels, self.num_classes, share, self.label_smoothing)


class CutMix(nn.Module):
    """Pastes a box of each clip's counterpart over all its frames (CutMix, arXiv:1905.04899).

    Args:
        alpha: the share of a clip that stays is drawn from Beta(alpha, alpha), once a batch.
        label_smoothing: share of each label that is spread over all classes.
        num_classes: length of a label row.
    """

    def __init__(self, alpha: float = 1.0, label_smoothing: float = 0.0, num_classes: int = 400) -> None:
        super().__init__()
        self.cutmix_beta_sampler = Beta(alpha, alpha)
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix clips (B, ...) and labels (B,) into clips (B, ...) and rows (B, num_classes). `x` is left alone."""
        _check_batch(x, "CutMix")
        height, width = x.shape[-2:]
        side = (1 - float(self.cutmix_beta_sampler.sample())) ** 0.5
        top, bottom = _random_span(height, int(height * side))
        left, right = _random_span(width, int(width * side))
        mixed = x.clone()
        mixed[..., top:bottom, left:right] = x.flip(0)[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # what the edges of the frame left of it
        return mixed, _mix_labels(labels, self.num_classes, share, self.label_smoothing)


class MixVideo(nn.Module):
    """Applies CutMix with probability `cutmix_prob`, otherwise MixUp."""

    def __init__(
        self,
        cutmix_prob: float = 0.5,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 1.0,
        label_smoothing: float = 0.0,
        num_classes: int = 400,
    ) -> None:
        super().__init__()
        if not 0 <= cutmix_prob <= 1:
            raise ValueError(f"cutmix_prob must be from 0 to 1, got {cutmix_prob}")
        self.cutmix_prob = cutmix_prob
        self.mixup = MixUp(mixup_alpha, label_smoothing, num_classes)
        self.cutmix = CutMix(cutmix_alpha, label_smoothing, num_classes)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix clips (B, ...) and labels (B,) into clips (B, ...) and rows (B, num_classes)."""
        mix = self.cutmix if float(torch.rand(1)) < self.cutmix_prob else self.mixup
        mixed: tuple[Tensor, Tensor] = mix(x, labels)
        return mixed


def _check_batch(x: Tensor, name: str) -> None:
    if len(x) < 2:
        raise ValueError(f"{name} needs at least 2 clips in a batch, got {len(x)}")


def _mix_labels(labels: Tensor, num_classes: int, share: float, smoothing: float) -> Tensor:
    first = convert_to_one_hot(labels, num_classes, smoothing)
    second = convert_to_one_hot(labels.flip(0), num_classes, smoothing)
    return first * share + second * (1 - share)


def _random_span(length: int, size: int) -> tuple[int, int]:
    """Start and end of a span around a random centre, cut off at the borders 0 and `length`."""
    centre = int(torch.randint(length, (1,)))
    return max(centre - size // 2, 0), min(centre + size // 2, length)
