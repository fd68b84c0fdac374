"""k-nearest-neighbor evaluation of the backbone during training."""

import shutil
from pathlib import Path

import torch

from ..data.lists import VideoList
from ..distributed import barrier, is_main
from ..evaluation.features import extract
from ..evaluation.knn import knn_scores
from ..evaluation.metrics import accuracy
from ..models import ZooModel


class OnlineKNN:
    """Callable that measures the top-1 accuracy of a backbone by weighted nearest neighbors.

    All processes must call it. They share the work through the folder `scratch`, which is created and removed.

    Args:
        train, val: lists with labels; one clip with a center crop is evaluated per video.
        scratch: a folder that all processes can access.
        k: number of neighbors, at most the number of training videos.

    Raises:
        ValueError: a video has no label.
    """

    def __init__(
        self,
        train: VideoList,
        val: VideoList,
        scratch: Path,
        *,
        device: torch.device,
        batch_size: int = 8,
        num_workers: int | None = 0,
        k: int = 20,
    ) -> None:
        for name, videos in (("data.train", train), ("data.val", val)):
            if any(row.label is None for row in videos.rows):
                raise ValueError(
                    f"kNN needs a label for every video in {name}; set run.knn_every_epochs=0 to switch it off"
                )
        self.train, self.val, self.scratch, self.device = train, val, scratch, device
        self.batch_size, self.num_workers = batch_size, num_workers
        self.k = min(k, len(train))

    def __call__(self, backbone: ZooModel) -> dict[str, float]:
        """`knn_top1` in percent."""
        self._clear()
        bank, queries = (
            extract(
                backbone,
                videos,
                device=self.device,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                output=self.scratch / name,
                progress=False,
            )
            for name, videos in (("train", self.train), ("val", self.val))
        )
        classes = max(self.train.num_classes, self.val.num_classes)
        scores = knn_scores(bank.features, bank.labels, queries.features, num_classes=classes, ks=(self.k,))
        self._clear()
        return {"knn_top1": accuracy(scores[self.k], queries.labels)["top1"]}

    def _clear(self) -> None:
        """Remove the files of an earlier evaluation; all processes wait for it."""
        barrier()
        if is_main():
            shutil.rmtree(self.scratch, ignore_errors=True)
        barrier()
