"""The paired test and the verdicts of examples/claims.py, and the factors of its videos."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

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


def test_an_unknown_factor_is_refused(
    claims: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", "--set", "sped=1"])
    with pytest.raises(SystemExit):
        claims.main()
    assert "--set sped: must be one of" in capsys.readouterr().err
