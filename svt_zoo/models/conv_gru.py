"""Convolutional GRU over feature maps: the GRU of Cho et al. (2014) with convolutions (Ballas et al., ICLR 2016)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def orthogonal_conv(inputs: int, outputs: int, kernel_size: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map size, initialized with orthogonal weights and zero bias."""
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
    nn.init.orthogonal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ConvGRU(nn.Module):
    """One layer of a convolutional GRU, with a state at every position of a map.

    Args:
        in_channels: channels C of the input maps.
        hidden_dim: channels D of the state.
        kernel_size: odd; 1 processes every position independently.
        dropout: fraction of the state's values dropped at each training step; they stay dropped.
    """

    def __init__(self, in_channels: int, hidden_dim: int, *, kernel_size: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_dim, self.dropout = hidden_dim, dropout
        self.reset_gate, self.update_gate, self.out_gate = (
            orthogonal_conv(in_channels + hidden_dim, hidden_dim, kernel_size) for _ in range(3)
        )

    def step(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The state (B, D, h, w) after the next map x (B, C, h, w); None is the state before the first map."""
        if state is None:
            state = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        both = torch.cat((x, state), dim=1)  # (B, C + D, h, w)
        update, reset = torch.sigmoid(self.update_gate(both)), torch.sigmoid(self.reset_gate(both))
        new = torch.tanh(self.out_gate(torch.cat((x, state * reset), dim=1)))
        return F.dropout(state * (1 - update) + new * update, self.dropout, self.training)

    def forward(self, maps: Tensor) -> Tensor:
        """The states (B, T, D, h, w) after each of the maps (B, T, C, h, w); the last state depends on all maps."""
        states: list[Tensor] = []
        for x in maps.unbind(1):
            states.append(self.step(x, states[-1] if states else None))
        return torch.stack(states, dim=1)
