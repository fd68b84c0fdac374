"""Flow labels: compared with records of the original and with images of known motion."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from svt_zoo.data.flow import FlowLabels, absolute_directions, farneback_flow, patch_means, relative_directions

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


def picture(size: int = 96, seed: int = 0) -> Tensor:
    """A smooth random image uint8 (size, size, 3)."""
    coarse = torch.rand(1, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (size, size), mode="bicubic")[0].clamp(0, 255).byte().permute(1, 2, 0)


def panned(dx: int, dy: int, frames: int = 3, size: int = 64) -> Tensor:
    """A clip whose content moves by (dx, dy) pixels per frame: uint8 (T, size, size, 3)."""
    large = picture(size + 48)
    corners = [(24 - t * dy, 24 - t * dx) for t in range(frames)]
    return torch.stack([large[top : top + size, left : left + size] for top, left in corners])


@pytest.mark.parametrize(
    ("dx", "dy", "label"),
    [(4, 0, 1), (3, 3, 2), (0, 4, 3), (-3, 3, 4), (-4, 0, 5), (-3, -3, 6), (0, -4, 7), (3, -3, 8)],
)
def test_each_of_eight_directions_has_its_class(dx: int, dy: int, label: int) -> None:
    labels = FlowLabels(16)(panned(dx, dy))
    assert labels.shape == (2, 16)
    assert (labels == label).float().mean() > 0.9


def test_a_picture_that_stands_still_has_no_direction() -> None:
    assert (FlowLabels(16)(panned(0, 0)) == 0).all()


def test_flow_is_in_pixels() -> None:
    clip = panned(5, -3).float().mean(dim=-1)
    flow = farneback_flow(clip[:-1], clip[1:])
    assert_close(flow[:, 16:-16, 16:-16].mean(dim=(0, 1, 2)), torch.tensor([5.0, -3.0]), atol=0.2, rtol=0)


def test_a_mirrored_clip_has_mirrored_labels() -> None:
    clip = panned(4, 2)
    clip[:, :, :32] = clip[:1, :, :32]  # the left half does not move
    assert torch.equal(FlowLabels(16)(clip, flip=True), FlowLabels(16)(clip.flip(2)))
    assert not torch.equal(FlowLabels(16)(clip, flip=True), FlowLabels(16)(clip))


def test_absolute_labels_lie_where_a_patch_has_come_to() -> None:
    clip = (picture(64) // 6 + 20).repeat(2, 1, 1, 1)
    for t, x in enumerate((16, 28)):  # a square fills the second patch of the second row, then most of the third
        clip[t, 16:32, x : x + 16] = picture(32, seed=2)[:16, :16] // 2 + 128
    gray = clip.float().mean(dim=-1)
    before = patch_means(farneback_flow(gray[:1], gray[1:]), 16)[0, 4:8]
    assert (before.norm(dim=-1) >= 11).tolist() == [False, True, False, False]
    after = FlowLabels(16, threshold=11)(clip)[0, 4:8]
    assert (after > 0).tolist() == [False, False, True, False]


def test_the_absolute_rule_has_a_threshold_in_pixels() -> None:
    motion = torch.tensor([[0.6, 0.0], [0.4, 0.0], [0.0, -0.6], [0.0, 0.0]])
    assert absolute_directions(motion, 0.5).tolist() == [1, 0, 7, 0]


def test_the_relative_rule_sees_no_motion_in_a_pan() -> None:
    assert (relative_directions(torch.ones(2, 9, 2)) == 0).all()


def test_relative_labels_equal_the_original(oracle: Oracle) -> None:
    tensors, _ = oracle("time/data_ssv2")
    fields = tensors["label_rule/flow_fields"]
    assert torch.equal(relative_directions(patch_means(fields, 16)), tensors["label_rule/labels"])


def test_farneback_flow_and_its_labels_equal_the_original(oracle: Oracle) -> None:
    tensors, _ = oracle("time/data_ssv2")
    gray = tensors["train0/gray_times_128"]
    flow = farneback_flow(gray[:-1], gray[1:])
    assert_close(flow, tensors["train0/farneback_flow"], atol=1e-3, rtol=1e-3)
    labels = FlowLabels(16, rule="relative").of_gray(gray)
    assert torch.equal(labels, tensors["train0/flow_label"])


def test_a_missing_opencv_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'needs OpenCV: pip install "svt-zoo\[flow\]"'):
        FlowLabels(16)


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 or more uint8 frames \(T, H, W, 3\)"):
        FlowLabels(16)(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must be one of absolute, relative, got 'both'"):
        FlowLabels(16, rule="both")  # type: ignore[arg-type]
