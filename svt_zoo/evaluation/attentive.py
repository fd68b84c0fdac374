"""Attentive probe (cross-attention pooling), and heads with different settings that train side by side."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.layers import Block, init_weights

Inputs = Callable[[Tensor], Tensor]  # rows (n,) -> features of these videos, float32 (n, ...)


class AttentiveHead(nn.Module):
    """Logits (B, K) of tokens (B, S, D): one learned query attends to the tokens, then an MLP and a linear layer.

    The probe of V-JEPA 2 (Assran et al. 2025): `depth` - 1 blocks of self-attention come before the cross-attention.
    The query is multiplied by the key matrix first, and the value matrix is applied to the weighted mean of the tokens.
    The result is the same, and no key or value of a token is computed.
    """

    def __init__(self, dim: int, num_classes: int, depth: int = 1) -> None:
        super().__init__()
        self.num_heads = next(h for h in range(min(16, max(1, dim // 32)), 0, -1) if dim % h == 0)
        self.blocks = nn.ModuleList(Block(dim, self.num_heads, 4.0, True, 0.0) for _ in range(depth - 1))
        self.query = nn.Parameter(torch.empty(1, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.head = nn.Linear(dim, num_classes)
        init_weights(self.modules())
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify; a bias of the keys would have no effect on the softmax, so there is none."""
        for block in self.blocks:
            tokens = block(tokens, 1)
        x = F.layer_norm(tokens, tokens.shape[-1:])  # (B, S, D); the weight and bias of norm1 follow below
        query = self.q(self.query).unflatten(1, (self.num_heads, -1))[0]  # (h, d)
        keys = self.k.weight.unflatten(0, (self.num_heads, -1)) * self.norm1.weight  # (h, d, D)
        scores = torch.einsum("hd,hde->he", query, keys) @ x.mT * query.shape[1] ** -0.5  # (B, h, S)
        means = scores.softmax(dim=-1) @ x * self.norm1.weight + self.norm1.bias  # (B, h, D)
        values = self.v.weight.unflatten(0, (self.num_heads, -1))  # (h, d, D)
        pooled = self.query + torch.einsum("bhe,hde->bhd", means, values).flatten(1) + self.v.bias  # (B, D)
        return self.head(pooled + self.mlp(self.norm2(pooled)))


class Setting(NamedTuple):
    """Options of AdamW for one head."""

    lr: float
    weight_decay: float


class SideBySide:
    """L heads of one architecture and one start, each with its own setting; called as heads(x), logits (L, B, K)."""

    def __init__(self, head: nn.Module, settings: Sequence[Setting], device: torch.device) -> None:
        self.head = head.to(device)
        named = sorted(self.head.named_parameters(), key=lambda item: item[1].ndim < 2)  # matrices first
        self.shapes = {name: parameter.shape for name, parameter in named}
        start = torch.cat([parameter.detach().flatten() for _, parameter in named])
        self.values = start.repeat(len(settings), 1).requires_grad_()  # (L, P)
        matrices = sum(parameter.numel() for _, parameter in named if parameter.ndim > 1)
        self._slices = (slice(matrices), slice(matrices, None))
        # The parameters of each head are views of `values`; as in V-JEPA 2, biases and norms have no weight decay.
        groups = [
            {"params": [nn.Parameter(row[part])], "lr": lr, "base": lr, "weight_decay": decay}
            for row, (lr, weight_decay) in zip(self.values.detach(), settings, strict=True)
            for part, decay in zip(self._slices, (weight_decay, 0.0), strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (L, B, K) of x (B, ...)."""
        with sdpa_kernel(SDPBackend.MATH):  # vmap has no rule for the fused kernel on CPUs
            return vmap(self._one, in_dims=(0, None))(self.values, x)

    def _one(self, values: Tensor, x: Tensor) -> Tensor:
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return functional_call(self.head, named, (x,))

    def step(self, x: Tensor, labels: Tensor, scale: float) -> None:
        """One step of every head on a batch; `scale` multiplies all learning rates."""
        logits = self(x)
        # Sum over the heads: each head gets only the gradient of its own mean loss.
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="sum") / len(labels)
        (gradient,) = torch.autograd.grad(loss, self.values)
        pieces = [row[part] for row in gradient for part in self._slices]
        for group, piece in zip(self.optimizer.param_groups, pieces, strict=True):
            group["params"][0].grad = piece
            group["lr"] = group["base"] * scale
        self.optimizer.step()

    @torch.no_grad()
    def scores(self, inputs: Inputs, rows: Tensor, batch_size: int = 64) -> Tensor:
        """Logits (L, n, K) of these rows, on the CPU."""
        device = self.values.device
        return torch.cat([self(inputs(part).to(device)).cpu() for part in rows.split(batch_size)], dim=1)


def train_side_by_side(
    head: nn.Module,
    settings: Sequence[Setting],
    inputs: Inputs,
    rows: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    device: torch.device,
) -> SideBySide:
    """Train one head per setting, all at once on the same batches; each result is the same as when trained alone.

    Cross entropy, AdamW, a cosine schedule to 0. `labels` (n,) are those of `rows` (n,).
    """
    heads = SideBySide(head, settings, device)
    rng = torch.Generator().manual_seed(seed)  # on the CPU, so that the order is the same for any device
    batches = math.ceil(len(rows) / batch_size)
    for epoch in range(epochs):
        for number, batch in enumerate(torch.randperm(len(rows), generator=rng).split(batch_size)):
            progress = (epoch + number / batches) / epochs
            scale = 0.5 * (1 + math.cos(math.pi * progress))
            heads.step(inputs(rows[batch]).to(device), labels[batch].to(device), scale)
    return heads


def fresh_head(dim: int, num_classes: int, depth: int, seed: int) -> nn.Module:
    """A linear layer (`depth` 0) or an `AttentiveHead`; the seed determines its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if depth:
            return AttentiveHead(dim, num_classes, depth)
        layer = nn.Linear(dim, num_classes)
        init_weights([layer])
        return layer
