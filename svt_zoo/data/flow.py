"""In which direction each patch of a clip moves: optical flow in torch or by OpenCV, and the labels made of it."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

FlowMethod = Literal["torch", "farneback"]
FlowRule = Literal["absolute", "relative"]
_LUMA = (0.299, 0.587, 0.114)
_WIDTHS: tuple[int, float] = (5, 1.2)  # radius and standard deviation of the polynomial's window, in pixels
_LEVELS, _ITERATIONS, _SMALLEST = 4, 3, 32


class FlowLabels:
    """The direction of motion of each patch from a frame to the next: uint8 (T, H, W, 3) -> uint8 (T-1, N).

    Classes are none (0) and eight of 45 degrees each, clockwise on the screen from right (1) over down (3), as TIME
    predicts them (Yun et al., "Time Is MattEr", ICML 2022). N counts the patches of a frame row by row; pixels that
    fill no patch are left out.

    Args:
        patch_size: side of a patch in pixels.
        method: "torch", which needs nothing else, or "farneback", OpenCV's, as TIME's code has it.
        rule: "absolute": a patch of the *later* frame, where the label is predicted, has moved `threshold` pixels at
            least to have a direction; right is from -22.5 to 22.5 degrees, and so on. "relative" is TIME's code: a
            patch of the earlier frame, whose motion is at least 1 % of the way from the smallest to the largest of its
            pair of frames; right is from 0 to 45 degrees, so what moves along an axis is of two classes at random.
        threshold: pixels, of "absolute".

    Raises:
        ImportError: OpenCV is asked for and not installed.
        ValueError: no such method or rule.
    """

    def __init__(
        self, patch_size: int, *, method: FlowMethod = "torch", rule: FlowRule = "absolute", threshold: float = 1.0
    ) -> None:
        if method not in get_args(FlowMethod) or rule not in get_args(FlowRule):
            raise ValueError(
                f"flow labels have a method of {', '.join(get_args(FlowMethod))} and a rule of "
                f"{', '.join(get_args(FlowRule))}, got {method!r} and {rule!r}"
            )
        if method == "farneback":
            _opencv()  # a missing package is told before the first video, not in a worker
        self.patch_size, self.method, self.rule, self.threshold = patch_size, method, rule, threshold

    def __call__(self, view: Tensor, *, flip: bool = False) -> Tensor:
        """The labels of a clip, or of its mirror image, which `flip` asks for.

        Raises:
            ValueError: a clip of another type or shape, or of one frame.
        """
        if view.ndim != 4 or view.shape[-1] != 3 or view.dtype != torch.uint8 or len(view) < 2:
            raise ValueError(
                f"flow labels are of 2 or more uint8 frames (T, H, W, 3), got {view.dtype} {tuple(view.shape)}"
            )
        gray = view.float() @ torch.tensor(_LUMA, device=view.device)  # (T, H, W)
        if flip:
            gray = gray.flip(2)
        return self.of_gray(gray).to(torch.uint8)

    def of_gray(self, gray: Tensor) -> Tensor:
        """Labels (T-1, N) int64 of grey frames (T, H, W), 0 to 255."""
        flow = farneback_flow if self.method == "farneback" else torch_flow
        if self.rule == "relative":
            return relative_directions(patch_means(flow(gray[:-1], gray[1:]), self.patch_size))
        # Where each pixel of the later frame came from, turned round: its motion, on its own grid.
        motion = -flow(gray[1:], gray[:-1])
        return absolute_directions(patch_means(motion, self.patch_size), self.threshold)


def patch_means(flow: Tensor, patch_size: int) -> Tensor:
    """Mean displacement of each patch: (P, H, W, 2) -> (P, N, 2)."""
    means = F.avg_pool2d(flow.permute(0, 3, 1, 2), patch_size)  # (P, 2, rows, columns)
    return means.flatten(2).transpose(1, 2)


def absolute_directions(motion: Tensor, threshold: float) -> Tensor:
    """Classes of displacements (..., 2) in pixels, x to the right and y down; shorter than `threshold` is none."""
    eighth = (_degrees(motion) / 45).round().long() % 8
    return torch.where(motion.norm(dim=-1) >= threshold, 1 + eighth, 0)


def relative_directions(motion: Tensor) -> Tensor:
    """As TIME's code: none is what moves less than 1 % of the range of the pair's patches; motion is (P, N, 2)."""
    length = motion.norm(dim=-1)  # (P, N)
    low, high = length.amin(dim=-1, keepdim=True), length.amax(dim=-1, keepdim=True)
    share = torch.where(high > low, 100 * (length - low) / (high - low), torch.zeros_like(length))
    return torch.where(share >= 1, 1 + (_degrees(motion) / 45).long().clamp(0, 7), 0)


def _degrees(motion: Tensor) -> Tensor:
    """Clockwise on the screen from right, 0 to 360."""
    return torch.atan2(motion[..., 1], motion[..., 0]).rad2deg() % 360


def farneback_flow(first: Tensor, second: Tensor) -> Tensor:
    """OpenCV's Farneback flow of pairs of grey frames (P, H, W), with TIME's numbers: (P, H, W, 2) in pixels (x, y).

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = _opencv()
    numbers = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    pairs = zip(first.float().cpu().numpy(), second.float().cpu().numpy(), strict=True)
    flows = [cv2.calcOpticalFlowFarneback(one, two, None, flags=0, **numbers) for one, two in pairs]
    return torch.from_numpy(np.stack(flows)).to(first.device)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "flow labels by OpenCV need OpenCV: pip install opencv-python-headless, or use the method torch"
        ) from error
    if get_worker_info() is not None:
        cv2.setNumThreads(0)  # parallel workers fill the cores
    return cv2


