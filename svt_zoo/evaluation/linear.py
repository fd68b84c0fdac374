"""Linear probe: one linear layer on frozen features, trained for all learning rates at once."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import accuracy


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
    """Result of a linear probe.

    `lr` is the best learning rate on the held-out part of the training set. `scores` (N, K) are its logits of the
    test videos. `validation` and `test` hold the top-1 accuracy of each learning rate, in percent. `validation` is
    empty for a single learning rate.
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
    lrs: Sequence[float] = (8e-3,),
    groups: Sequence[str | None] | None = None,
    validation_fraction: float = 0.2,
    epochs: int = 20,
    batch_size: int = 32,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    standardize: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Probe:
    """Train linear layers on the training features and test them; SVT's recipe by default.

    With several learning rates, all of them first train on a part of the training set, and the held-out rest selects
    one. Then all train on the full set. The test set is not used for the selection.

    Args:
        train: features (N, D), or (N, V, D) for V random clips per video, of which each epoch draws one.
        train_labels: (N,).
        test: features (M, D), averaged over the views of each video.
        test_labels: (M,).
        num_classes: K.
        lrs: learning rates, not scaled by the batch size.
        groups: scene of each training video (`Row.group`); no scene is in both the held-out part and the rest.
        validation_fraction: fraction of each class that is held out.
        epochs, batch_size, momentum, weight_decay, seed, device: as in `train_heads`.
        standardize: first scale each feature to mean 0 and std 1 of the training set; not in SVT's recipe. It is the
            BatchNorm before the probe of He et al., "Masked Autoencoders", 2022, appendix A.1.

    Raises:
        ValueError: features and labels do not fit or hold NaN, or the training set is too small to hold out a part.
    """
    if standardize:
        mean, std = train.flatten(0, -2).mean(dim=0), train.flatten(0, -2).std(dim=0, correction=0)
        train, test = (train - mean) / std.clamp(min=1e-6), (test - mean) / std.clamp(min=1e-6)

    def top1_of(heads: Heads, features: Tensor, labels: Tensor) -> dict[float, float]:
        scores = [heads.scores(features, i).cpu() for i in range(len(lrs))]
        # A learning rate that diverges is never selected; it is not an error.
        right = [accuracy(s, labels)["top1"] if bool(s.isfinite().all()) else 0.0 for s in scores]
        return dict(zip(lrs, right, strict=True))

    fit = functools.partial(train_heads, num_classes=num_classes, lrs=lrs, epochs=epochs, batch_size=batch_size)
    fit = functools.partial(fit, momentum=momentum, weight_decay=weight_decay, seed=seed, device=device)
    validation: dict[float, float] = {}
    if len(lrs) > 1:
        held_out = hold_out(train_labels, validation_fraction, seed=seed, groups=groups)
        chosen = train[held_out].mean(dim=1) if train.ndim == 3 else train[held_out]  # (n, D)
        validation = top1_of(fit(train[~held_out], train_labels[~held_out]), chosen, train_labels[held_out])
    best = max(range(len(lrs)), key=lambda i: validation.get(lrs[i], 0.0))
    heads = fit(train, train_labels)
    return Probe(lrs[best], heads.scores(test, best).cpu(), validation, top1_of(heads, test, test_labels))


def train_heads(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    lrs: Sequence[float],
    epochs: int = 20,
    batch_size: int = 32,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Heads:
    """Train one linear layer per learning rate, all at once; each result is the same as when trained alone.

    SVT's recipe: cross entropy, SGD with momentum, initial weights N(0, 0.01), initial biases 0. The learning rate
    follows a cosine per epoch towards 0.

    Args:
        features: (N, D), or (N, V, D), where each epoch draws one of V for each video.
        labels: (N,).
        num_classes: K.
        lrs: learning rates.
        epochs: passes over the features.
        batch_size: videos per step; a smaller last batch is also a step.
        momentum, weight_decay: of SGD, as in `torch.optim.SGD`.
        seed: of the initial weights, the order and the choice of clips.
        device: where to compute; by default the device of the features. All features are moved there.

    Raises:
        ValueError: features and labels do not fit each other, or hold NaN.
    """
    _check(features, labels, num_classes)
    device = torch.device(device or features.device)
    rng = torch.Generator().manual_seed(seed)  # on the CPU, so that the numbers are the same for any device
    num, dim = len(features), features.shape[-1]
    start = torch.empty(num_classes, dim).normal_(0, 0.01, generator=rng)
    weight = start.to(device).repeat(len(lrs), 1, 1).requires_grad_()  # (L, K, D)
    bias = torch.zeros(len(lrs), num_classes, device=device, requires_grad=True)  # (L, K)
    velocities = [torch.zeros_like(weight), torch.zeros_like(bias)]
    features, labels = features.to(device=device, dtype=torch.float32), labels.to(device)
    for epoch in range(epochs):
        rates = torch.tensor(lrs, device=device) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))  # (L,)
        order = torch.randperm(num, generator=rng)
        shown = torch.randint(features.shape[1], (num,), generator=rng) if features.ndim == 3 else None
        for rows in order.split(batch_size):
            clips = features[rows] if shown is None else features[rows, shown[rows]]  # (B, D)
            logits = clips @ weight.transpose(1, 2) + bias[:, None]  # (L, B, K)
            targets = labels[rows].repeat(len(lrs))
            # Sum over the layers: each layer gets only the gradient of its own mean loss.
            loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(rows)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, gradient, velocity in zip((weight, bias), gradients, velocities, strict=True):
                    velocity.mul_(momentum).add_(gradient).add_(value, alpha=weight_decay)
                    value.sub_(rates.view(-1, *[1] * (value.ndim - 1)) * velocity)
    return Heads(weight.detach(), bias.detach())


def hold_out(
    labels: Tensor, share: float = 0.2, *, seed: int = 0, groups: Sequence[str | None] | None = None
) -> Tensor:
    """Select training videos to hold out, by `seed`: bool (N,), about the fraction `share` of each class.

    Videos of one group stay together, and at least one video of each class stays for training.

    Raises:
        ValueError: no video can be held out.
    """
    names: list[str | int] = [
        group if group is not None else i for i, group in enumerate(groups or [None] * len(labels))
    ]
    members: dict[str | int, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    sizes = labels.bincount()
    room = (
        (share * sizes.double()).round().clamp(min=1).minimum(sizes - 1).clamp(min=0).to(torch.int64)
    )  # (K,): how many videos of a class may be held out
    mask = torch.zeros(len(labels), dtype=torch.bool)
    groups_left = list(members.values())
    for n in np.random.default_rng(seed).permutation(len(groups_left)).tolist():
        taken = labels[groups_left[n]].bincount(minlength=len(sizes))
        if bool((taken <= room).all()):
            room -= taken
            mask[groups_left[n]] = True
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
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must lie in 0 to {num_classes - 1}, got {found}; every video needs a label")
    if not bool(features.isfinite().all()):
        raise ValueError("the features hold NaN or infinity")
