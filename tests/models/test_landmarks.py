"""Approximations of trajectory attention's space step: the originals' numbers, and what they must approximate."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.models.landmarks import (
    farthest_tokens,
    favor_features,
    nystrom,
    orthoformer,
    orthogonal_projection,
    performer,
    pseudo_inverse,
    segment_means,
)

Oracle = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
FRAMES = 4


@pytest.fixture
def recorded(oracle: Oracle) -> dict[str, Tensor]:
    return oracle("time/motionformer_approx_helpers")[0]


def equal_to(actual: Tensor, recorded: Tensor) -> None:
    """Equal up to float32 precision, the precision of the record."""
    assert_close(actual.double(), recorded.double(), atol=3e-5 * max(1.0, recorded.abs().max().item()), rtol=0)


def qkv(recorded: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [recorded[name].to(dtype) for name in "qkv"]


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The attention output of each token over each frame, by the formula: (R, S, T, d)."""
    weights = (q @ k.mT * q.shape[-1] ** -0.5).unflatten(2, (FRAMES, -1)).softmax(dim=-1)  # (R, S, T, N)
    return torch.einsum("rsfn,rfnd->rsfd", weights, v.unflatten(1, (FRAMES, -1)))


def draw(dim: int = 16, patches: int = 9, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, FRAMES * patches, dim, generator=generator, dtype=torch.float64) for _ in range(3)]


