"""RandAugment and AugMix of frames (T, C, H, W): the same operations at the same strength for all frames of a clip."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta, Dirichlet

from .operations import apply_operation

_MAX_LEVEL = 10  # magnitudes go from 0 to this
_GRAY = (0.5, 0.5, 0.5)  # where a shift or a rotation uncovers the edge, on the scale [0, 1]

# How far each operation goes at the highest magnitude: its argument without effect, and the distance from there.
_RANDAUGMENT_RANGES: dict[str, tuple[float, float]] = {
    "AdjustBrightness": (1, 0.9),
    "AdjustContrast": (1, 0.9),
    "AdjustSaturation": (1, 0.9),
    "AdjustSharpness": (1, 0.9),
    "AutoContrast": (0, 0),
    "Equalize": (0, 0),
    "Invert": (0, 0),
    "Rotate": (0, 30),
    "Posterize": (4, 4),
    "Solarize": (1, 1),
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "TranslateX": (0, 0.45),
    "TranslateY": (0, 0.45),
}
_AUGMIX_RANGES: dict[str, tuple[float, float]] = {
    "AutoContrast": (0, 0),
    "Equalize": (0, 0),
    "Rotate": (0, 30),
    "Posterize": (4, 4),
    "Solarize": (1, 1),
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "TranslateX": (0, 1 / 3),
    "TranslateY": (0, 1 / 3),
    "AdjustSaturation": (0.1, 1.8),
    "AdjustContrast": (0.1, 1.8),
    "AdjustBrightness": (0.1, 1.8),
    "AdjustSharpness": (0.1, 1.8),
}
_RANDAUGMENT_SAMPLING = {"sampling_data_type": "int", "sampling_min": 0, "sampling_std": 0.5}
_AUGMIX_SAMPLING = {"sampling_data_type": "float", "sampling_min": 0.1}
_WITHOUT_ARGUMENT = ("AutoContrast", "Equalize", "Invert")
_DECREASING = ("Posterize", "Solarize")  # stronger with a smaller argument
_COLOR_FACTORS = ("AdjustBrightness", "AdjustContrast", "AdjustSaturation", "AdjustSharpness")


class OpSampler(nn.Module):
    """Applies transforms drawn from a list, one after the other.

    Args:
        transforms_list: what to draw from.
        transforms_prob: positive weights of the draw; None makes all equally likely.
        num_sample_op: how many to draw.
        randomly_sample_depth: draw that number too, from 1 to `num_sample_op`.
        replacement: let a transform be drawn more than once.
    """

    def __init__(
        self,
        transforms_list: Sequence[Callable[[Tensor], Tensor]],
        transforms_prob: Sequence[float] | None = None,
        num_sample_op: int = 1,
        randomly_sample_depth: bool = False,
        replacement: bool = False,
    ) -> None:
        super().__init__()
        weights = [1.0] * len(transforms_list) if transforms_prob is None else list(transforms_prob)
        if not 1 <= num_sample_op <= len(transforms_list):
            raise ValueError(f"num_sample_op must be 1 to {len(transforms_list)} transforms, got {num_sample_op}")
        if len(weights) != len(transforms_list) or min(weights) <= 0:
            raise ValueError(f"transforms_prob needs {len(transforms_list)} positive numbers, got {weights}")
        self.transforms_list = transforms_list
        self.transforms_prob = torch.tensor(weights)
        self.num_sample_op = num_sample_op
        self.randomly_sample_depth = randomly_sample_depth
        self.replacement = replacement

    def forward(self, x: Tensor) -> Tensor:
        """Apply the drawn transforms to `x`."""
        depth = self.num_sample_op
        if self.randomly_sample_depth:
            depth = int(torch.randint(1, depth + 1, (1,)))
        for index in torch.multinomial(self.transforms_prob, depth, replacement=self.replacement).tolist():
            x = self.transforms_list[index](x)
        return x


class RandAugment:
    """Applies `num_layers` of 14 operations, each with probability `prob` (RandAugment, arXiv:1909.13719).

    On uint8 the fill is scaled to [0, 255]; PyTorchVideo fills with its 0.5 there, which is black.

    Args:
        magnitude: strength from 0 to 10.
        num_layers: operations drawn for a clip.
        prob: probability that a drawn operation is applied.
        transform_hparas: `{"fill": (r, g, b)}` on the scale [0, 1]; None is mid-grey.
        sampling_type: "gaussian" draws strengths around the magnitude, "uniform" up to it.
        sampling_hparas: "sampling_std" of the Gaussian; "sampling_data_type" ("int" or "float") and "sampling_min"
            of the uniform draw.
    """

    def __init__(
        self,
        magnitude: int = 9,
        num_layers: int = 2,
        prob: float = 0.5,
        transform_hparas: Mapping[str, Any] | None = None,
        sampling_type: str = "gaussian",
        sampling_hparas: Mapping[str, Any] | None = None,
    ) -> None:
        level = _Level(magnitude, sampling_type, sampling_hparas or _RANDAUGMENT_SAMPLING)
        fill = (transform_hparas or {"fill": _GRAY})["fill"]
        operations = [
            _Operation(name, bounds, prob, level, fill, signed_factors=True)
            for name, bounds in _RANDAUGMENT_RANGES.items()
        ]
        self.randaug_fn = OpSampler(operations, num_sample_op=num_layers)

    def __call__(self, video: Tensor) -> Tensor:
        """Augment frames (T, C, H, W), float on the scale [0, 1] or uint8."""
        augmented: Tensor = self.randaug_fn(video)
        return augmented


class AugMix:
    """Mixes a clip with chains of operations on it (AugMix, arXiv:1912.02781).

    Args:
        magnitude: strength from 1 to 10.
        alpha: concentration of the Dirichlet and Beta distributions that the weights of the mix are drawn
            from.
        width: number of chains.
        depth: operations in a chain; -1 draws 1 to 3.
        transform_hparas: `{"fill": (r, g, b)}` on the scale [0, 1]; None is mid-grey.
        sampling_hparas: "sampling_data_type" ("int" or "float") and "sampling_min" of the strengths.
    """

    def __init__(
        self,
        magnitude: int = 3,
        alpha: float = 1.0,
        width: int = 3,
        depth: int = -1,
        transform_hparas: Mapping[str, Any] | None = None,
        sampling_hparas: Mapping[str, Any] | None = None,
    ) -> None:
        if not 1 <= magnitude <= _MAX_LEVEL:
            raise ValueError(f"magnitude must be 1 to {_MAX_LEVEL}, got {magnitude}")
        if alpha <= 0 or width < 1:
            raise ValueError(f"alpha and width must be greater than 0, got {alpha} and {width}")
        self.dirichlet = Dirichlet(torch.full((width,), float(alpha)))
        self.beta = Beta(alpha, alpha)
        level = _Level(magnitude, "uniform", sampling_hparas or _AUGMIX_SAMPLING)
        fill = (transform_hparas or {"fill": _GRAY})["fill"]
        operations = [
            _Operation(name, bounds, 1.0, level, fill, signed_factors=False) for name, bounds in _AUGMIX_RANGES.items()
        ]
        self.augmix_fn = OpSampler(
            operations,
            num_sample_op=depth if depth > 0 else 3,
            randomly_sample_depth=depth <= 0,
            replacement=True,
        )

    def __call__(self, video: Tensor) -> Tensor:
        """Augment frames (T, C, H, W), float on the scale [0, 1] or uint8."""
        weights = self.dirichlet.sample().tolist()
        own = float(self.beta.sample())
        mixed = torch.zeros_like(video, dtype=torch.float32)
        for weight in weights:
            mixed += weight * self.augmix_fn(video)
        return (own * video + (1 - own) * mixed).to(video.dtype)


class _Level:
    """Draws the strength of an operation, from 0 to 10, around or up to a magnitude."""

    def __init__(self, magnitude: int, sampling_type: str, hparas: Mapping[str, Any]) -> None:
        needed = {"gaussian": ["sampling_std"], "uniform": ["sampling_data_type", "sampling_min"]}
        if sampling_type not in needed:
            raise ValueError(f"sampling_type must be 'gaussian' or 'uniform', got {sampling_type!r}")
        missing = [key for key in needed[sampling_type] if key not in hparas]
        if missing:
            raise ValueError(f"sampling_hparas needs {missing} for {sampling_type!r} sampling, got {dict(hparas)}")
        self.magnitude = magnitude
        self.sampling_type = sampling_type
        self.hparas = hparas

    def draw(self) -> float:
        if self.sampling_type == "gaussian":
            level = float(torch.normal(self.magnitude, self.hparas["sampling_std"], size=(1,)))
            return max(0.0, min(_MAX_LEVEL, level))
        low = self.hparas["sampling_min"]
        if self.hparas["sampling_data_type"] == "int":
            return int(torch.randint(low, self.magnitude + 1, size=(1,)))
        return low + float(torch.rand(1)) * (self.magnitude - low)


class _Operation:
    """One operation of a policy, applied with a probability at a drawn strength."""

    def __init__(
        self,
        name: str,
        bounds: tuple[float, float],
        prob: float,
        level: _Level,
        fill: Sequence[float],
        *,
        signed_factors: bool,
    ) -> None:
        self.name = name
        self.bounds = bounds
        self.prob = prob
        self.level = level
        self.fill = fill
        self.signed = name not in _DECREASING and (signed_factors or name not in _COLOR_FACTORS)

    def __call__(self, video: Tensor) -> Tensor:
        if float(torch.rand(1)) > self.prob:
            return video
        share = self.level.draw() / _MAX_LEVEL
        return apply_operation(self.name, video, self._argument(share), self.fill)

    def _argument(self, share: float) -> float:
        start, distance = self.bounds
        if self.name in _WITHOUT_ARGUMENT:
            return 0.0
        if self.signed and float(torch.rand(1)) <= 0.5:
            return start - share * distance
        if self.name == "Posterize":
            return start - int(share * distance)
        if self.name == "Solarize":
            return start - share * distance
        return start + share * distance