def torch_flow(first: Tensor, second: Tensor) -> Tensor:
    """Dense flow of pairs of grey frames (P, H, W) on any device: (P, H, W, 2) in pixels, x to the right, y down.

    Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion" (SCIA 2003): both frames are approximated
    around each pixel by polynomials of degree 2; the displacement is the one that maps one onto the other, by least
    squares over a box, from coarse to fine. The numbers are those of `farneback_flow`.
    """
    height, width = first.shape[1:]
    frames = torch.stack((first, second), dim=1).float()  # (P, 2, H, W)
    flow = frames.new_zeros(len(first), 2, 1, 1)
    for level in reversed(range(_LEVELS)):
        size = round(height / 2**level), round(width / 2**level)
        if level and min(size) < _SMALLEST:
            continue
        small = F.interpolate(_smoothed(frames, (2**level - 1) / 2), size, mode="bilinear") if level else frames
        ratio = flow.new_tensor([size[1] / flow.shape[3], size[0] / flow.shape[2]]).view(2, 1, 1)
        flow = F.interpolate(flow, size, mode="bilinear") * ratio
        one, two = (_expand(frame) for frame in small.split(1, dim=1))
        for _ in range(_ITERATIONS):
            flow = _improved(flow, one, two)
    return flow.permute(0, 2, 3, 1)


class _Polynomial(NamedTuple):
    """x^T A x + b^T x around each pixel, x = (x, y)."""

    b: Tensor  # (P, 2, H, W)
    a: Tensor  # (P, 3, H, W): A's xx, yy and xy, of which the last stands in both corners


def _expand(image: Tensor) -> _Polynomial:
    """The polynomials of image (P, 1, H, W) by least squares under a Gaussian, which separates into rows and columns.

    x^2 and y^2 less their mean are orthogonal to each other and to all else, so each coefficient is one filter.
    """
    radius, sigma = _WIDTHS
    places = range(-radius, radius + 1)
    g = _gaussian(radius, sigma)
    m2 = sum(w * x**2 for w, x in zip(g, places, strict=True))
    m4 = sum(w * x**4 for w, x in zip(g, places, strict=True))
    slope = [w * x / m2 for w, x in zip(g, places, strict=True)]
    curve = [w * (x**2 - m2) / (m4 - m2**2) for w, x in zip(g, places, strict=True)]
    smooth_x, slope_x, curve_x = (_filtered(image, taps, 3) for taps in (g, slope, curve))
    b = _filtered(slope_x, g, 2), _filtered(smooth_x, slope, 2)
    a = _filtered(curve_x, g, 2), _filtered(smooth_x, curve, 2), _filtered(slope_x, slope, 2) / 2
    return _Polynomial(torch.cat(b, dim=1), torch.cat(a, dim=1))


