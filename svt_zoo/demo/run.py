"""Pre-trains a tiny SVT on synthetic or own videos without labels, and writes a report about the result."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import Recipe, read_recipe
from ..data.encode import Encoding
from ..data.lists import VideoList, read_list
from ..data.prepare import prepare_videos
from ..hub.loading import FINAL_NAME, load_model
from ..training.checkpoint import seed_all
from ..training.monitor import METRICS_NAME, read_metrics
from ..training.run import build_backbone, pretrain
from .report import MADE, OWN, Score, Subject, write_report
from .synthetic import make_videos

VIDEOS = {"train": 80, "val": 30}  # synthetic videos per class
QUICK_VIDEOS = {"train": 40, "val": 15}
QUICK_OPTIONS = ["data.batch_size=16", "optim.epochs=24", "optim.warmup_epochs=1"]  # too few steps to learn much
OWN_STEPS, QUICK_OWN_STEPS = 150, 75  # training steps on a user's videos
OWN_LIMIT, QUICK_OWN_LIMIT = 300, 100  # maximum number of a user's videos
WORKERS = 2  # processes that make or re-encode videos
HELD_OUT = 0.25  # fraction of the groups of a class
REPORT_NAME = "report.html"
_log = logging.getLogger(__name__)


def run_demo(
    output: Path, *, videos: str | None = None, quick: bool = False, seed: int = 0, overrides: Sequence[str] = ()
) -> list[Score] | None:
    """Make the videos, train and write `report.html` into `output`; a stopped run continues.

    Args:
        output: folder for all files.
        videos: a list or a folder of the user's videos; by default synthetic videos are made.
        quick: fewer videos and epochs.
        seed: of the synthetic videos and of the training.
        overrides: `key=value` changes to the recipe.

    Returns:
        The accuracies, the trained network last; None if a signal stopped the training.
    """
    output = output.resolve()
    changes = [f"data.train={output / 'train.csv'}", f"run.output={output / 'run'}", f"run.seed={seed}"]
    _log.info("1 of 3: the videos, in %s", output / "videos")
    if videos:
        limit = QUICK_OWN_LIMIT if quick else OWN_LIMIT
        train, val = make_miniature(videos, output / "videos", limit=limit, workers=WORKERS)
        batch = min(32, len(train))
        epochs = max(2, (QUICK_OWN_STEPS if quick else OWN_STEPS) // (len(train) // batch))
        changes += [f"data.batch_size={batch}", f"optim.epochs={epochs}"]
    else:
        counts = QUICK_VIDEOS if quick else VIDEOS
        for number, (part, per_class) in enumerate(counts.items()):
            folder = output / "videos" / part
            make_videos(folder, per_class=per_class, seed=2 * seed + number, workers=WORKERS)
        train, val = (read_list(output / "videos" / part) for part in counts)
        changes += QUICK_OPTIONS if quick else []
    train.save(output / "train.csv")
    recipe = read_recipe(Recipe, "demo/own_videos" if videos else "demo/svt_tiny", [*changes, *overrides])
    seed_all(recipe.run.seed)
    untrained = build_backbone(recipe)  # the initial weights of the training
    _log.info("2 of 3: training on %d videos for %d epochs, without labels", len(train), recipe.optim.epochs)
    if not pretrain(recipe):
        return None
    _log.info("3 of 3: the report")
    trained, metrics = load_model(str(output / "run" / FINAL_NAME)), read_metrics(output / "run" / METRICS_NAME)
    subject = Subject(trained, untrained, train, val, metrics, math.log(recipe.svt.out_dim))
    return write_report(output / REPORT_NAME, subject, OWN if videos else MADE)


def make_miniature(
    source: str | os.PathLike[str], output: Path, *, limit: int = 300, short_side: int = 64, workers: int = 0
) -> tuple[VideoList, VideoList | None]:
    """Make small copies of up to `limit` videos: a training list and, if they have classes, a validation list.

    A stopped run continues.

    Args:
        source: a list or a folder, in any format of `read_list`.
        output: another folder.
        limit: maximum number of videos; a larger list is reduced to a fixed random choice.
        short_side: short side of the copies, in pixels.
        workers: processes that re-encode; 0 works in this one.

    Raises:
        ListError: there are no videos, or the list is invalid.
        ValueError: fewer than two of the videos can be read.
    """
    videos = read_list(source)
    if len(videos) > limit:
        _log.info("%s has %d videos; %d of them are used", source, len(videos), limit)
        videos = videos.subset(limit)
    encoding = Encoding(short_side=short_side)
    prepared = prepare_videos(videos, output, encoding, workers=workers)
    for failure in prepared.failures:
        _log.warning("%s is left out, because it cannot be read: %s", *failure)
    if len(prepared.videos) < 2:
        raise ValueError(
            f"{source}: the demo needs at least 2 videos, got {len(prepared.videos)} readable of {len(videos)}"
        )
    written = {os.path.realpath(output / video.output) for video in prepared.videos}
    copies = read_list(prepared.list)
    copies = replace(copies, rows=tuple(row for row in copies.rows if os.path.realpath(row.path) in written))
    return split(copies)


def split(videos: VideoList) -> tuple[VideoList, VideoList | None]:
    """Split videos into training and held-out ones: a quarter of each class; groups stay together.

    Holds out nothing (None) if there are fewer than two classes, a video has no label, or a class has only one group.
    """
    groups: dict[int | None, set[str]] = {}
    for row in videos.rows:
        groups.setdefault(row.label, set()).add(row.group or row.path)
    if len(groups) < 2 or None in groups or min(map(len, groups.values())) < 2:
        return videos, None
    return videos.hold_out(HELD_OUT)
