import numpy as np
import pytest
import torch
from bright_model import bright_model, moving_square
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.models import create_model
from svt_zoo.models.attention import attention_rollout, class_attention, record_attention
from svt_zoo.models.timesformer import DividedBlock, TimeSformer

CASES = ["native", "T8", "T6_32", "T2", "T3", "T1", "small32", "small48", "large96", "nonsq_64x96", "nonsq_80x48"]
CASES += ["notmult_70x59", "local_T16_32"]


def tiny(depth: int = 2, *, active_time: bool = True, seed: int = 0, **options: object) -> TimeSformer:
    """A small network in float64 with random weights that are large enough for attention to be far from uniform."""
    torch.manual_seed(seed)
    model = create_model("svt_vitt", img_size=(32, 48), embed_dim=16, depth=depth, num_heads=2, num_frames=3, **options)
    assert isinstance(model, TimeSformer)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if not active_time:
        for block in model.blocks:
            torch.nn.init.zeros_(block.temporal_fc.weight)
    return model.double().eval()


def random_clip(batch: int = 2, frames: int = 3, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def oracle_model(oracle) -> TimeSformer:
    model = create_model("svt_vitt", img_size=64, embed_dim=48, depth=3, num_heads=4, num_frames=4)
    model.load_state_dict(oracle("svt/tiny_model_weights")[0])
    return model.double().eval()


@pytest.fixture(scope="module")
def cases(oracle) -> dict[str, Tensor]:
    return oracle("svt/tiny_model_cases")[0]


def spatial_attention(model: TimeSformer, clip: Tensor) -> Tensor:
    """The attention inside every frame of the last block: (B, T, h, 1+N, 1+N)."""
    with record_attention(model.blocks[-1]) as maps:
        model(clip)
    return maps["attn"].unflatten(0, (clip.shape[0], clip.shape[2]))


# Recording


@pytest.mark.parametrize("case", CASES)
def test_spatial_attention_of_the_last_block_equals_the_original(oracle_model, cases, case) -> None:
    attention = spatial_attention(oracle_model, cases[f"{case}/input"].double())
    assert_close(attention.flatten(0, 1), cases[f"{case}/attn"].double(), atol=1e-9, rtol=0)


def test_other_grid_of_the_same_size_differs_from_the_original_which_does_not_stretch_its_table(
    oracle_model, cases
) -> None:
    case = "nonsq_same_count_32x128"
    attention = spatial_attention(oracle_model, cases[f"{case}/input"].double()).flatten(0, 1)
    assert (attention - cases[f"{case}/attn"].double()).abs().max() > 1e-4


@pytest.mark.parametrize(("case", "grid"), [("native", (4, 4)), ("nonsq_64x96", (4, 6)), ("nonsq_80x48", (5, 3))])
def test_class_attention_is_the_class_tokens_row_averaged_over_heads(oracle_model, cases, case, grid) -> None:
    clip = cases[f"{case}/input"].double()
    expected = cases[f"{case}/attn"].double()[:, :, 0, 1:].mean(dim=1).reshape(len(clip), -1, *grid)
    assert_close(class_attention(oracle_model, clip), expected, atol=1e-9, rtol=0)


def test_recorded_weights_are_those_that_the_forward_pass_applies() -> None:
    model = tiny(depth=1)
    seen = {}
    block = model.blocks[0]
    block.attn.register_forward_hook(lambda module, args, out: seen.update(x=args[0], out=out))
    with record_attention(model) as maps:
        model(random_clip())
    _, _, values = block.attn.split_heads(seen["x"])
    heads = (maps["blocks.0.attn"] @ values).transpose(1, 2).flatten(2)
    assert_close(block.attn.proj(heads), seen["out"])


def test_recording_covers_every_attention_module_and_its_rows_sum_to_one() -> None:
    model = tiny(depth=2)
    with record_attention(model) as maps:
        model(random_clip(batch=2, frames=5))
    shapes = {name: tuple(value.shape) for name, value in maps.items()}
    assert shapes == {
        f"blocks.{i}.{name}": shape
        for i in range(2)
        for name, shape in (("attn", (2 * 5, 2, 1 + 6, 1 + 6)), ("temporal_attn", (2 * 6, 2, 5, 5)))
    }
    for value in maps.values():
        assert_close(value.sum(dim=-1), torch.ones(value.shape[:-1], dtype=torch.float64))


@pytest.mark.parametrize("look", [class_attention, attention_rollout])
def test_looking_leaves_no_hook_and_does_not_change_the_features(look) -> None:
    model, clip = tiny(), random_clip()
    before = model(clip)
    look(model, clip)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert_close(model(clip), before, atol=0, rtol=0)


def test_hooks_are_removed_when_the_forward_pass_fails() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("stop here")

    model = tiny()
    model.blocks[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        attention_rollout(model, random_clip())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_class_attention_of_joint_attention_sums_to_one_over_all_frames() -> None:
    model, clip = tiny(attention="joint_space_time"), random_clip()
    with record_attention(model.blocks[-1]) as maps:
        model(clip)
    own = maps["attn"][:, :, 0, 0].mean(dim=1)  # (B,)
    assert_close(class_attention(model, clip).flatten(1).sum(dim=1) + own, torch.ones(2, dtype=torch.float64))


def test_class_attention_of_space_only_attention_sums_to_one_in_every_frame() -> None:
    model, clip = tiny(attention="space_only"), random_clip()
    own = spatial_attention(model, clip)[:, :, :, 0, 0].mean(dim=2)  # (B, T)
    assert_close(class_attention(model, clip).flatten(2).sum(dim=2) + own, torch.ones(2, 3, dtype=torch.float64))


# Rollout


@torch.no_grad()
def dense_rollout(model: TimeSformer, clip: Tensor, residual: float) -> Tensor:
    """Rollout by full matrices, (B, 1+T*N, 1+T*N): every step is one matrix over all tokens, in execution order."""
    batch, num_frames = clip.shape[0], clip.shape[2]
    rows, columns = model.patch_embed.grid(clip)
    num_patches = rows * columns
    size = 1 + num_frames * num_patches
    with record_attention(model) as maps:
        model(clip)
    result = torch.eye(size, dtype=torch.float64).repeat(batch, 1, 1)

    def token(t: int, n: int) -> int:
        return 1 + t * num_patches + n

    for i, block in enumerate(model.blocks):
        attention = maps[f"blocks.{i}.attn"].mean(dim=1)
        for b in range(batch):
            if not isinstance(block, DividedBlock):
                steps = [attention[b]]
            else:
                time, space = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
                time[0, 0] = 1
                along = maps[f"blocks.{i}.temporal_attn"].mean(dim=1)
                for n in range(num_patches):
                    for t in range(num_frames):
                        for s in range(num_frames):
                            time[token(t, n), token(s, n)] = along[b * num_patches + n, t, s]
                for t in range(num_frames):
                    frame = [0] + [token(t, n) for n in range(num_patches)]
                    inside = attention[b * num_frames + t]
                    space[0, frame] += inside[0] / num_frames
                    for row, query in enumerate(frame[1:], start=1):
                        space[query, frame] = inside[row]
                steps = [time, space] if block.temporal_fc.weight.any() else [space]
            for step in steps:
                mixed = residual * torch.eye(size, dtype=torch.float64) + (1 - residual) * step
                result[b] = mixed @ result[b]
    return result


@pytest.mark.parametrize("residual", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("options", [{}, {"active_time": False}, {"attention": "joint_space_time"}], ids=str)
def test_rollout_is_the_product_of_the_steps_matrices(options, residual) -> None:
    model, clip = tiny(depth=3, **options), random_clip()
    dense = dense_rollout(model, clip, residual)
    rollout = attention_rollout(model, clip, residual=residual)
    assert_close(rollout.flatten(1), dense[:, 0, 1:])
    own = dense[:, 0, 0]
    assert_close(rollout.flatten(1).sum(dim=1) + own, torch.ones(2, dtype=torch.float64))


def test_rollout_of_the_original_weights_is_the_product_of_the_steps_matrices(oracle_model, cases) -> None:
    clip = cases["nonsq_80x48/input"].double()
    assert_close(attention_rollout(oracle_model, clip).flatten(1), dense_rollout(oracle_model, clip, 0.5)[:, 0, 1:])


def test_rollout_of_skip_connections_alone_reaches_no_patch() -> None:
    assert not attention_rollout(tiny(), random_clip(), residual=1.0).any()


def test_rollout_through_one_block_without_time_is_half_the_class_attention() -> None:
    model, clip = tiny(depth=1, active_time=False), random_clip(frames=3)
    assert_close(attention_rollout(model, clip), class_attention(model, clip) / 2 / 3)


def test_rollout_refuses_an_impossible_residual() -> None:
    with pytest.raises(ValueError, match=r"residual must lie in \[0, 1\], got 1.5"):
        attention_rollout(tiny(), random_clip(), residual=1.5)


def test_rollout_refuses_a_network_that_sees_frames_alone() -> None:
    with pytest.raises(ValueError, match="space-only network has class_attention"):
        attention_rollout(tiny(attention="space_only"), random_clip())


# What one token changes


FRAME, PATCH = 1, 4  # the patch that is changed: row 1, column 1 of the 2 x 3 grid


def class_rows(model: TimeSformer) -> tuple[Tensor, Tensor]:
    """The class token's attention (T, h, 1+N) on a clip, and on one that differs in one patch of one frame."""
    clip = random_clip(batch=1)
    other = clip.clone()
    other[:, :, FRAME, 16:32, 16:32] += 0.5
    before, after = (spatial_attention(model, x)[0, :, :, 0] for x in (clip, other))
    return before, after


def test_without_time_one_patch_changes_the_map_of_its_frame_alone() -> None:
    before, after = class_rows(tiny(depth=1, active_time=False))
    changed = (before - after).abs().amax(dim=(1, 2))  # (T,)
    assert changed[FRAME] > 1e-3
    assert_close(changed[[0, 2]], torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_with_time_one_patch_changes_other_frames_only_through_its_own_position() -> None:
    before, after = class_rows(tiny(depth=1))
    # Softmax keeps the ratios of unchanged logits: relative to the class token's own weight, one entry changes.
    ratio = (after / after[:, :, :1]) / (before / before[:, :, :1])  # (T, h, 1+N)
    moved = (ratio.log().abs() > 1e-9).any(dim=1)  # (T, 1+N)
    expected = torch.zeros_like(moved)
    expected[:, 1 + PATCH] = True
    assert_close(moved, expected)


def test_behind_a_second_block_one_patch_changes_every_frame() -> None:
    before, after = class_rows(tiny(depth=2, active_time=False))
    assert ((before - after).abs().amax(dim=(1, 2)) > 1e-6).all()  # through the class token that frames share


def test_a_change_in_one_clip_leaves_the_others_of_the_batch_alone() -> None:
    model, clip = tiny(), random_clip(batch=2)
    other = clip.clone()
    other[1] += torch.rand_like(other[1])
    for look in (class_attention, attention_rollout):
        before, after = look(model, clip), look(model, other)
        assert_close(before[0], after[0])
        assert (before[1] - after[1]).abs().max() > 1e-4


# The order of tokens


@pytest.mark.parametrize("look", [class_attention, attention_rollout])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (5, 2), (1, 6), (6, 1)], ids=str)
def test_a_moving_square_is_followed_by_row_column_and_frame(grid, look) -> None:
    rng = np.random.default_rng(grid)
    rows, columns = grid
    paths = [[divmod(int(n), columns) for n in rng.permutation(rows * columns)] for _ in range(2)]
    clips = torch.stack([moving_square(grid, path, 8) for path in paths])
    maps = look(bright_model(8), clips)
    assert maps.shape == (2, rows * columns, rows, columns)
    found = [[divmod(n, columns) for n in clip.flatten(1).argmax(dim=1).tolist()] for clip in maps]
    assert found == paths


def test_nearly_all_attention_of_the_bright_model_lies_on_the_square() -> None:
    clip = moving_square((3, 5), [(0, 4), (2, 1)], 8).unsqueeze(0)
    maps = class_attention(bright_model(8), clip)[0]
    assert maps[0, 0, 4] > 0.9
    assert maps[1, 2, 1] > 0.9