def _improved(flow: Tensor, one: _Polynomial, two: _Polynomial) -> Tensor:
    """The displacement (P, 2, H, W) after one step from `flow` (section 3, equations 10 to 16 of the paper)."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack((x, y)).to(flow) + flow  # (P, 2, H, W) of the second frame
    limit = place.new_tensor([max(width - 1, 1), max(height - 1, 1)]).view(2, 1, 1)
    seen = ((place >= 0) & (place <= limit)).all(dim=1, keepdim=True)  # what left the frame says nothing
    grid = (2 * place / limit - 1).permute(0, 2, 3, 1)
    there = F.grid_sample(torch.cat(two, dim=1), grid, padding_mode="border", align_corners=True)  # (P, 5, H, W)
    xx, yy, xy = ((one.a + there[:, 2:]) / 2).unbind(1)
    dx, dy = flow.unbind(1)
    # From here on, A d = difference for each pixel.
    bx, by = ((one.b - there[:, :2]) / 2).unbind(1)
    bx, by = bx + xx * dx + xy * dy, by + xy * dx + yy * dy
    terms = (xx * xx + xy * xy, xy * (xx + yy), yy * yy + xy * xy, xx * bx + xy * by, xy * bx + yy * by)
    trust = seen * _edge_trust(height, width).to(flow)  # (P, 1, H, W)
    g11, g12, g22, h1, h2 = _box_mean(torch.stack(terms, dim=1) * trust).unbind(1)
    determinant = g11 * g22 - g12 * g12 + 1e-3
    return torch.stack((g22 * h1 - g12 * h2, g11 * h2 - g12 * h1), dim=1) / determinant[:, None]


def _edge_trust(height: int, width: int) -> Tensor:
    """(H, W): 1, and less near the edges, where part of the polynomial's window is made up."""
    ramps = []
    for size in (height, width):
        distance = torch.arange(size).minimum(torch.arange(size).flip(0))
        ramps.append(((distance + 1) / (_WIDTHS[0] + 1)).clamp(max=1.0))
    return ramps[0][:, None] * ramps[1]


def _box_mean(x: Tensor) -> Tensor:
    """Mean of x (P, C, H, W) over a square of 15 pixels around each, edges repeated."""
    x = F.pad(x, [7] * 4, mode="replicate")
    for dim in (2, 3):
        two = _shifted_sum(x, x, 1, dim)  # sums of 2, 4, 8 pixels; 8 + 4 + 2 + 1 are 15
        four = _shifted_sum(two, two, 2, dim)
        eight = _shifted_sum(four, four, 4, dim)
        x = _shifted_sum(_shifted_sum(_shifted_sum(eight, four, 8, dim), two, 12, dim), x, 14, dim) / 15
    return x


def _shifted_sum(x: Tensor, y: Tensor, shift: int, dim: int) -> Tensor:
    """x[i] + y[i + shift] along `dim`, as far as both reach."""
    size = min(x.shape[dim], y.shape[dim] - shift)
    return x.narrow(dim, 0, size) + y.narrow(dim, shift, size)


def _gaussian(radius: int, sigma: float) -> list[float]:
    taps = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-radius, radius + 1)]
    return [tap / sum(taps) for tap in taps]


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of x (P, C, H, W)."""
    taps = _gaussian(math.ceil(2.5 * sigma), sigma)
    return _filtered(_filtered(x, taps, 3), taps, 2)


def _filtered(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Correlation of x (P, C, H, W) with 2r+1 taps along `dim`, edges repeated; the shape stays.

    Shifted sums: on a CPU 15 times as fast as a convolution of one channel.
    """
    radius, size = len(taps) // 2, x.shape[dim]
    x = F.pad(x, (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius), mode="replicate")
    out = x.narrow(dim, 0, size) * taps[0]
    for i in range(1, len(taps)):
        out.add_(x.narrow(dim, i, size), alpha=taps[i])
    return out
