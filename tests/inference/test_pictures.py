"""The picture of the views that a recipe trains on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image
from view_params import identity_params

from svt_zoo.data.augment import Augment
from svt_zoo.inference.pictures import preview_sheet

ROOT = Path(__file__).resolve().parents[2]
TITLE, GAP = 16 + 6, 6  # pixels above the frames of a row, and between pictures


def sheet(*views: torch.Tensor, side: int) -> Image.Image:
    sample = {"video": list(views), "video_name": "a.mp4", "label": -1, "video_index": 0}
    sample |= {"params": [identity_params()] * len(views), "failures": []}
    return preview_sheet({(0, 0): sample}, [0], Augment(), side=side)  # type: ignore[arg-type]


def test_a_row_shows_the_frames_of_a_view_in_order_with_their_true_colors() -> None:
    colors = torch.tensor([(0, 255, 0), (128, 128, 0), (255, 0, 0)], dtype=torch.uint8)
    pixels = np.asarray(sheet(colors[:, None, None, :].expand(3, 32, 32, 3), side=40))
    for frame, color in enumerate(colors.tolist()):
        assert pixels[GAP + TITLE + 20, GAP + frame * (40 + GAP) + 20].tolist() == color


def test_smaller_views_are_drawn_smaller() -> None:
    views = [torch.zeros(9, size, size, 3, dtype=torch.uint8) for size in (64, 32)]
    both = sheet(*views, side=80)
    assert both.height == GAP + (TITLE + 80) + GAP + (TITLE + 40) + GAP
    assert both.width == GAP + 9 * (80 + GAP)


def test_the_command_draws_the_views_of_a_recipe(
    tmp_path: Path, gray_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(gray_video(30).read_bytes())
    preview = command("preview")
    recipe = str(ROOT / "configs" / "svt" / "vitb_k400.yaml")
    out = tmp_path / "sheet.png"
    assert preview([recipe, f"data.train={videos}", "--videos", "1", "--output", str(out)]) == 0
    assert "1 of 1 videos" in capsys.readouterr().out
    assert Image.open(out).width == GAP + 16 * (96 + GAP)  # the widest row: 16 frames of 96 pixels
    assert preview([recipe, f"data.train={videos}", "views.globl_size=3"]) == 2
    assert "unknown key views.globl_size; did you mean views.global_size?" in capsys.readouterr().err
    (videos / "a.mp4").write_bytes(b"broken")
    assert preview([recipe, f"data.train={videos}", "--output", str(out)]) == 2
    assert "a.mp4" in capsys.readouterr().err
