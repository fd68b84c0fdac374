"""A small method of each kind, and batches for it."""

from collections.abc import Callable

import torch
from small_cpc import clip_batch, small_cpc
from small_svt import SHAPES, TINY, random_batch, svt_of

from svt_zoo.batch import Batch
from svt_zoo.methods import SVT, Classify, ClassifyConfig, Method, SVTTemporal, Temporal, TemporalConfig
from svt_zoo.models.timesformer import timesformer


def labeled(frames: int = 8, pixels: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        views=[torch.randn(3, 3, frames, pixels, pixels, generator=generator)],
        labels=torch.tensor([0, 3, 4]),
        video_index=torch.arange(3),
        targets={"flow": torch.randint(9, (3, frames - 1, 16), generator=generator, dtype=torch.uint8)},
    )


def svt() -> SVT:
    torch.manual_seed(0)
    return svt_of(timesformer(**TINY, drop_path_rate=0.0), freeze_last_layer=0.0, momentum=0.9)


def svt_with_time() -> SVTTemporal:
    return SVTTemporal(svt(), TemporalConfig(order=1.0, flow=1.0))


def time_terms() -> Temporal:
    torch.manual_seed(0)
    return Temporal(timesformer(**TINY, drop_path_rate=0.0), 5, TemporalConfig(order=1.0, low_confidence=1.0, flow=1.0))


def classify() -> Classify:
    torch.manual_seed(0)
    return Classify(timesformer(**TINY, drop_path_rate=0.0), 5, ClassifyConfig(label_smoothing=0.1))


def with_flow(batch: Batch) -> Batch:
    first = batch.views[0]
    labels = torch.randint(9, (len(first), first.shape[2] - 1, 16), generator=torch.Generator().manual_seed(2))
    return Batch(**{**vars(batch), "targets": {"flow": labels}})


def cpc_clips() -> Batch:
    return clip_batch(torch.randn(3, 3, 5, 64, 64, generator=torch.Generator().manual_seed(1)))


METHODS: dict[str, tuple[Callable[[], Method], Callable[[], Batch]]] = {
    "svt": (svt, random_batch),
    "svt with time": (svt_with_time, lambda: with_flow(random_batch([(8, 32), *SHAPES[1:]]))),
    "time": (time_terms, labeled),
    "classify": (classify, labeled),
    "cpc": (small_cpc, cpc_clips),
}
