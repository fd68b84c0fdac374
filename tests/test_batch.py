import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import pytest
import torch
from torch.testing import assert_close

from svt_zoo.batch import Batch, Failure


class Drawn(NamedTuple):
    flip: torch.Tensor
    sigma: torch.Tensor


def make_batch() -> Batch:
    return Batch(
        views=[torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8), torch.ones(2, 2, 4, 4, 3, dtype=torch.uint8)],
        labels=torch.tensor([3, -1]),
        video_index=torch.tensor([7, 9]),
        names=["a.mp4", "b c.mp4"],
        params=[Drawn(torch.tensor([[True], [False]]), torch.rand(2, 1)), {"box": torch.arange(8).view(2, 4)}],
        failures=[Failure("x.mp4", "an empty file")],
    )


def test_length_is_the_number_of_videos() -> None:
    assert len(make_batch()) == 2


def test_views_and_labels_move_and_drawn_parameters_stay_on_the_host() -> None:
    moved = make_batch().to("meta")
    assert {view.device.type for view in moved.views} == {moved.labels.device.type} == {"meta"}
    assert moved.params[0].flip.device.type == moved.video_index.device.type == "cpu"
    assert moved.names == ["a.mp4", "b c.mp4"]


def test_moving_leaves_the_batch_itself_where_it_was() -> None:
    batch = make_batch()
    batch.to("meta")
    assert batch.labels.device.type == "cpu"


def test_a_pickled_batch_comes_back_whole() -> None:
    batch = make_batch()
    again = pickle.loads(pickle.dumps(batch))
    for ours, theirs in zip(again.views, batch.views, strict=True):
        assert_close(ours, theirs)
    assert isinstance(again.params[0], Drawn)
    assert_close(again.params[0].sigma, batch.params[0].sigma)
    assert_close(again.params[1]["box"], batch.params[1]["box"])
    assert_close(again.labels, batch.labels)
    assert again.failures == batch.failures
    assert again.names == batch.names


def test_only_views_cross_from_a_worker_as_shared_memory() -> None:
    batch = make_batch()
    ForkingPickler(io.BytesIO()).dump(batch)  # moves what crosses as a file descriptor into shared memory
    assert all(view.is_shared() for view in batch.views)
    assert not any(tensor.is_shared() for tensor in (batch.labels, batch.video_index, *batch.params[0]))


@pytest.mark.gpu
def test_pinned_views_lie_in_page_locked_memory() -> None:
    pinned = make_batch().pin_memory()
    assert all(view.is_pinned() for view in pinned.views)
    assert pinned.labels.is_pinned()


def test_targets_travel_with_the_views() -> None:
    labels = torch.arange(6, dtype=torch.uint8).view(2, 3)
    batch = Batch(
        views=[torch.zeros(2, 1)],
        labels=torch.zeros(2, dtype=torch.int64),
        video_index=torch.arange(2),
        targets={"flow": labels},
    )
    assert batch.to("meta").targets["flow"].device.type == "meta"
    assert torch.equal(pickle.loads(pickle.dumps(batch)).targets["flow"], labels)
