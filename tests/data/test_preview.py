"""The image of a recipe's training views."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image

from svt_zoo.data.augment import Augment, views_sheet

ROOT = Path(__file__).resolve().parents[2]


def test_a_row_shows_a_views_frames_in_order_with_their_true_colours() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    levels = torch.tensor([0.0, 0.5, 1.0])
    colours = torch.stack((levels, levels.flip(0), torch.zeros(3)))  # (3 channels, 3 frames)
    view = (colours - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
    rows = [("global view 1", view[:, :, None, None].expand(3, 3, 32, 32))]
    sheet = views_sheet(rows, Augment(mean=mean, std=std), side=40)
    pixels = np.asarray(sheet)
    for frame, expected in enumerate([(0, 255, 0), (128, 128, 0), (255, 0, 0)]):
        assert pixels[18 + 4 + 20, 4 + frame * 42 + 20].tolist() == list(expected)


def test_smaller_views_are_drawn_smaller() -> None:
    views = [("a", torch.zeros(3, 2, 64, 64)), ("b", torch.zeros(3, 2, 32, 32))]
    both = views_sheet(views, Augment(), side=80)
    assert both.height == 4 + (80 + 18) + (40 + 18) + 4
    assert both.width == 4 + 2 * 82 + 4


def test_the_tool_draws_the_recipes_views(
    tmp_path: Path, grey_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(grey_video(30).read_bytes())
    tool = command("preview")
    recipe = str(ROOT / "configs" / "svt" / "vitb_k400.yaml")
    out = tmp_path / "sheet.png"
    assert tool([recipe, f"data.train={videos}", "--videos", "1", "--output", str(out)]) == 0
    assert "1 of 1 videos" in capsys.readouterr().out
    assert Image.open(out).width == 4 + 16 * 98 + 4  # the widest row: 16 frames of 96 pixels
    assert tool([recipe, f"data.train={videos}", "views.globl_size=3"]) == 2
    assert "unknown key views.globl_size; did you mean views.global_size?" in capsys.readouterr().err
    (videos / "a.mp4").write_bytes(b"broken")
    assert tool([recipe, f"data.train={videos}", "--output", str(out)]) == 2
    assert "a.mp4" in capsys.readouterr().err
