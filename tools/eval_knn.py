"""Evaluate features by their nearest neighbours: `python tools/eval_knn.py RECIPE [key=value ...]`."""

import argparse
import logging
import sys

from svt_zoo.config import KNNRecipe, describe, read_recipe
from svt_zoo.evaluation.build import describe_result, evaluate_knn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"what a recipe and key=value can set, with the defaults:\n{describe(KNNRecipe)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a file in configs/knn/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as init=dino data.train=/list.csv"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        recipe = read_recipe(KNNRecipe, args.recipe, args.overrides)
        results = evaluate_knn(recipe)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the features that are there", file=sys.stderr)
        return 130
    for result in results:
        print(describe_result(result))
    if results:  # the main process has them
        print(f"written: results in {recipe.report.folder}, predictions and pictures in {recipe.run.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
