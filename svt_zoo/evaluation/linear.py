"""Linear probe: one linear layer on frozen features, trained for all learning rates at once."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import bounds
from .knn import standardized
from .metrics import accuracy, check_classes
from .views import refuse_fast_views


@dataclass(frozen=True)
class LinearConfig:
    """A linear probe on frozen features (SVT section 4.1).

    Attributes:
        lrs: learning rates, not scaled with the batch; with several, held-out training videos choose one.
        epochs: passes over the training videos.
        batch_size: videos per step.
        momentum, weight_decay: options of SGD.
        standardize: first scale each feature to mean 0 and standard deviation 1 of the training set; not in SVT's
            recipe. It is the BatchNorm before the probe of "Masked Autoencoders" (He et al. 2022), appendix A.1.
        validation_fraction: fraction of each class to hold out for the choice among `lrs`.
        clips: random clips per training video whose features are stored; each epoch shows another one. The paper's
            variation needs `clips` = `epochs`; fewer clips take less time.
        hflip: probability of a horizontal flip; set 0 where left and right matter.
        slow_fast: average the features of a slow and a fast clip in training too (SVT section 3.4).
        views: crops x clips of each evaluation video; "slow-fast 3x1" adds fast clips.
        pool: "mean" of all views; "sum" adds the mean of the slow and the mean of the fast clips.
    """

    lrs: tuple[float, ...] = (8e-3,)
    epochs: int = 20
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 0.0
    standardize: bool = False
    validation_fraction: float = 0.2
    clips: int = 20
    hflip: float = 0.5
    slow_fast: bool = True
    views: str = "slow-fast 3x1"
    pool: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        bounds(self, "lrs", above=0)
        bounds(self, "epochs", "batch_size", "clips", low=1)
        bounds(self, "momentum", "hflip", low=0, high=1)
        bounds(self, "validation_fraction", above=0, high=1)
        bounds(self, "weight_decay", low=0)
        if not self.lrs:
            raise ValueError("lrs must hold one or more learning rates, got none")
        refuse_fast_views(self.views, slow_fast=self.slow_fast, where="")


class Heads(NamedTuple):
    """L linear layers: `weight` (L, K, D) and `bias` (L, K)."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor, which: int) -> Tensor:
        """Logits (N, K) of features (N, D) by layer `which`, on the device of the layers.

        The logits of averaged features equal the averaged logits of the views, so no separate sum over crops is needed.
        """
        return F.linear(features.to(self.weight), self.weight[which], self.bias[which])


class Probe(NamedTuple):
    """The selected learning rate, its logits (N, K) of the test videos, and top-1 accuracies in percent.

    `validation` is empty for a single learning rate.
    """

    lr: float
    scores: Tensor
    validation: dict[float, float]
    test: dict[float, float]


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    options: LinearConfig,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Probe:
    """Train linear layers on the training features and test them.

    With several learning rates, all of them first train on a part of the training set, and the held-out rest selects
    one. Then all train on the full set. The test set is not used for the selection.

    Args:
        train: features (N, D), or (N, V, D) for V random clips per video, of which each epoch shows one.
        test: features (M, D), averaged over the views of each video.
        options: of the training; options of the clips have no effect here.
        groups: scene of each training video (`Row.group`); no scene is in both the held-out part and the rest.
        seed: of the initial weights, the order, the choice of clips and of the held-out part.

    Raises:
        ValueError: features and labels do not fit or hold NaN, or the training set is too small to hold out a part.
    """
    lrs = options.lrs
    if options.standardize:
        train, test = standardized(train, test)

    def top1_of(heads: Heads, features: Tensor, labels: Tensor) -> dict[float, float]:
        scores = [heads.scores(features, i).cpu() for i in range(len(lrs))]
        # A learning rate that diverges is never selected; it is not an error.
        top1 = [accuracy(s, labels)["top1"] if bool(s.isfinite().all()) else 0.0 for s in scores]
        return dict(zip(lrs, top1, strict=True))

    fit = functools.partial(train_heads, num_classes=num_classes, options=options, seed=seed, device=device)
    validation: dict[float, float] = {}
    if len(lrs) > 1:
        held_out = hold_out(train_labels, options.validation_fraction, seed=seed, groups=groups)
        features = train[held_out].mean(dim=1) if train.ndim == 3 else train[held_out]  # (n, D)
        validation = top1_of(fit(train[~held_out], train_labels[~held_out]), features, train_labels[held_out])
    best = max(range(len(lrs)), key=lambda i: validation.get(lrs[i], 0.0))
    heads = fit(train, train_labels)
    return Probe(lrs[best], heads.scores(test, best).cpu(), validation, top1_of(heads, test, test_labels))


