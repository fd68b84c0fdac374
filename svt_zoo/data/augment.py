"""Color jitter, blur, flip and normalization of views on the training device."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .crops import CONTRAST, ViewParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of red, green, blue

# A rotation of the YIQ chroma plane by 90 degrees, as a matrix on RGB: convert to YIQ, rotate, convert back. It moves
# red toward green, as HSV does.
_QUARTER_TURN = (
    (-0.171275, -0.322647, 0.493922),
    (0.332256, -0.039695, -0.292561),
    (-1.261605, 1.050635, 0.210970),
)
_BLUR_RADIUS = 8  # taps on each side: 4 standard deviations of the strongest blur in use, 2 pixels


class Augment(nn.Module):
    """Applies drawn parameters to views: uint8 (B, T, H, W, 3) becomes normalized float32 (B, 3, T, H, W).

    The order is: flip, color jitter (brightness, contrast, saturation and hue in the drawn order), grayscale,
    clamp to [0, 1], Gaussian blur, solarize, `(x - mean) / std`. Nothing is random here. Autocast has no effect.

    Three things differ from torchvision. Colors are clamped once, after grayscale, not after every step. Hue rotates
    the chroma plane of YIQ and keeps the luma; torchvision rotates the hue of HSV. The blur has 17 taps at any size.
    Brightness, contrast (toward the mean gray of each frame), saturation, grayscale and solarize equal torchvision's.

    Args:
        mean, std: of each channel, on the scale [0, 1], in the order of the output channels.
        channel_order: order of the color channels in the output; input views are RGB.
        parity: compute as SVT's released code: the gray weights of red and blue are swapped, and nothing is clamped.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor
    quarter_turn: Tensor

    def __init__(
        self,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: Literal["RGB", "BGR"] = "RGB",
        parity: bool = False,
    ) -> None:
        super().__init__()
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}")
        self.channel_order = channel_order
        self.parity = parity
        # Not persistent: a checkpoint does not contain constants of the recipe.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA[::-1] if parity else LUMA), persistent=False)
        self.register_buffer("quarter_turn", torch.tensor(_QUARTER_TURN), persistent=False)

    @torch.no_grad()
    def forward(self, views: Tensor, params: ViewParams) -> Tensor:
        """Augments `views` (B, T, H, W, 3) with parameters (B, F), which may stay in host memory; F is 1 or T."""
        if views.ndim != 5 or views.shape[-1] != 3 or views.dtype != torch.uint8:
            raise ValueError(f"Augment takes uint8 views (B, T, H, W, 3), got {views.dtype} {tuple(views.shape)}")
        batch, num_frames = views.shape[:2]
        if params.flip.ndim != 2 or params.flip.shape[0] != batch or params.flip.shape[1] not in (1, num_frames):
            raise ValueError(
                f"parameters must be ({batch}, 1) or ({batch}, {num_frames}) for views {tuple(views.shape)}, "
                f"got {tuple(params.flip.shape)}; collate the ViewParams of the same views"
            )
        blurred = params.sigma.gt(0).any(dim=1).nonzero().flatten()  # views with a blurred frame
        solarized = bool(params.solarize.any())
        params = params.to(views.device)

        x = torch.where(params.flip[:, :, None, None, None], views.flip(3), views)
        x = x.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)  # (B, 3, T, H, W)
        x = self.adjust_colors(x.div_(255), params)
        if not self.parity:
            x = x.clamp_(0, 1)
        if len(blurred):
            blurred = blurred.to(views.device, non_blocking=True)
            x[blurred] = gaussian_blur(x[blurred], params.sigma[blurred])
        if solarized:
            x = torch.where(params.solarize[:, None, :, None, None] & (x >= 0.5), 1 - x, x)
        if self.channel_order == "BGR":
            x = x.flip(1)
        return x.sub_(self.mean).div_(self.std)

    def adjust_colors(self, x: Tensor, params: ViewParams) -> Tensor:
        """Applies jitter and grayscale to x (B, 3, T, H, W) as one 3x3 matrix and one offset per frame."""
        mean = x.mean(dim=(3, 4)).transpose(1, 2)  # (B, T, 3)
        matrix, offset = color_map(params, mean, self.luma, self.quarter_turn)
        matrix = matrix.permute(2, 3, 0, 1)[..., None, None]  # (3 out, 3 in, B, T, 1, 1)
        offset = offset.permute(2, 0, 1)[..., None, None]  # (3, B, T, 1, 1)
        red, green, blue = x.unbind(1)
        out = torch.empty_like(x)
        for channel in range(3):  # multiply-adds instead of a matmul: no reduced precision on any device
            torch.addcmul(offset[channel], matrix[channel, 0], red, out=out[:, channel])
            out[:, channel].addcmul_(matrix[channel, 1], green).addcmul_(matrix[channel, 2], blue)
        return out


