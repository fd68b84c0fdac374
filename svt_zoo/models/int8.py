"""Networks in int8 on CPUs: the linear layers compute with weights of 8 bits, everything else stays float32.

A weight has one scale per output channel, fixed when the network is converted. An activation has one scale per token,
measured in each call, so no data for calibration is needed. The class token, which is the feature, is rounded a second
time: the product of its rounding error is added.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
_LIMIT = 127  # of a weight
_SMALLEST = 1e-12  # of a divisor
# Largest rounded inputs. Processors without VNNI (AVX2 alone) add pairs of products in 16 bits: 2 * 127 * 129 < 2**15.
_LARGEST_ROWS = (255, 129)
# Layers whose sequences do not start with the class token.
_NO_CLASS_TOKEN = ("temporal_attn.qkv", "temporal_attn.proj", "temporal_fc", "proj_q")
_READ_DIRECTLY = "proj_kv"  # trajectory attention uses this weight as a tensor
_SCALE = "weight_scale"  # the entry of a state dict beside an int8 weight


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as int8 (out, in) and the scales float32 (out,) of its channels: weight = int8 * scale."""
    scale = weight.detach().float().abs().amax(dim=1).clamp_min(_SMALLEST) / _LIMIT  # (out,)
    return (weight.detach() / scale[:, None]).round().clamp(-_LIMIT, _LIMIT).to(torch.int8), scale


class Rounded(NamedTuple):
    """Inputs as uint8 (..., in); they are about rows * step + least, with one `step` and `least` (..., 1) per row."""

    rows: Tensor
    step: Tensor
    least: Tensor


def round_rows(x: Tensor) -> Rounded:
    """Round each row of x to 256 steps (130 without VNNI) from its least to its largest value."""
    least = x.amin(-1, keepdim=True)
    step = ((x.amax(-1, keepdim=True) - least) / largest_row()).clamp_min_(_SMALLEST)
    return Rounded(torch.addcmul(0.5 - least / step, x, 1 / step).to(torch.uint8), step, least)


class Int8Linear(nn.Module):
    """A linear layer for inference on a CPU: (..., in) -> (..., out), float32, with an int8 product inside.

    With `class_token`, the first row of each sequence (..., S, in) is computed to 16 bits: its error is rounded too.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    zero_points: Tensor

    def __init__(self, linear: nn.Linear, *, class_token: bool = False) -> None:
        super().__init__()
        weight, scale = quantize_weight(linear.weight)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.class_token = class_token
        self.register_buffer("weight", weight)
        self.register_buffer(_SCALE, scale)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("bias", bias)
        self.register_buffer("zero_points", torch.zeros(linear.out_features, dtype=torch.int32), persistent=False)
        self._packed: Tensor | None = None
        self._sums = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
            self._sums = self.weight.sum(dim=1) * self.weight_scale  # (out,)
        rounded = round_rows(x)
        out = self._multiply(rounded, self.bias)
        if self.class_token and x.ndim > 2:
            first, step, least = (value[..., :1, :] for value in rounded)
            out[..., :1, :] += self._multiply(round_rows(x[..., :1, :] - (first * step + least)))
        return out

    def _multiply(self, rounded: Rounded, bias: Tensor | None = None) -> Tensor:
        rows, step, least = (value.flatten(0, -2) for value in rounded)  # (R, in), (R, 1), (R, 1)
        out = _product(rows, self._packed, self.weight_scale, self.zero_points)  # (R, out)
        out = out.mul_(step) if bias is None else torch.addcmul(bias, out, step)
        return out.addcmul_(least, self._sums).unflatten(0, rounded.rows.shape[:-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # packed again where it is used, perhaps on another processor


def _product(rows: Tensor, packed: Tensor | None, scale: Tensor, zero_points: Tensor) -> Tensor:
    """rows @ weight.T * scale, as float32 (R, out), by the kernel of PyTorch's compiler for uint8 rows (R, in)."""
    as_it_is: Any = (None, 1.0, 0, torch.float32, "none", [], "")
    out: Tensor = torch.ops.onednn.qlinear_pointwise(rows, 1.0, 0, packed, scale, zero_points, *as_it_is)
    return out


@functools.cache
def largest_row() -> int:
    """The largest uint8 input with which this processor's int8 kernel adds without overflow.

    Raises:
        ValueError: there is none, or this torch has no int8 kernel.
    """
    for value in _LARGEST_ROWS if torch.backends.mkldnn.is_available() else ():
        weight = torch.tensor([[_LIMIT], [-_LIMIT]], dtype=torch.int8).repeat(1, 64)
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        rows = torch.full((4, 64), value, dtype=torch.uint8)
        out = _product(rows, packed, torch.ones(2), torch.zeros(2, dtype=torch.int32))
        if bool((out == torch.tensor([1, -1]) * value * _LIMIT * 64).all()):
            return value
    raise ValueError("dtype=int8 needs oneDNN with exact int8 products; this torch or processor lacks it; use float32")


def is_int8(network: nn.Module) -> bool:
    """Whether `to_int8` returned this network."""
    return any(isinstance(module, Int8Linear) for module in network.modules())


def int8_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a network by name, except a classifier's."""
    return {name: module for name, module in network.named_modules() if type(module) is nn.Linear and name != "head"}


def to_int8(network: Network) -> Network:
    """A copy whose linear layers are int8, in eval mode; a network that is int8 already is returned as it is.

    Convolutions, norms, attention, position tables and the classifier stay float32.

    Raises:
        ValueError: the network has no linear layers, or this torch or processor has no exact int8 kernels.
    """
    if is_int8(network):
        return network.eval()
    largest_row()  # refuses
    copied = copy.deepcopy(network).to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()
    layers = int8_layers(copied)
    if not layers:
        raise ValueError(f"dtype=int8 is not possible: {type(network).__name__} has no linear layers; use float32")
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        if child != _READ_DIRECTLY:
            class_token = not name.endswith(_NO_CLASS_TOKEN)
            setattr(copied.get_submodule(parent), child, Int8Linear(layer, class_token=class_token))
    return copied


def int8_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network with the weights of its linear layers in int8, and `weight_scale` beside each."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    for name in int8_layers(network):
        weight, scale = quantize_weight(state[f"{name}.weight"])
        state |= {f"{name}.weight": weight, f"{name}.{_SCALE}": scale}
    return state


def to_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `int8_state` returned as a state dict in float32; any other is returned as it is.

    Raises:
        ValueError: a scale has another number of channels than its weight.
    """
    plain = dict(state)
    for key, weight in state.items():
        scale = state.get(f"{key}_scale")
        if weight.dtype == torch.int8 and scale is not None:
            if scale.shape != weight.shape[:1]:
                raise ValueError(f"{key} has shape {tuple(weight.shape)}, {key}_scale {tuple(scale.shape)}")
            plain[key] = weight * plain.pop(f"{key}_scale")[:, None]
    return plain
