"""Every command of the README and of the guides can be given; those of docs/own_videos.md run from top to bottom."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import ROOT, make_training_videos

from svt_zoo.cli import build_parser, main
from svt_zoo.config import load_any, load_recipe

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_VIDEOS = (ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8")
SMALL = dict(re.findall(r"^\| `([\w ./]+)` \| `(.*)` \|$", OWN_VIDEOS, re.MULTILINE))
TINY_CLIP = "clip.num_frames=4 clip.sampling_rate=1 clip.resize_size=32 clip.crop_size=32"
TINY = {
    "pretrain": "views.global_size=32 views.local_size=16 svt.hidden_dim=32 svt.bottleneck_dim=16",
    "evaluate": TINY_CLIP,
    "finetune": TINY_CLIP,
    "visualize": "--img-size 32 --num-frames 4",
    "extract": "--workers 0",
}


def commands(page: str) -> Iterator[str]:
    """The `svt-zoo` lines of the page's code blocks, without comments."""
    for block in re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if re.match(r"(svt-zoo|torchrun .* -m svt_zoo) ", line))


ALL = [(page.name, line) for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_has_known_arguments_and_its_recipe_accepts_the_overrides(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    start = next(i for i, word in enumerate(words) if word in ("svt-zoo", "svt_zoo")) + 1
    if words[start:][-1:] == ["..."]:
        words.pop()
        if len(words) == start + 1:
            return  # `svt-zoo extract ...` shows the launcher alone
    args, overrides = build_parser().parse_known_args(words[start:])
    if hasattr(args, "overrides"):
        load = load_recipe if args.command in ("pretrain", "preview") else load_any
        load(args.recipe, [*args.overrides, *overrides])
    else:
        assert not overrides


def test_the_commands_of_own_videos_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        Path("videos", part).mkdir(parents=True)
        make_training_videos(Path("videos", part))
    for path in Path("videos/val").rglob("*.mp4"):  # lists that share files are refused
        path.rename(path.with_name(f"val_{path.name}"))
    shutil.copy("videos/val/a/val_v00.mp4", "new.mp4")
    lines = list(commands(OWN_VIDEOS))
    assert len(lines) == 14
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        key = " ".join(words[:2]) if words[0] == "evaluate" else words[0]
        words += [*SMALL.get(key, "").split(), *TINY.get(words[0], "").split()]
        assert main(words) == 0, line
    assert list(Path("runs/tuned/results").glob("*.json"))
    assert Path("mine.onnx").stat().st_size > 0
