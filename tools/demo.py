"""The main job in miniature: pre-trains a tiny SVT on videos without labels and writes a page about what it learned.

Without --videos it makes its own: a light drifts along one of four lines, and everything else is redrawn in each frame.
It can be stopped at any time; the same command goes on.
"""

import argparse
import logging
import math
import sys
import time
from pathlib import Path

from svt_zoo.config import Recipe, read_recipe
from svt_zoo.data.lists import read_list
from svt_zoo.data.miniature import make_miniature
from svt_zoo.data.synthetic import make_videos
from svt_zoo.hub.loading import FINAL_NAME, load_model
from svt_zoo.inference.report import MADE, OWN, Subject, write_report
from svt_zoo.training.build import build_backbone, pretrain
from svt_zoo.training.engine import NonFiniteLoss
from svt_zoo.training.monitor import METRICS_NAME, read_metrics
from svt_zoo.training.random_state import seed_all
from svt_zoo.training.signals import ASKED_TO_STOP

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "demo"
VIDEOS = {"train": 80, "val": 30}  # videos of each class
WORKERS = 2  # processes that make small copies of own videos
OWN_STEPS = 150  # of the training on own videos
_log = logging.getLogger("svt_zoo.demo")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", help="a folder of your own videos; folders of classes in it are used to count")
    parser.add_argument("--output", type=Path, help="where the files go (runs/demo, or runs/demo_NAME of your folder)")
    parser.add_argument("--seed", type=int, default=0, help="of the videos that are made, and of the training")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, as optim.epochs=2")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return run(args)
    except (ValueError, OSError, RuntimeError, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    name = f"demo_{Path(args.videos).resolve().name}" if args.videos else "demo"
    output = (args.output or Path("runs") / name).resolve()
    changes = [f"data.train={output / 'train.csv'}", f"run.output={output / 'run'}", f"run.seed={args.seed}"]
    _log.info("1 of 3: the videos, in %s", output / "videos")
    if args.videos:
        train, val = make_miniature(args.videos, output / "videos", workers=WORKERS)
        batch = min(32, len(train))
        epochs = max(2, OWN_STEPS // (len(train) // batch))
        changes += [f"data.batch_size={batch}", f"optim.epochs={epochs}"]
    else:
        for number, (part, per_class) in enumerate(VIDEOS.items()):
            make_videos(output / "videos" / part, per_class=per_class, seed=2 * args.seed + number)
        train, val = (read_list(output / "videos" / part) for part in VIDEOS)
    train.save(output / "train.csv")
    config = CONFIGS / ("own_videos.yaml" if args.videos else "svt_tiny.yaml")
    recipe = read_recipe(Recipe, config, changes + args.overrides)
    seed_all(recipe.run.seed)
    untrained = build_backbone(recipe)  # as the training starts
    _log.info("2 of 3: training on %d videos for %d epochs, without labels", len(train), recipe.optim.epochs)
    if not pretrain(recipe):
        return ASKED_TO_STOP
    _log.info("3 of 3: what it learned")
    trained, metrics = load_model(str(output / "run" / FINAL_NAME)), read_metrics(output / "run" / METRICS_NAME)
    subject = Subject(trained, untrained, train, val, metrics, math.log(recipe.svt.out_dim))
    for score in write_report(output / "report.html", subject, OWN if args.videos else MADE):
        print(f"{score.name:24s} {score.top1:5.1f} % (95 % interval {score.low:.0f} to {score.high:.0f})")
    print(f"{time.monotonic() - started:.0f} s; the report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