def train_heads(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    options: LinearConfig,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Heads:
    """Train one linear layer per learning rate, all at once; each result is the same as when trained alone.

    SVT's recipe: cross entropy, SGD with momentum, initial weights N(0, 0.01), initial biases 0. The learning rate
    follows a cosine per epoch towards 0.

    `features` are (N, D), or (N, V, D), where V epochs show each clip of a video once; `labels` are (N,). All are
    moved to `device`. A smaller last batch is also a step.

    Raises:
        ValueError: features and labels do not fit each other, or hold NaN.
    """
    _check(features, labels, num_classes)
    device = torch.device(device or features.device)
    lrs = torch.tensor(options.lrs, device=device)  # (L,)
    rng = torch.Generator().manual_seed(seed)  # on the CPU, so that the numbers are the same for any device
    num, dim = len(features), features.shape[-1]
    initial = torch.empty(num_classes, dim).normal_(0, 0.01, generator=rng)
    weight = initial.to(device).repeat(len(lrs), 1, 1).requires_grad_()  # (L, K, D)
    bias = torch.zeros(len(lrs), num_classes, device=device, requires_grad=True)  # (L, K)
    velocities = [torch.zeros_like(weight), torch.zeros_like(bias)]
    features, labels = features.to(device=device, dtype=torch.float32), labels.to(device)
    for epoch in range(options.epochs):
        rates = lrs * 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))  # (L,)
        order = torch.randperm(num, generator=rng)
        if features.ndim == 3 and epoch % features.shape[1] == 0:
            turns = torch.rand(num, features.shape[1], generator=rng).argsort(dim=1)  # (N, V)
        for rows in order.split(options.batch_size):
            clips = features[rows]
            if features.ndim == 3:
                clips = features[rows, turns[rows, epoch % features.shape[1]]]  # (B, D)
            logits = clips @ weight.transpose(1, 2) + bias[:, None]  # (L, B, K)
            targets = labels[rows].repeat(len(lrs))
            # Sum over the layers: each layer gets only the gradient of its own mean loss.
            loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(rows)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, gradient, velocity in zip((weight, bias), gradients, velocities, strict=True):
                    velocity.mul_(options.momentum).add_(gradient).add_(value, alpha=options.weight_decay)
                    value.sub_(rates.view(-1, *[1] * (value.ndim - 1)) * velocity)
    return Heads(weight.detach(), bias.detach())


def hold_out(labels: Tensor, fraction: float, *, seed: int = 0, groups: Sequence[str | None] | None = None) -> Tensor:
    """Select training videos to hold out, by `seed`: bool (N,), about this fraction of each class.

    Videos of one group stay together, and at least one video of each class stays for training.

    Raises:
        ValueError: no video can be held out.
    """
    members: dict[str | int, list[int]] = {}  # the rows of each group; a video without one is its own group
    for i, group in enumerate(groups or [None] * len(labels)):
        members.setdefault(i if group is None else group, []).append(i)
    sizes = labels.bincount()
    wanted = (fraction * sizes.double()).round().clamp(min=1)
    room = wanted.minimum(sizes - 1).clamp(min=0).long()  # (K,): how many videos of a class may be held out
    mask = torch.zeros(len(labels), dtype=torch.bool)
    rows_of_groups = list(members.values())
    for n in np.random.default_rng(seed).permutation(len(members)).tolist():
        taken = labels[rows_of_groups[n]].bincount(minlength=len(sizes))
        if bool((taken <= room).all()):
            room -= taken
            mask[rows_of_groups[n]] = True
    if not bool(mask.any()):
        raise ValueError(
            f"no part of {len(labels)} videos in {len(members)} groups can be held out to choose a learning rate; "
            "set linear.lrs to a single one, or a larger linear.validation_fraction"
        )
    return mask


def _check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.ndim not in (2, 3) or labels.shape != features.shape[:1] or not len(labels):
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features are (N, D) or (N, V, D) and labels (N,), N at least 1, got {shapes}")
    check_classes(labels, num_classes, "labels of videos")
    if not bool(features.isfinite().all()):
        raise ValueError("the features hold NaN or infinity")
