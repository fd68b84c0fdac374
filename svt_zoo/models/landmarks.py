"""Three approximations of the space step of Motionformer's trajectory attention.

Patrick et al., "Keeping Your Eye on the Ball: Trajectory Attention in Video Transformers" (NeurIPS 2021), which
introduces the Orthoformer. Each function takes queries, keys and values (R, S, d) of R sequences (clips times heads)
with S = T*N patch tokens, time-major. It returns (R, S, T, d): the attention output of each token over each frame.
Exact attention needs S*S weights per sequence; M landmarks need S*M.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def orthoformer(
    q: Tensor, k: Tensor, v: Tensor, *, num_frames: int, num_landmarks: int, first: Tensor | None = None
) -> Tensor:
    """Attention through M landmarks, the queries with the most different directions: (R, S, T, d).

    `first` (R,) is the first token of each row's search. The original draws it at random; the default is token 0,
    so that a clip always has the same feature. The landmarks get no gradient.
    """
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    tokens = farthest_tokens(q, num_landmarks, first)  # (R, M)
    landmarks = q.gather(1, tokens.unsqueeze(-1).expand(-1, -1, q.shape[-1])).detach()  # (R, M, d)
    to_landmarks = (q @ landmarks.transpose(1, 2)).softmax(dim=-1)  # (R, S, M)
    return _through(to_landmarks, _gathered(landmarks, k, v, num_frames))


def nystrom(q: Tensor, k: Tensor, v: Tensor, *, num_frames: int, num_landmarks: int, spatial: bool = True) -> Tensor:
    """Nyström's approximation of attention (Xiong et al., AAAI 2021) from M landmarks: (R, S, T, d).

    Landmarks are means of neighboring tokens. With `spatial`, these are the frames of a patch position, then of the
    next positions; otherwise, patches in a frame. Landmarks get no gradient.
    """
    q = q * q.shape[-1] ** -0.5
    means = [segment_means(_patch_major(x, num_frames) if spatial else x, num_landmarks).detach() for x in (q, k)]
    query_marks, key_marks = means  # each (R, M, d)
    to_landmarks = (q @ key_marks.transpose(1, 2)).softmax(dim=-1)  # (R, S, M)
    between = (query_marks @ key_marks.transpose(1, 2)).softmax(dim=-1)  # (R, M, M)
    return _through(to_landmarks @ pseudo_inverse(between), _gathered(query_marks, k, v, num_frames))


def performer(q: Tensor, k: Tensor, v: Tensor, *, num_frames: int, projection: Tensor) -> Tensor:
    """Attention whose softmax is the product of random features (FAVOR+, Choromanski et al., ICLR 2021): (R, S, T, d).

    `projection` (m, d), as `orthogonal_projection` draws it; the more rows, the smaller the error.
    """
    with torch.autocast(q.device.type, enabled=False):  # half precision would round the exponentials to zero
        full, projection = _at_least_float(v), _at_least_float(projection)
        queries = favor_features(_at_least_float(q), projection)  # (R, S, m)
        keys = favor_features(_at_least_float(k), projection, over_tokens=True).unflatten(1, (num_frames, -1))
        gathered = keys.transpose(2, 3) @ full.unflatten(1, (num_frames, -1))  # (R, T, m, d)
        total = queries @ keys.sum(dim=2).transpose(1, 2)  # (R, S, T): what softmax divides by
        return (_through(queries, gathered) / total.unsqueeze(-1)).to(v.dtype)


def farthest_tokens(x: Tensor, count: int, first: Tensor | None = None) -> Tensor:
    """Up to `count` tokens of x (R, S, d), chosen greedily to be near-orthogonal: indices (R, M), ascending.

    Each step chooses the token whose largest |cosine| to the chosen ones is smallest. The search starts from `first`
    (R,), or from token 0.
    """
    rows, num_tokens = x.shape[:2]
    with torch.no_grad():
        unit = F.normalize(x, dim=-1)
        newest = torch.zeros(rows, dtype=torch.long, device=x.device) if first is None else first
        chosen = [newest]
        nearest = torch.zeros(rows, num_tokens, dtype=x.dtype, device=x.device)  # largest |cosine| to one chosen
        for _ in range(min(count, num_tokens) - 1):
            mark = unit.gather(1, newest.view(-1, 1, 1).expand(-1, 1, x.shape[-1]))  # (R, 1, d)
            cosine = (unit * mark).sum(dim=-1).abs()  # (R, S)
            nearest = torch.maximum(nearest, cosine).scatter(1, newest.unsqueeze(1), torch.inf)  # never again
            newest = nearest.argmin(dim=1)
            chosen.append(newest)
        return torch.stack(chosen, dim=1).sort(dim=1).values


def segment_means(x: Tensor, count: int) -> Tensor:
    """Means of `count` runs of neighboring tokens of x (R, S, d): (R, M, d).

    If S is not a multiple of M, the last S % M runs are one token longer. There are at most S runs.
    """
    num_tokens = x.shape[1]
    count = min(count, num_tokens)
    length, longer = divmod(num_tokens, count)
    split = (count - longer) * length
    short = x[:, :split].unflatten(1, (count - longer, length)).mean(dim=2)
    if not longer:
        return short
    return torch.cat((short, x[:, split:].unflatten(1, (longer, length + 1)).mean(dim=2)), dim=1)


def pseudo_inverse(matrix: Tensor, steps: int = 6) -> Tensor:
    """Moore-Penrose inverse of softmax matrices (R, M, M) by iteration, as the Nyströmformer does.

    Each matrix starts from its own scale, so that a row's result does not depend on the others of its batch.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        full = _at_least_float(matrix)
        identity = torch.eye(full.shape[-1], dtype=full.dtype, device=full.device)
        inverse = full.transpose(1, 2) / full.sum(dim=1).amax(dim=1)[:, None, None]
        for _ in range(steps):
            near = full @ inverse  # towards the identity
            inverse = inverse / 4 @ (13 * identity - near @ (15 * identity - near @ (7 * identity - near)))
        return inverse.to(matrix.dtype)


