"""Labels for the direction of motion of each patch of a clip, from OpenCV's optical flow."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

FlowRule = Literal["absolute", "relative"]
_LUMA = (0.299, 0.587, 0.114)


class FlowLabels:
    """The direction of motion of each patch from one frame to the next: uint8 (T, H, W, 3) -> uint8 (T-1, N).

    Class 0 is no motion. Classes 1 to 8 cover 45 degrees each, clockwise on the screen: 1 is right, 3 is down. TIME
    predicts the same classes (Yun et al., "Time Is MattEr", ICML 2022). N is the number of patches per frame, in row
    order; pixels outside complete patches are ignored.

    Args:
        patch_size: side of a patch in pixels.
        rule: "absolute" labels a patch of the *later* frame, where the label is predicted. A patch has a direction
            if it moved at least `threshold` pixels. Right is -22.5 to 22.5 degrees, and so on. "relative" is TIME's
            code. It labels a patch of the earlier frame. A patch has a direction if its motion is at least 1 % of
            the range between the smallest and the largest motion of this pair of frames. Right is 0 to 45 degrees,
            so motion along an axis falls into one of two classes at random.
        threshold: in pixels, for "absolute".

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: an unknown rule.
    """

    def __init__(self, patch_size: int, *, rule: FlowRule = "absolute", threshold: float = 1.0) -> None:
        if rule not in get_args(FlowRule):
            raise ValueError(f"rule must be one of {', '.join(get_args(FlowRule))}, got {rule!r}")
        _opencv()  # a missing package is reported before the first video, not in a worker
        self.patch_size, self.rule, self.threshold = patch_size, rule, threshold

    def __call__(self, view: Tensor, *, flip: bool = False) -> Tensor:
        """Labels of a clip; with `flip`, labels of its mirror image."""
        if view.ndim != 4 or view.shape[-1] != 3 or view.dtype != torch.uint8 or len(view) < 2:
            raise ValueError(
                f"flow labels are of 2 or more uint8 frames (T, H, W, 3), got {view.dtype} {tuple(view.shape)}"
            )
        gray = view.float() @ torch.tensor(_LUMA, device=view.device)  # (T, H, W)
        if flip:
            gray = gray.flip(2)
        return self.of_gray(gray).to(torch.uint8)

    def of_gray(self, gray: Tensor) -> Tensor:
        """Labels (T-1, N) int64 of gray frames (T, H, W), 0 to 255."""
        if self.rule == "relative":
            return relative_directions(patch_means(farneback_flow(gray[:-1], gray[1:]), self.patch_size))
        # The negated flow from the later frame to the earlier frame is the motion on the grid of the later frame.
        motion = -farneback_flow(gray[1:], gray[:-1])
        return absolute_directions(patch_means(motion, self.patch_size), self.threshold)


def patch_means(flow: Tensor, patch_size: int) -> Tensor:
    """Mean displacement of each patch: (P, H, W, 2) -> (P, N, 2)."""
    means = F.avg_pool2d(flow.permute(0, 3, 1, 2), patch_size)  # (P, 2, rows, columns)
    return means.flatten(2).transpose(1, 2)


def absolute_directions(motion: Tensor, threshold: float) -> Tensor:
    """Classes of displacements (..., 2) in pixels, x right and y down; class 0 if shorter than `threshold`."""
    eighth = (_degrees(motion) / 45).round().long() % 8
    return torch.where(motion.norm(dim=-1) >= threshold, 1 + eighth, 0)


def relative_directions(motion: Tensor) -> Tensor:
    """Classes of motion (P, N, 2) as in TIME's code: class 0 below 1 % of the motion range of the frame pair."""
    length = motion.norm(dim=-1)  # (P, N)
    low, high = length.amin(dim=-1, keepdim=True), length.amax(dim=-1, keepdim=True)
    percent = torch.where(high > low, 100 * (length - low) / (high - low), torch.zeros_like(length))
    return torch.where(percent >= 1, 1 + (_degrees(motion) / 45).long().clamp(0, 7), 0)


def _degrees(motion: Tensor) -> Tensor:
    """Direction in degrees, 0 to 360, clockwise on the screen; 0 is right."""
    return torch.atan2(motion[..., 1], motion[..., 0]).rad2deg() % 360


def farneback_flow(first: Tensor, second: Tensor) -> Tensor:
    """OpenCV's Farneback flow for pairs of gray frames (P, H, W), with TIME's settings: (P, H, W, 2), pixels (x, y)."""
    cv2 = _opencv()
    numbers = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    pairs = zip(first.float().cpu().numpy(), second.float().cpu().numpy(), strict=True)
    flows = [cv2.calcOpticalFlowFarneback(one, two, None, flags=0, **numbers) for one, two in pairs]
    return torch.from_numpy(np.stack(flows)).to(first.device)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError('optical flow needs OpenCV: pip install "svt-zoo[flow]"') from error
    if get_worker_info() is not None:
        cv2.setNumThreads(0)  # parallel workers fill the cores
    return cv2
