"""Pre-trains a tiny SVT on videos without labels, and writes a report about the result."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from ..config import Recipe, read_recipe
from ..data.lists import read_list
from ..hub.loading import FINAL_NAME, load_model
from ..training.checkpoint import seed_all
from ..training.monitor import METRICS_NAME, read_metrics
from ..training.run import build_backbone, pretrain
from .miniature import make_miniature
from .report import MADE, OWN, Score, Subject, write_report
from .synthetic import make_videos

VIDEOS = {"train": 80, "val": 30}  # synthetic videos per class
QUICK_VIDEOS = {"train": 40, "val": 15}
QUICK_OPTIONS = ["data.batch_size=16", "optim.epochs=24", "optim.warmup_epochs=1"]  # too few steps to learn much
OWN_STEPS, QUICK_OWN_STEPS = 150, 75  # training steps on a user's videos
OWN_LIMIT, QUICK_OWN_LIMIT = 300, 100  # maximum number of a user's videos
WORKERS = 2  # processes that make or re-encode videos
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
