"""Does a predictive recipe leak its answer? `python examples/diagnose_leak.py RECIPE [key=value]` trains it on noise.

Every frame is an independent random picture. A method that finds the right frame better than by chance has seen it.
Exit status: 0 if the recipe stays at chance, 1 if it leaks; with --compare always 0.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svt_zoo.batch import Batch
from svt_zoo.config import CPCRecipe, load_recipe
from svt_zoo.device import choose_device
from svt_zoo.methods import CPC
from svt_zoo.training.checkpoint import seed_all
from svt_zoo.training.optim import build_optimizer
from svt_zoo.training.run import build_backbone, build_method

_GRID = 4  # random colors along either side of a frame of noise


class Leak(NamedTuple):
    """Results on noise, in percent: means over the last steps of training, then in eval mode.

    `top1` is how often the right token is found. `right_clip` is how often the token is of the right clip, and
    `right_step` how often a token of the right clip is of the right frame. `chance` holds the chance of these three.
    """

    steps: int
    loss: float
    top1: float
    right_clip: float
    right_step: float
    eval_loss: float
    eval_top1: float
    chance: tuple[float, float, float]

    @property
    def leaks(self) -> bool:
        """Whether the right token is found more than twice as often as by chance."""
        return max(self.top1, self.eval_top1) > 2 * self.chance[0]


def diagnose_leak(
    recipe: CPCRecipe, *, steps: int = 400, last: int = 100, report: Callable[[str], None] | None = None
) -> Leak:
    """Train a recipe's method on videos whose frames are independent noise, fresh in every step.

    Args:
        recipe: with any backbone; its list of videos is not needed. `optim.lr` holds throughout.
        steps: of training.
        last: the last steps that are counted, and the number of batches in eval mode.
        report: called with a line of numbers every hundred steps.
    """
    device = choose_device(recipe.run.device)
    seed_all(recipe.run.seed)
    method = build_method(recipe, build_backbone(recipe)).to(device).train()
    assert isinstance(method, CPC)
    method.train()
    optimizer = build_optimizer(method, recipe.optim)
    size, shape = recipe.data.batch_size, (method.context_frames + method.pred_frames, recipe.views.size)
    generator = torch.Generator().manual_seed(recipe.run.seed)

    def numbers() -> Tensor:
        """Loss, `top1`, `right_clip` and `right_step` of one batch of noise, with a step if the method trains."""
        loss = method(noise_batch(size, *shape, generator).to(device), 0.0)["cpc"]
        if method.training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        metrics = method.metrics()
        found = (float(metrics[name]) for name in ("top1", "right_clip", "right_step"))
        return torch.tensor([float(loss.detach()), *found])

    history: list[Tensor] = []
    for step in range(1, steps + 1):
        history.append(numbers())
        if report and step % 100 == 0:
            loss, top1, clip, frame = torch.stack(history[-100:]).mean(dim=0).tolist()
            report(f"step {step}: loss {loss:.3f}, top1 {top1:.1f}, right clip {clip:.1f}, right step {frame:.1f}")
    loss, top1, right_clip, right_step = torch.stack(history[-last:]).mean(dim=0).tolist()
    method.eval()
    with torch.no_grad():
        eval_loss, eval_top1, *_ = torch.stack([numbers() for _ in range(last)]).mean(dim=0).tolist()
    rows = -(-recipe.views.size // method.backbone.patch_size)
    chance = method.chance(size, rows * rows)
    return Leak(steps, loss, top1, right_clip, right_step, eval_loss, eval_top1, chance)


def noise_batch(size: int, num_frames: int, side: int, generator: torch.Generator) -> Batch:
    """Clips (B, 3, T, side, side) whose frames have nothing in common: smooth random colors, drawn for each."""
    colours = torch.randn(size * num_frames, 3, _GRID, _GRID, generator=generator)
    frames = F.interpolate(colours, size=side, mode="bilinear", align_corners=False)
    clip = frames.unflatten(0, (size, num_frames)).transpose(1, 2)  # (B, 3, T, side, side)
    return Batch(views=[clip], labels=torch.full((size,), -1), video_index=torch.arange(size))


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
