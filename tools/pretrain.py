"""Pre-train a network on videos without labels: `python tools/pretrain.py RECIPE [key=value ...]`.

The same command goes on with a run that was stopped or killed. Under `torchrun` several processes train together.
Exit status: 0 when the run has ended, 75 when a signal (SIGTERM, SIGUSR1) asked it to stop: it has saved what there is.
"""

import argparse
import logging
import sys

from svt_zoo.config import PRETRAINING, describe, load_recipe
from svt_zoo.training.build import pretrain
from svt_zoo.training.engine import NonFiniteLoss
from svt_zoo.training.signals import ASKED_TO_STOP, exit_when_asked


def main(argv: list[str] | None = None) -> int:
    options = "\n".join(f"\nmethod={name}:\n{describe(kind)}" for name, kind in PRETRAINING.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"what a recipe and key=value can set, with the defaults:\n{options}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a file below configs/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as data.train=/videos run.output=runs/a"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        with exit_when_asked():
            finished = pretrain(load_recipe(args.recipe, args.overrides))
    except (ValueError, OSError, RuntimeError, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0 if finished else ASKED_TO_STOP


if __name__ == "__main__":
    sys.exit(main())
