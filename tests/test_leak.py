"""Noise has no future: who predicts it has seen the answer."""

from pathlib import Path

import pytest
import torch
from training_runs import ROOT

from examples.diagnose_leak import diagnose_leak, main, noise_batch
from svt_zoo.config import CPCRecipe, load_recipe

NOISE = ROOT / "configs" / "cpc" / "noise.yaml"


def recipe(*overrides: str) -> CPCRecipe:
    small = "model.options={embed_dim: 32, depth: 1, mlp_dim: 64, dropout: 0.0}"
    found = load_recipe(NOISE, [small, "optim.lr=5e-3", *overrides])
    assert isinstance(found, CPCRecipe)
    return found


def test_full_attention_leaks_and_isolated_attention_does_not() -> None:
    full = diagnose_leak(recipe("cpc.attention=full"), steps=60, last=15)
    isolated = diagnose_leak(recipe("cpc.attention=isolated"), steps=150, last=90)
    assert full.leaks
    assert full.right_clip > 2 * full.chance[1]
    assert not isolated.leaks
    assert isolated.top1 == pytest.approx(isolated.chance[0], abs=2)
    assert isolated.chance == pytest.approx((100 / 24, 100 / 8, 100 / 3))


def test_a_transformer_of_another_kind_can_be_diagnosed() -> None:
    model = "model.options={img_size: 32, patch_size: 16, num_frames: 2, embed_dim: 32, depth: 1, num_heads: 2}"
    found = diagnose_leak(recipe("model.name=svt_vitt", model, "cpc.attention=isolated"), steps=3, last=2)
    assert found.chance == pytest.approx((100 / 96, 100 / 8, 100 / 3))


def test_every_frame_of_noise_is_another_one() -> None:
    (clip,) = noise_batch(2, 3, 16, torch.Generator().manual_seed(0)).views
    assert clip.shape == (2, 3, 3, 16, 16)
    frames = clip.transpose(1, 2).flatten(0, 1).flatten(1)
    distances = torch.cdist(frames, frames) + 100 * torch.eye(6)
    assert distances.min() > 5


def test_the_example_says_which_attention_leaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "leak.json"
    small = "model.options={embed_dim: 16, depth: 1, mlp_dim: 32}"
    arguments = [str(NOISE), small, "--compare", "--steps", "2", "--last", "1", "--output", str(output)]
    assert main(arguments) == 0
    assert "isolated" in capsys.readouterr().out
    assert output.exists()
    assert main([str(ROOT / "configs" / "debug" / "svt_tiny.yaml")]) == 2
    assert "predicts no frames" in capsys.readouterr().err
