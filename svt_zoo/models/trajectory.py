"""Trajectory and divided attention over a class token and the patches of all frames.

Patrick et al., "Keeping Your Eye on the Ball: Trajectory Attention in Video Transformers" (NeurIPS 2021), section 3.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .landmarks import nystrom, orthoformer, orthogonal_projection, performer
from .layers import HeadProjections, attend, check_choice

Approximation = Literal["orthoformer", "nystrom", "performer"]
_FEATURES = 256  # random features of the performer, as in the original
# Trajectories have T times as many values as tokens. At most this many are computed at once (32 MiB in float32).
_BUDGET = 2**23


class PatchAttention(HeadProjections):
    """(B, 1 + T*N, D), time-major after a class token -> the same shape: the class token attends to all tokens.

    Subclasses define what patches attend to, in `attend_patches`.
    """

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Attend: x (B, 1 + T*N, D) -> the same shape."""
        q, k, v = self.split_heads(x)  # each (B, h, 1+T*N, d)
        cls = attend(q[:, :, :1], k, v).transpose(1, 2).flatten(2)  # (B, 1, D)
        return self.proj(torch.cat((cls, self.attend_patches(q, k, v, num_frames)), dim=1))

    def attend_patches(self, q: Tensor, k: Tensor, v: Tensor, num_frames: int) -> Tensor:
        """The attention output of patches (B, T*N, D), from queries, keys and values (B, h, 1 + T*N, d)."""
        raise NotImplementedError


class DividedAttention(PatchAttention):
    """A patch attends to the class token and, `along` "time", to its position in all frames, or "space", its frame."""

    def __init__(
        self, embed_dim: int, num_heads: int, *, qkv_bias: bool = True, along: Literal["time", "space"]
    ) -> None:
        super().__init__(embed_dim, num_heads, qkv_bias=qkv_bias)
        self.along = along

    def attend_patches(self, q: Tensor, k: Tensor, v: Tensor, num_frames: int) -> Tensor:
        """G groups of L patches: T frames of N, or N tubes of T."""
        batch = q.shape[0]
        cls_k, cls_v = k[:, None, :, :1], v[:, None, :, :1]  # (B, 1, h, 1, d)
        patches = (y[:, :, 1:].unflatten(2, (num_frames, -1)) for y in (q, k, v))  # each (B, h, T, N, d)
        order = (0, 3, 1, 2, 4) if self.along == "time" else (0, 2, 1, 3, 4)
        q, k, v = (y.permute(order) for y in patches)  # each (B, G, h, L, d)
        k, v = (torch.cat((c.expand(-1, y.shape[1], -1, -1, -1), y), dim=3) for c, y in ((cls_k, k), (cls_v, v)))
        out = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))  # (B*G, h, L, d)
        out = out.transpose(1, 2).flatten(2).unflatten(0, (batch, q.shape[1]))  # (B, G, L, D)
        return (out.transpose(1, 2) if self.along == "time" else out).flatten(1, 2)  # (B, T*N, D)