def color_map(params: ViewParams, mean: Tensor, luma: Tensor, quarter_turn: Tensor) -> tuple[Tensor, Tensor]:
    """Composes jitter and grayscale into `matrix @ color + offset`: (B, T, 3, 3) and (B, T, 3).

    All steps are affine in the color. Contrast needs the mean gray of the frame at that step. An affine map commutes
    with the mean, so `mean` (B, T, 3) of the frames before all steps is enough.
    """
    eye = torch.eye(3, device=mean.device)
    gray = luma.expand(3, 3)  # every channel becomes the gray level
    steps = torch.stack(
        [
            _scale(params.brightness, eye),
            _scale(params.contrast, eye),
            gray + _scale(params.saturation, eye - gray),
            hue_rotation(params.hue, quarter_turn),
        ],
        dim=2,
    )  # (B, F, 4, 3, 3)
    matrix, offset = eye.expand(*mean.shape, 3), torch.zeros_like(mean)
    for position in range(4):
        step = params.order[:, :, position]  # (B, F)
        chosen = steps.take_along_dim(step[..., None, None, None], dim=2).squeeze(2)  # (B, F, 3, 3)
        level = (_apply(matrix, mean) + offset).mul(luma).sum(-1)  # (B, T): mean gray so far
        towards = torch.where(step == CONTRAST, (1 - params.contrast) * level, torch.zeros_like(level))
        matrix, offset = _compose(chosen, matrix), _apply(chosen, offset) + towards[..., None]
    channels = [eye[channel].expand(3, 3) for channel in range(3)]
    drop = torch.stack([eye, gray, *channels])[params.gray]  # (B, F, 3, 3)
    return _compose(drop, matrix), _apply(drop, offset)


def hue_rotation(hue: Tensor, quarter_turn: Tensor) -> Tensor:
    """Matrices (..., 3, 3) that rotate colors in YIQ by `hue` (...), a fraction of a full turn; the luma stays."""
    eye = torch.eye(3, device=hue.device)
    chroma = -_compose(quarter_turn, quarter_turn)  # two rotations by 90 degrees negate the chroma and drop the luma
    angle = hue * (2 * math.pi)
    return (eye - chroma) + _scale(angle.cos(), chroma) + _scale(angle.sin(), quarter_turn)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blurs x (B, 3, T, H, W) by standard deviations (B, F) in pixels; 0 changes nothing. Edges are mirrored.

    The kernel has 17 taps along each axis, as torchvision's `gaussian_blur(kernel_size=17)`; small frames have fewer.
    """
    for dim in (3, 4):
        radius = min(_BLUR_RADIUS, x.shape[dim] - 1)
        distance = torch.arange(-radius, radius + 1, device=x.device) / sigma.clamp_min(1e-3)[..., None]
        taps = torch.exp(-0.5 * distance**2)  # (B, F, 2 * radius + 1)
        taps = (taps / taps.sum(-1, keepdim=True)).permute(2, 0, 1)[:, :, None, :, None, None]  # (taps, B, 1, F, 1, 1)
        margin = (0, 0, radius, radius, 0, 0) if dim == 3 else (radius, radius, 0, 0, 0, 0)
        padded = F.pad(x, margin, mode="reflect")
        size = x.shape[dim]
        x = padded.narrow(dim, 0, size) * taps[0]
        for i in range(1, 2 * radius + 1):  # shifted sums: faster than a convolution on CPU, exact on any device
            x.addcmul_(padded.narrow(dim, i, size), taps[i])
    return x


def _scale(factor: Tensor, matrix: Tensor) -> Tensor:
    return factor[..., None, None] * matrix


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector over leading dimensions, without a matmul: autocast and TF32 would round it."""
    return (matrix * vector[..., None, :]).sum(-1)


def _compose(second: Tensor, first: Tensor) -> Tensor:
    """Matrix product over leading dimensions, without a matmul: autocast and TF32 would round it."""
    return (second[..., :, :, None] * first[..., None, :, :]).sum(-2)
