"""Does a predictive recipe give its answer away? Train it on noise: `python tools/diagnose_leak.py RECIPE [key=value]`.

Every frame is an independent random picture, so whoever finds the right one better than by chance has seen it.
Exit status: 0 if the recipe stays at chance, 1 if it leaks; with --compare always 0.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from svt_zoo.config import CPCRecipe, load_recipe
from svt_zoo.training.leak import diagnose_leak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a file below configs/, of a method that predicts")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as cpc.attention=full")
    parser.add_argument("--compare", action="store_true", help="full, frame_causal and isolated attention in turn")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--last", type=int, default=100, help="steps at the end that are counted")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        if not isinstance(recipe, CPCRecipe):
            raise ValueError(f"{args.recipe}: method={recipe.method} predicts no frames; give a recipe of cpc")
        torch.set_num_threads(1)
        found = {}
        for attention in ("full", "frame_causal", "isolated") if args.compare else (recipe.cpc.attention,):
            case = replace(recipe, cpc=replace(recipe.cpc, attention=attention))
            found[attention] = diagnose_leak(case, steps=args.steps, last=args.last, report=lambda line: print(line))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'attention':14}{'loss':>8}{'top-1':>8}{'clip':>8}{'step':>8}{'eval loss':>11}{'eval top-1':>12}")
    for name, leak in found.items():
        numbers = f"{leak.loss:8.3f}{leak.top1:8.1f}{leak.right_clip:8.1f}{leak.right_step:8.1f}"
        print(f"{name:14}{numbers}{leak.eval_loss:11.3f}{leak.eval_top1:12.1f}  {'leaks' if leak.leaks else ''}")
    print(f"{'chance':14}{'':8}" + "".join(f"{value:8.1f}" for value in leak.chance))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({name: leak._asdict() for name, leak in found.items()}, indent=1) + "\n")
    return 0 if args.compare else int(leak.leaks)


if __name__ == "__main__":
    sys.exit(main())
