"""Whether a pre-training helped on the user's own videos: its network before and after, on held-out videos."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import distributed
from ..config import PretrainRecipe
from ..data.lists import VideoList, evaluation_list
from ..evaluation.features import Extracted
from ..evaluation.knn import KNNConfig
from ..evaluation.linear import LinearConfig, linear_probe
from ..evaluation.metrics import class_ranks, group_interval
from ..evaluation.protocols import Extractor, knn_protocol
from ..files import remove, write_whole
from ..models import ZooModel
from ..options import ConfigError, text_table

_log = logging.getLogger(__name__)
NAME = "before_after.json"
_KNN = KNNConfig(ks=(10,), standardize=True)
_LINEAR = LinearConfig(lrs=(2e-3, 8e-3, 3e-2), epochs=50, standardize=True, slow_fast=False, views="1x1")
Scores = tuple[Tensor, Extracted]  # (N, K) of N videos


class Change(NamedTuple):
    """Top-1 accuracies before and after, and their difference, in percent: each (value, low, high) of 95 %."""

    protocol: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    difference: tuple[float, float, float]

    @property
    def answer(self) -> str:
        """Whether the interval of the difference excludes 0."""
        _, low, high = self.difference
        return "yes, better" if low > 0 else "no, worse" if high < 0 else "no difference that these videos can show"


@dataclass(frozen=True)
class Comparison:
    """The labeled videos on which both networks are measured; they are checked before the training starts.

    The neighbors and the linear layer come from `bank`, and `test` is classified. They are the training videos and
    `data.val` (or `data.validation_fraction`). If the training videos have no labels, they are the halves of
    `data.val`, divided by groups.
    """

    bank: VideoList
    test: VideoList

    @classmethod
    def of(cls, recipe: PretrainRecipe, train: VideoList) -> "Comparison":
        """The lists of a recipe that trains on `train`.

        Raises:
            ConfigError: the videos for the evaluation have no labels, or fewer than two groups.
        """
        test = evaluation_list(recipe.data, classes=train.classes or None)
        bank = train
        if (train.columns.labels < 0).any():
            bank, test = test.hold_out(0.5)
        for videos in (bank, test):
            if (videos.columns.labels < 0).any() or len(set(videos.columns.groups())) < 2:
                raise ConfigError(
                    "run.compare needs labeled videos of two or more groups: set data.val to a list of them (the "
                    "training videos need no labels then), or run.compare=false"
                )
        return cls(bank, test)

    def report(self, before: ZooModel, after: ZooModel, recipe: PretrainRecipe, device: torch.device) -> None:
        """Log the table and write it to `run.output` as JSON; every process takes part."""
        folder = Path(recipe.run.output, "compared")
        scores = [
            self._scores(Extractor(network.to(device), folder / name, device, recipe.data))
            for name, network in (("before", before), ("after", after))
        ]
        changes = [
            self.change(name, *pair) for name, pair in zip(("knn", "linear"), zip(*scores, strict=True), strict=True)
        ]
        distributed.barrier()
        if distributed.is_main():
            remove(folder)
            rows = [{**one._asdict(), "answer": one.answer} for one in changes]
            write_whole(Path(recipe.run.output, NAME), f"{json.dumps(rows, indent=2)}\n".encode())
            _log.info("is it better on these videos?\n%s", self.describe(changes))

    def _scores(self, extractor: Extractor) -> tuple[Scores, Scores]:
        """By nearest neighbors, and by a linear layer, for the readable test videos."""
        [knn] = knn_protocol(extractor, self.bank, self.test, _KNN)
        bank, test = extractor(self.bank, "train", views=_KNN.views), knn.videos  # the features that kNN has stored
        probe = linear_probe(
            bank.features.unsqueeze(1),
            bank.labels,
            test.features,
            test.labels,
            num_classes=max(self.bank.num_classes, self.test.num_classes),
            options=_LINEAR,
            groups=[self.bank.rows[i].group for i in bank.video_index.tolist()],
        )
        return (knn.scores, test), (probe.scores, test)

    def change(self, name: str, before: Scores, after: Scores) -> Change:
        """The accuracies and their difference video by video; the intervals draw complete groups."""
        groups = list(self.test.columns.take(before[1].video_index.numpy()).groups())
        hits = [100.0 * (class_ranks(scores, videos.labels) == 0).double() for scores, videos in (before, after)]
        values = (*hits, hits[1] - hits[0])
        return Change(name, *((float(v.mean()), *group_interval(v, groups)) for v in values))

    def describe(self, changes: Sequence[Change]) -> str:
        """The changes as a table in plain text."""
        rows = [["", "before", "after", "difference", "better?"]]
        for one in changes:
            texts = zip(one[1:4], ("", "", "+"), strict=True)
            cells = [f"{value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})" for (value, low, high), sign in texts]
            rows.append([one.protocol, *cells, one.answer])
        groups = len(set(self.test.columns.groups()))
        title = f"top-1 in % on {len(self.test)} held-out videos of {groups} groups, with intervals of 95 %:"
        return f"{title}\n{text_table(rows)}"
