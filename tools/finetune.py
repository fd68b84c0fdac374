"""Fine-tune a network on labelled videos and test it: `python tools/finetune.py RECIPE [key=value ...]`.

The same command goes on with a run that was stopped or killed. Under `torchrun` several processes train together.
Exit status: 0 when the run has ended, 75 when a signal (SIGTERM, SIGUSR1) asked it to stop: it has saved what there is.
"""

import argparse
import logging
import sys

from svt_zoo.config import FinetuneRecipe, describe, read_recipe
from svt_zoo.evaluation.build import describe_result
from svt_zoo.training.engine import NonFiniteLoss
from svt_zoo.training.finetune import finetune
from svt_zoo.training.signals import ASKED_TO_STOP, exit_when_asked


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"what a recipe and key=value can set, with the defaults:\n{describe(FinetuneRecipe)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a file in configs/finetune/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as init=dino data.train=/list.csv"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        recipe = read_recipe(FinetuneRecipe, args.recipe, args.overrides)
        with exit_when_asked():
            results = finetune(recipe)
    except (ValueError, OSError, RuntimeError, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    if results is None:
        return ASKED_TO_STOP
    for result in results:
        print(describe_result(result))
    if results:  # the main process has them
        print(f"written: results in {recipe.report.folder}, the classifier and all else in {recipe.run.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
