"""The paired test and the verdicts of examples/claims.py, and the factors of its videos."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from video_files import encode, moving_square

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "examples" / "claims.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module
    spec.loader.exec_module(module)
    return module


def test_a_clip_counts_once_in_the_paired_test_however_many_seeds_saw_it(claims: ModuleType) -> None:
    right = {str(i): 1 for i in range(6)}
    wrong = dict.fromkeys(right, 0)
    assert claims.paired([right], [wrong]) == {"better": 6, "worse": 0, "p": 0.031}  # 2 / 2 ** 6
    assert claims.paired([right] * 3, [wrong] * 3) == claims.paired([right], [wrong])
    assert claims.paired([wrong], [right])["worse"] == 6
    assert claims.paired([right, wrong], [wrong, right]) == {"better": 0, "worse": 0, "p": 1.0}


def test_verdicts_need_certainty(claims: ModuleType) -> None:
    ahead, behind = ({"better": 9, "worse": 1, "p": 0.02}, {"better": 1, "worse": 9, "p": 0.02})
    assert claims.verdict("variation", ahead) == "seen"
    assert claims.verdict("variation", behind) == "opposite"
    assert claims.verdict("variation", ahead | {"p": 0.2}) == "not seen"
    assert [claims.verdict("batch", test) for test in (ahead, behind, ahead | {"p": 0.2})] == [
        "opposite",  # the small batch is worse
        "seen",
        "seen",
    ]


def test_a_class_is_a_path_and_speed_is_how_often_it_crosses_the_frame(claims: ModuleType) -> None:
    right, down = np.diff(np.unwrap(claims.places(0, 2.0, np.random.default_rng(0)), axis=0, period=1.0), axis=0).T
    assert np.allclose(down, 0)
    assert np.allclose(np.abs(right), 2 / claims.LENGTH)


def test_a_video_depends_only_on_its_seed_and_factors_change_it(claims: ModuleType) -> None:
    def video(**factors: float) -> torch.Tensor:
        return claims.make_video(1, 2, claims.Factors(**factors), np.random.default_rng(3))

    assert torch.equal(video(), video())
    for name, value in {"speed": 1.0, "scale": 1.0, "occlusion": 1.0, "flicker": 0.5, "tint": 1.0}.items():
        assert not torch.equal(video(), video(**{name: value}))


def test_real_textures_are_parts_of_frames_that_move_with_the_disc(claims: ModuleType, tmp_path: Path) -> None:
    for number in range(4):
        encode(tmp_path / f"{number}.mp4", moving_square(5, 48, 64, seed=number))
    pictures = claims.real_textures(tmp_path)
    assert pictures.shape == (4, 3, 32, 32)
    assert 0 <= pictures.min() < pictures.max() <= 1
    factors = claims.Factors(occlusion=0.0, textures="videos")
    drawn, real, other = (
        claims.make_video(0, 0, factors, np.random.default_rng(3), found) for found in (None, pictures, 1 - pictures)
    )
    moved = (real != other).any(dim=-1)  # the disc, and nothing else
    assert 0 < moved.float().mean() < 0.5
    assert not torch.equal(drawn[moved], real[moved])
    torch.testing.assert_close(drawn[~moved], real[~moved], atol=3, rtol=0)


def test_too_few_videos_for_textures_are_refused(claims: ModuleType, tmp_path: Path) -> None:
    encode(tmp_path / "one.mp4", moving_square(5, 48, 64))
    with pytest.raises(SystemExit, match="needs 4 videos, has 1"):
        claims.real_textures(tmp_path)


def test_an_unknown_factor_is_refused(
    claims: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", "--set", "sped=1"])
    with pytest.raises(SystemExit):
        claims.main()
    assert "--set sped: must be one of" in capsys.readouterr().err
