"""Probes of frozen features: nearest neighbors, linear, attentive and few-shot, chosen on held-out training videos."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import bounds
from .attentive import Inputs, Setting, SideBySide, fresh_head, train_side_by_side
from .knn import few_shot, knn_scores, standardized
from .linear import hold_out
from .metrics import class_ranks
from .tokens import Key, TokenConfig, Tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeConfig(TokenConfig):
    """Probes of frozen features, each beside its controls.

    Attributes:
        probes: "knn" (weighted neighbors, as `evaluate`), "linear" (one layer on the class feature), "attentive"
            (cross-attention over the tokens, as V-JEPA 2) and "few-shot" (nearest class mean).
        ks: numbers of neighbors to choose from.
        shots: training videos per class of "few-shot".
        draws: random choices of these videos; the result is their mean.
        lrs, weight_decays: AdamW's settings to choose from, all combinations; the defaults are V-JEPA 2's 20.
        epochs, batch_size: of each probe; a cosine schedule to 0.
        depths: layers of the attentive probe; all after the first come before the cross-attention.
        deep_settings: number of best settings of the first depth that the other depths try.
        validation_fraction: fraction of each class, in complete groups, that is held out of the training to choose.
        resamples: of the bootstrap over groups, for the 95 % intervals.
    """

    probes: tuple[Literal["knn", "linear", "attentive", "few-shot"], ...] = ("knn", "linear", "attentive", "few-shot")
    ks: tuple[int, ...] = (1, 5, 10, 20)
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 10
    lrs: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[float, ...] = (0.8, 0.4, 0.1, 0.01)
    epochs: int = 20
    batch_size: int = 32
    depths: tuple[int, ...] = (1, 4)
    deep_settings: int = 1
    validation_fraction: float = 0.2
    resamples: int = 2000

    def __post_init__(self) -> None:
        bounds(self, "layers", "ks", "shots", "depths", "frames", "grid", "draws", "epochs", "batch_size", low=1)
        bounds(self, "deep_settings", low=1, high=len(self.settings()))
        bounds(self, "lrs", above=0)
        bounds(self, "weight_decays", low=0)
        bounds(self, "validation_fraction", above=0, high=0.9)
        bounds(self, "resamples", low=100)
        for name in ("probes", "controls", "layers", "ks", "shots", "lrs", "weight_decays", "depths"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or not (values or name in ("controls", "layers")):
                raise ValueError(f"{name} must hold one or more different values, got {list(values)}")

    def settings(self) -> list[Setting]:
        """All combinations of learning rate and weight decay."""
        return [Setting(*pair) for pair in product(self.lrs, self.weight_decays)]


class ProbeData(NamedTuple):
    """The readable videos of a set: `labels` (N,) and `groups` of all rows of `tokens`, and the rows of both parts."""

    tokens: Tokens
    train: Tensor
    test: Tensor
    labels: Tensor
    groups: list[str]
    num_classes: int


class Scored(NamedTuple):
    """Outcome of a probe: the fraction of correct answers for each test video (M,) by tested condition, and notes."""

    correct: dict[str, Tensor]
    notes: dict[str, Any]


class Prober:
    """Trains all probes of one condition and layer of a set, and tests them on this and maybe another condition."""

    def __init__(self, data: ProbeData, options: ProbeConfig, *, seed: int, device: torch.device) -> None:
        self.data = data
        self.options = options
        self.seed = seed
        self.device = device
        self.labels, self.answers = data.labels[data.train], data.labels[data.test]
        groups = [data.groups[row] for row in data.train.tolist()]
        self.held = hold_out(self.labels, options.validation_fraction, seed=seed, groups=groups)
        smallest = int(self.labels.unique(return_counts=True)[1].min())
        self.shots = [shots for shots in options.shots if shots <= smallest]
        if len(self.shots) < len(options.shots):
            _log.warning("a class has only %d training videos, so there is no few-shot result with more", smallest)

    def run(self, probe: str, key: Key, tested: Mapping[str, Key]) -> Iterator[tuple[str, Scored]]:
        """Names and outcomes of a probe, trained on `key` and tested on each of `tested`."""
        if probe == "attentive":
            yield from self._heads(key, tested, self.options.depths)
        elif probe == "linear":
            yield from self._heads(key, tested, (0,))
        else:
            read = self.data.tokens.cls
            train = read(key, self.data.train)
            tests = {name: standardized(train, read(other, self.data.test))[1] for name, other in tested.items()}
            train = standardized(train, train)[0]
            yield from (self._knn if probe == "knn" else self._few_shot)(train, tests)

    def _correct(self, scores: Tensor) -> Tensor:
        return (class_ranks(scores, self.answers) == 0).double()

    def _knn(self, train: Tensor, tests: Mapping[str, Tensor]) -> Iterator[tuple[str, Scored]]:
        classes, held = self.data.num_classes, self.held
        bank = train[~held], self.labels[~held]
        ks = [k for k in self.options.ks if k <= len(bank[0])] or [1]
        found = knn_scores(*bank, train[held], num_classes=classes, ks=ks)
        validation = {k: (class_ranks(found[k], self.labels[held]) == 0).double().mean().item() for k in ks}
        k = max(ks, key=lambda k: validation[k])  # the first of equals
        scores = {
            name: knn_scores(train, self.labels, test, num_classes=classes, ks=[k])[k] for name, test in tests.items()
        }
        yield "knn", Scored({name: self._correct(score) for name, score in scores.items()}, {"k": k})

    def _few_shot(self, train: Tensor, tests: Mapping[str, Tensor]) -> Iterator[tuple[str, Scored]]:
        for shots in self.shots:
            totals = {name: torch.zeros(len(test), dtype=torch.float64) for name, test in tests.items()}
            for draw in range(self.options.draws):
                chosen = few_shot(self.labels, shots, self.seed + draw)
                bank = F.normalize(train[chosen], dim=1)
                means = torch.zeros(self.data.num_classes, bank.shape[1]).index_add_(0, self.labels[chosen], bank)
                for name, test in tests.items():
                    totals[name] += self._correct(F.normalize(test, dim=1) @ F.normalize(means, dim=1).T)
            yield f"{shots}-shot", Scored({name: total / self.options.draws for name, total in totals.items()}, {})

    def _heads(self, key: Key, tested: Mapping[str, Key], depths: tuple[int, ...]) -> Iterator[tuple[str, Scored]]:
        """Linear (depth 0) or attentive probes; the first depth tries all settings, the others its best."""
        read = self.data.tokens.tokens if depths[0] else self.data.tokens.cls
        scale = standardizer(partial(read, key), self.data.train)

        def inputs(of: Key) -> Inputs:
            return lambda rows: scale(read(of, rows))

        settings, everything = self.options.settings(), torch.ones_like(self.held)
        for depth in depths:
            best, notes = self._choose(depth, settings, inputs(key))
            heads = self._train(depth, best[:1], inputs(key), everything)
            scores = {name: heads.scores(inputs(other), self.data.test)[0] for name, other in tested.items()}
            correct = {name: self._correct(logits.nan_to_num()) for name, logits in scores.items()}
            yield f"attentive {depth}" if depth else "linear", Scored(correct, notes)
            settings = best[: self.options.deep_settings] if depth == depths[0] else settings

    def _choose(self, depth: int, settings: list[Setting], inputs: Inputs) -> tuple[list[Setting], dict[str, Any]]:
        """The settings, best first: by accuracy on the held-out videos, then by their loss."""
        if len(settings) == 1:
            return settings, settings[0]._asdict()
        heads = self._train(depth, settings, inputs, ~self.held)
        scores = heads.scores(inputs, self.data.train[self.held])  # (L, n, K)
        labels = self.labels[self.held]
        ranked = []
        for setting, logits in zip(settings, scores, strict=True):
            if bool(logits.isfinite().all()):  # a setting that diverges is never chosen
                right = (logits.argmax(dim=1) == labels).double().mean().item()
                ranked.append((right, -F.cross_entropy(logits, labels).item(), setting))
        if not ranked:
            raise ValueError(f"all {len(settings)} settings diverge; set lower probe.lrs than {self.options.lrs}")
        ranked.sort(reverse=True)
        return [one for *_, one in ranked], {**ranked[0][2]._asdict(), "validation": 100 * ranked[0][0]}

    def _train(self, depth: int, settings: list[Setting], inputs: Inputs, chosen: Tensor) -> SideBySide:
        rows = self.data.train[chosen]
        width = inputs(rows[:1]).shape[-1]
        return train_side_by_side(
            fresh_head(width, self.data.num_classes, depth, self.seed),
            settings,
            inputs,
            rows,
            self.labels[chosen],
            epochs=self.options.epochs,
            batch_size=self.options.batch_size,
            seed=self.seed,
            device=self.device,
        )


def standardizer(inputs: Inputs, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that scales each feature to mean 0 and standard deviation 1 over these rows (and their tokens)."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in rows.split(64):
        values = inputs(part).double().flatten(0, -2)
        count, total, squares = count + len(values), total + values.sum(dim=0), squares + values.square().sum(dim=0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    mean, std = mean.float(), std.float()
    return lambda values: (values - mean) / std