def favor_features(x: Tensor, projection: Tensor, *, over_tokens: bool = False) -> Tensor:
    """Positive random features (R, S, m) of x (R, S, d): products of two estimate exp(q . k / sqrt(d)), up to a factor.

    The factor keeps the exponentials in range: one per token, or with `over_tokens` (for keys) one per row.
    """
    x = x * x.shape[-1] ** -0.25
    exponents = x @ projection.transpose(0, 1)  # (R, S, m)
    largest = exponents.detach().amax(dim=(1, 2) if over_tokens else 2, keepdim=True)
    squares = x.square().sum(dim=-1, keepdim=True) / 2  # (R, S, 1)
    return projection.shape[0] ** -0.5 * ((exponents - squares - largest).exp() + 1e-6)


def orthogonal_projection(num_features: int, dim: int, *, seed: int = 0) -> Tensor:
    """Random rows (m, d), float32: orthogonal in groups of d, with the lengths of normal vectors (FAVOR+)."""

    def normal(rows: int, number: int) -> Tensor:
        return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed + number), device="cpu")

    blocks = -(-num_features // dim)
    factors = [torch.linalg.qr(normal(dim, number)) for number in range(blocks)]
    # QR does not determine the signs; with a positive diagonal in R, every machine draws the same rows.
    directions = torch.cat([(q * r.diagonal().sign()).T for q, r in factors])[:num_features]  # (m, d)
    return directions * normal(num_features, blocks).norm(dim=1, keepdim=True)


def _gathered(landmarks: Tensor, k: Tensor, v: Tensor, num_frames: int) -> Tensor:
    """The attention output of landmarks (R, M, d) over every frame's keys and values: (R, T, M, d)."""
    k, v = k.unflatten(1, (num_frames, -1)), v.unflatten(1, (num_frames, -1))  # (R, T, N, d)
    landmarks = landmarks.unsqueeze(1).expand(-1, num_frames, -1, -1)  # (R, T, M, d)
    return F.scaled_dot_product_attention(landmarks, k, v, scale=1.0)


def _through(weights: Tensor, gathered: Tensor) -> Tensor:
    """Distribute the outputs of M landmarks (R, T, M, d) to the tokens, by weights (R, S, M): (R, S, T, d)."""
    num_frames, dim = gathered.shape[1], gathered.shape[3]
    side_by_side = gathered.transpose(1, 2).flatten(2)  # (R, M, T*d)
    return (weights @ side_by_side).unflatten(2, (num_frames, dim))


def _patch_major(x: Tensor, num_frames: int) -> Tensor:
    return x.unflatten(1, (num_frames, -1)).transpose(1, 2).flatten(1, 2)  # (R, N*T, d)


def _at_least_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