class TrajectoryAttention(PatchAttention):
    """Trajectory attention: over the patches of each frame separately, then over the resulting points in time.

    Space: patch s attends to each frame f separately, xt[s, f] = sum_p softmax_p(q_s . k_(f,p)) v_(f,p) (equation 3).
    Time: the query of xt[s, its own frame] attends to the keys of xt[s, :] (equations 4 to 6). The map of all patches
    to all patches is never stored: attention is fused, and trajectories are computed for a few frames' queries at once.

    Args:
        use_original_code: the last sum uses xt itself, as the released weights need; False uses its projected value,
            as in the paper. With True, half of `proj_kv` is unused and gets no gradient.
        approximation: method to approximate the space step by `num_landmarks` landmarks (section 3.2); None is exact.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        use_original_code: bool = True,
        approximation: Approximation | None = None,
        num_landmarks: int = 128,
    ) -> None:
        super().__init__(embed_dim, num_heads, qkv_bias=qkv_bias)
        if approximation is not None:
            check_choice("approximation", approximation, Approximation)
        self.use_original_code = use_original_code
        self.approximation, self.num_landmarks = approximation, num_landmarks
        if approximation == "performer":  # the same for every network, so no state dict holds it
            self.projection = orthogonal_projection(_FEATURES, embed_dim // num_heads)
        self.proj_q = nn.Linear(embed_dim, embed_dim)
        self.proj_kv = nn.Linear(embed_dim, 2 * embed_dim)

    def attend_patches(self, q: Tensor, k: Tensor, v: Tensor, num_frames: int) -> Tensor:
        """Trajectories of the queries of F frames at a time, as many as the budget allows."""
        q, k, v = (y[:, :, 1:].unflatten(2, (num_frames, -1)) for y in (q, k, v))  # each (B, h, T, N, d)
        run = max(1, _BUDGET // v.numel())
        space = self._approximated(q, k, v, run) if self.approximation else self._over_space(q, k, v, run)
        return torch.cat([self._over_time(some, i * run).flatten(1, 2) for i, some in enumerate(space)], dim=1)

    def _runs(self, x: Tensor, run: int) -> Sequence[Tensor]:
        """Split x (B, h, T, ...) into runs of frames; an exported program takes any T, so it uses a single run."""
        return (x,) if torch.compiler.is_exporting() else x.split(run, dim=2)

    def _over_space(self, q: Tensor, k: Tensor, v: Tensor, run: int) -> Iterator[Tensor]:
        """Trajectories (B, F, N, T, D) of the patches of F = `run` frames at a time."""
        batch, _, num_frames, num_patches, _ = q.shape
        k, v = (y.transpose(1, 2).flatten(0, 1) for y in (k, v))  # (B*T, h, N, d): every frame separately
        for some in self._runs(q, run):
            queries = some.flatten(2, 3).unsqueeze(1).expand(-1, num_frames, -1, -1, -1)  # (B, T, h, F*N, d)
            gathered = attend(queries.flatten(0, 1), k, v)  # (B*T, h, F*N, d)
            gathered = gathered.unflatten(2, (-1, num_patches)).unflatten(0, (batch, num_frames))
            yield gathered.permute(0, 3, 4, 1, 2, 5).flatten(4)  # (B, F, N, T, D): heads side by side

    def _approximated(self, q: Tensor, k: Tensor, v: Tensor, run: int) -> Iterator[Tensor]:
        """As `_over_space`, approximated through landmarks."""
        batch, num_heads, num_frames, num_patches, _ = q.shape
        q, k, v = (y.flatten(0, 1).flatten(1, 2) for y in (q, k, v))  # (B*h, T*N, d)
        if self.approximation == "performer":
            projection = self.projection.to(q.device, torch.promote_types(q.dtype, torch.float32))
            gathered = performer(q, k, v, num_frames=num_frames, projection=projection)
        else:
            approximate = orthoformer if self.approximation == "orthoformer" else nystrom
            gathered = approximate(q, k, v, num_frames=num_frames, num_landmarks=self.num_landmarks)
        gathered = gathered.unflatten(1, (-1, num_patches)).unflatten(0, (batch, num_heads))  # (B, h, T, N, T, d)
        for some in self._runs(gathered, run):
            yield some.permute(0, 2, 3, 4, 1, 5).flatten(4)  # (B, F, N, T, D)

    def _over_time(self, trajectories: Tensor, first: int) -> Tensor:
        """Attend along trajectories (B, F, N, T, D) of the patches of frames first, first + 1, ...: (B, F, N, D)."""
        num_frames = trajectories.shape[1]
        own = trajectories[:, :, :, first : first + num_frames].diagonal(dim1=1, dim2=3)  # (B, N, D, F)
        queries = self._heads(self.proj_q(own.permute(0, 3, 1, 2)).flatten(0, 2))  # (B*F*N, h, d)
        return self._attend_points(queries, trajectories.flatten(0, 2)).unflatten(0, trajectories.shape[:3])

    def _attend_points(self, queries: Tensor, points: Tensor) -> Tensor:
        """Queries (R, h, d) of R trajectories attend to their points (R, T, D): (R, D).

        The paper projects all R*T points to keys and values. Here the projection is applied to the R queries and sums:
        q . (W p + b) = (W^T q) . p + q . b. The result is the same except for rounding.
        """
        heads = (2, self.num_heads, -1)
        (w_k, w_v), (b_k, b_v) = self.proj_kv.weight.unflatten(0, heads), self.proj_kv.bias.unflatten(0, heads)
        queries = queries * queries.shape[-1] ** -0.5
        folded = (queries.transpose(0, 1) @ w_k).transpose(0, 1)  # (R, h, D)
        # The bias shifts all scores of a trajectory equally; it is kept so that every parameter has a gradient.
        scores = folded @ points.transpose(1, 2) + (queries * b_k).sum(dim=-1, keepdim=True)  # (R, h, T)
        weights = scores.softmax(dim=-1)
        if self.use_original_code:
            return (weights.unsqueeze(2) @ self._heads(points).transpose(1, 2)).flatten(1)
        sums = (weights @ points).transpose(0, 1) @ w_v.transpose(1, 2)  # (h, R, d)
        return (sums.transpose(0, 1) + b_v).flatten(1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # (..., h, d)
