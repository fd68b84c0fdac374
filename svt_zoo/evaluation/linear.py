"""Linear probe: one linear layer on frozen features, for all learning rates at once."""

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

        The logits of averaged features are the averaged logits of the views: "summed over the crops" is included.
        """
        return F.linear(features.to(self.weight), self.weight[which], self.bias[which])


class Probe(NamedTuple):
    """What a probe found.

    `lr` is the learning rate that won on the held-out part of the training set, `scores` (N, K) are its logits of the
    test videos. `validation` and `test` hold the top-1 accuracy of each learning rate, in percent; `validation` is
    empty if there was nothing to choose.
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

    With several learning rates, first all of them train on a part of the training set and the rest chooses one; then
    all train on the whole set. The test set chooses nothing.

    Args:
        train: features (N, D), or (N, V, D) of V random clips a video, of which each epoch draws one.
        train_labels: (N,).
        test: features (M, D), averaged over the views of each video.
        test_labels: (M,).
        num_classes: K.
        lrs: learning rates, not scaled by the batch size.
        groups: scene of each training video (`Row.group`), which the held-out part does not share with the rest.
        validation_fraction: share of each class that is held out.
        epochs, batch_size, momentum, weight_decay, seed, device: as of `train_heads`.
        standardize: bring each feature to mean 0 and deviation 1 first, by the training set's numbers (the BatchNorm
            before the probe of He et al., "Masked Autoencoders", 2022, appendix A.1); not in SVT's recipe.

    Raises:
        ValueError: features and labels do not fit, hold NaN, or the training set is too small to hold a part out.
    """
    if standardize:
        mean, std = train.flatten(0, -2).mean(dim=0), train.flatten(0, -2).std(dim=0, correction=0)
        train, test = (train - mean) / std.clamp(min=1e-6), (test - mean) / std.clamp(min=1e-6)

    def top1_of(heads: Heads, features: Tensor, labels: Tensor) -> dict[float, float]:
        scores = [heads.scores(features, i).cpu() for i in range(len(lrs))]
        # A learning rate that diverged is a loser of the sweep, not an error.
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
    """Train one linear layer a learning rate in one pass over the features; each as if it were alone.

    SVT's recipe: cross entropy, SGD with momentum, weights N(0, 0.01), biases 0, the learning rate along a cosine from
    epoch to epoch towards 0.

    Args:
        features: (N, D), or (N, V, D), of which each epoch draws one of V for each video.
        labels: (N,).
        num_classes: K.
        lrs: learning rates.
        epochs: passes over the features.
        batch_size: videos a step; a last smaller batch is a step, too.
        momentum, weight_decay: of SGD, as in `torch.optim.SGD`.
        seed: of the initial weights, the order and the drawn clips.
        device: where to compute; by default where the features are. They are moved there as a whole.

    Raises:
        ValueError: features and labels do not fit each other, or hold NaN.
    """
    _check(features, labels, num_classes)
    device = torch.device(device or features.device)
    rng = torch.Generator().manual_seed(seed)  # of the CPU: the same on any device
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
            # Summed over the layers: each gets the gradient of its own mean loss and nothing of the others.
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
    """Which training videos to set aside for choices, by `seed`: bool (N,), about `share` of each class.

    Videos of one group stay together, and at least one video of each class stays for training.

    Raises:
        ValueError: nothing can be set aside.
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
    )  # (K,): how many a class may lose
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