ALL: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "orthoformer": lambda q, k, v: orthoformer(q, k, v, num_frames=FRAMES, num_landmarks=10),
    "nystrom": lambda q, k, v: nystrom(q, k, v, num_frames=FRAMES, num_landmarks=10),
    "performer": lambda q, k, v: performer(
        q, k, v, num_frames=FRAMES, projection=orthogonal_projection(64, q.shape[-1]).to(q.dtype)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthoformer_equals_the_original(recorded: dict[str, Tensor], dtype: torch.dtype) -> None:
    q, k, v = qkv(recorded, dtype)
    equal_to(
        orthoformer(q, k, v, num_frames=4, num_landmarks=5, first=recorded["ortho/first_idx"]), recorded["ortho/out"]
    )
    chosen = farthest_tokens(q, 5, recorded["ortho/first_idx"])
    landmarks = torch.stack([row[index] for row, index in zip(q, chosen, strict=True)]) * q.shape[-1] ** -0.25
    equal_to(landmarks, recorded["ortho/landmarks"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_landmarks", [5, 8])  # 64 tokens: 5 runs of unequal length, 8 of equal
@pytest.mark.parametrize("spatial", [False, True])
def test_nystrom_equals_the_originals_helper(
    recorded: dict[str, Tensor], dtype: torch.dtype, num_landmarks: int, spatial: bool
) -> None:
    q, k, v = qkv(recorded, dtype)
    out = nystrom(q, k, v, num_frames=4, num_landmarks=num_landmarks, spatial=spatial)
    equal_to(out, recorded[f"nystrom/L{num_landmarks}_spatial{int(spatial)}/out"])


def test_the_pseudo_inverse_equals_the_originals(recorded: dict[str, Tensor]) -> None:
    matrices = recorded["nystrom/inv_in"].double()
    equal_to(pseudo_inverse(matrices), recorded["nystrom/inv_exact"])


def test_a_pseudo_inverse_does_not_depend_on_its_batch(recorded: dict[str, Tensor]) -> None:
    matrices = recorded["nystrom/inv_in"].double()
    assert_close(pseudo_inverse(matrices[:1]), pseudo_inverse(matrices)[:1])
    # The original's other choice scales all matrices by the largest column sum of the batch.
    assert (pseudo_inverse(matrices) - recorded["nystrom/inv_original"].double()).abs().max() > 0.1


def test_the_pseudo_inverse_inverts() -> None:
    matrices = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=-1)
    assert_close(pseudo_inverse(matrices, steps=30) @ matrices, torch.eye(6).double().expand(3, 6, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_performer_equals_the_originals_helpers(recorded: dict[str, Tensor], dtype: torch.dtype) -> None:
    q, k, v = qkv(recorded, dtype)
    projection = recorded["performer/projection"].to(dtype)
    equal_to(favor_features(q, projection).transpose(0, 1), recorded["performer/q_prime"][0])  # (S, R, m)
    equal_to(favor_features(k, projection, over_tokens=True).transpose(0, 1), recorded["performer/k_prime"][0])
    equal_to(performer(q, k, v, num_frames=4, projection=projection), recorded["performer/out"][0])


def test_a_projection_has_the_originals_rows_up_to_sign(recorded: dict[str, Tensor]) -> None:
    theirs = recorded["performer/projection_2Dplus3_rows_seed5"]
    ours = orthogonal_projection(27, 12, seed=5)
    assert_close(ours.norm(dim=1), theirs.norm(dim=1), atol=1e-4, rtol=0)
    cosine = F.cosine_similarity(ours, theirs).abs()
    assert_close(cosine[:24], torch.ones(24), atol=1e-4, rtol=0)
    # The original draws the remainder with the first block's seed: three directions occur twice.
    assert_close(F.cosine_similarity(theirs[24:], theirs[:3]), torch.ones(3), atol=1e-4, rtol=0)
    assert cosine[24:].max() < 0.99


def test_rows_of_a_projection_are_orthogonal_in_runs_of_d_and_repeat_with_their_seed() -> None:
    rows = orthogonal_projection(40, 16, seed=3)
    unit = F.normalize(rows, dim=1)
    for block in unit.split(16):
        assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)
    assert torch.equal(rows, orthogonal_projection(40, 16, seed=3))
    assert (rows - orthogonal_projection(40, 16, seed=4)).abs().max() > 0.1


def test_nystrom_with_as_many_landmarks_as_tokens_is_exact_attention() -> None:
    q, _, v = draw(dim=32)
    q = 4 * q  # each token looks mostly at itself: a matrix that six steps can invert
    out = nystrom(q, q, v, num_frames=FRAMES, num_landmarks=36, spatial=False)
    assert_close(out, exact(q, q, v), atol=1e-6, rtol=0)


def test_performers_error_shrinks_with_the_number_of_features() -> None:
    q, k, v = draw()
    q, k = q / 2, k / 2  # short vectors: long ones need very many features, since exponentials have heavy tails

    def error(features: int) -> float:
        drawn = [
            performer(q, k, v, num_frames=FRAMES, projection=orthogonal_projection(features, 16, seed=100 * s).double())
            for s in range(5)
        ]
        return (torch.stack(drawn) - exact(q, k, v)).square().mean().sqrt().item()

    few, more, many = error(64), error(1024), error(16384)
    assert few > 2 * more > 4 * many  # as 1 / sqrt(m), it would fall by 4 each time
    assert many < 0.05


@pytest.mark.parametrize("name", ALL)
def test_a_frame_of_one_value_gives_that_value(name: str) -> None:
    q, k, v = draw()
    v = v[:, ::9].repeat_interleave(9, dim=1)  # all nine patches of a frame are equal
    if name == "nystrom":
        q = k = 4 * k  # so that the inverse converges
    out = ALL[name](q, k, v)  # (R, S, T, d)
    assert_close(out, v[:, ::9].unsqueeze(1).expand_as(out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    q, k, v = draw()
    assert_close(ALL[name](q[1:], k[1:], v[1:]), ALL[name](q, k, v)[1:])


@pytest.mark.parametrize("name", ALL)
def test_queries_keys_and_values_get_finite_gradients(name: str) -> None:
    inputs = [x.requires_grad_() for x in draw()]
    ALL[name](*inputs).square().sum().backward()
    for x in inputs:
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_near_full_precision(name: str) -> None:
    q, k, v = (x.bfloat16() for x in draw())
    out = ALL[name](q, k, v)
    assert out.dtype == torch.bfloat16
    full = ALL[name](q.double(), k.double(), v.double())
    assert F.cosine_similarity(out.double().flatten(), full.flatten(), dim=0) > 0.99


def test_orthoformer_chooses_directions_that_differ() -> None:
    axes = torch.eye(4).repeat_interleave(3, dim=0)  # three tokens along each of four axes
    tokens = (axes * torch.arange(1.0, 13.0).unsqueeze(1)).unsqueeze(0)  # (1, 12, 4)
    assert (farthest_tokens(tokens, 4)[0] // 3).tolist() == [0, 1, 2, 3]
    assert farthest_tokens(tokens, 12)[0].tolist() == list(range(12))
    assert farthest_tokens(tokens, 100).shape == (1, 12)


def test_runs_of_tokens_cover_all_of_them() -> None:
    x = torch.arange(7.0).view(1, 7, 1)
    assert_close(segment_means(x, 3).flatten(), torch.tensor([0.5, 2.5, 5.0]))
    assert_close(segment_means(x, 9), x)
