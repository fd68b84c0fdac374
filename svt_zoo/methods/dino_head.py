"""The projection head of DINO and SVT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter


class DINOHead(nn.Module):
    """A multi-layer perceptron to a unit vector, and its cosine with each of K prototypes: (R, D) -> (R, K).

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), appendix C. Names of
    parameters are the original's: `mlp.0`, `mlp.2`, ..., `last_layer.weight_g`, `last_layer.weight_v`.

    Args:
        in_dim: width D of the features.
        out_dim: number K of prototypes.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: width of the unit vector.
        num_layers: linear layers in front of the unit vector.
        use_bn: batch normalization behind each of them but the last.
        norm_last_layer: keep every prototype's length at 1; False learns it.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_layers: int = 3,
        use_bn: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a projection head needs num_layers >= 1, got {num_layers}")
        layers: list[nn.Module] = []
        for index in range(num_layers - 1):
            layers.append(nn.Linear(hidden_dim if index else in_dim, hidden_dim))
            layers += [nn.BatchNorm1d(hidden_dim), nn.GELU()] if use_bn else [nn.GELU()]
        last = nn.Linear(hidden_dim if layers else in_dim, bottleneck_dim)
        self.mlp = nn.Sequential(*layers, last) if layers else last
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = Prototypes(bottleneck_dim, out_dim, learn_length=not norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        """Features (R, D) -> one logit a prototype (R, K)."""
        x = self.mlp(x)  # (R, bottleneck_dim)
        # Half precision has no 1e-12: a feature of zeros would become 0 / 0.
        return self.last_layer(F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12))


class Prototypes(nn.Module):
    """A linear layer without bias whose rows are a direction `weight_v` times a length `weight_g`: (R, D) -> (R, K).

    Plain parameters, unlike torch's weight normalization: these names are the original's, and a copy is a deepcopy.
    """

    def __init__(self, in_dim: int, out_dim: int, *, learn_length: bool) -> None:
        super().__init__()
        self.weight_g = Parameter(torch.ones(out_dim, 1), requires_grad=learn_length)
        self.weight_v = Parameter(torch.empty(out_dim, in_dim))
        nn.init.uniform_(self.weight_v, -(in_dim**-0.5), in_dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Dot product of x (R, D) with every prototype, (R, K)."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))
