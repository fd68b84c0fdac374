"""Does a pretext task give its answer away? Videos of noise have no future to predict, so success shows a leak."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..config import CPCRecipe
from ..methods import CPC
from .build import build_backbone, build_method, pick_device
from .optim import build_optimizer, param_groups
from .random_state import seed_all

_GRID = 4  # random colours along either side of a frame of noise


class Leak(NamedTuple):
    """What a method makes of noise, in percent: means over the last steps of training, and behind it in eval mode.

    `top1` is how often the right token is found, `right_clip` one of the right clip, `right_step` (of those) one of
    the right frame; `chance` is of these three.
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
        last: so many steps at the end are counted, and as many batches in eval mode.
        report: called with a line of numbers every hundred steps.
    """
    device = torch.device(pick_device(recipe.run.device))
    seed_all(recipe.run.seed)
    method = build_method(recipe, build_backbone(recipe)).to(device)
    assert isinstance(method, CPC)
    method.train()
    optim = recipe.optim
    groups = param_groups(method)
    optimizer = build_optimizer(
        groups, name=optim.name, lr=optim.lr, weight_decay=optim.weight_decay, betas=optim.betas
    )
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
    """Clips (B, 3, T, side, side) whose frames have nothing in common: smooth random colours, drawn for each."""
    colours = torch.randn(size * num_frames, 3, _GRID, _GRID, generator=generator)
    frames = F.interpolate(colours, size=side, mode="bilinear", align_corners=False)
    clip = frames.unflatten(0, (size, num_frames)).transpose(1, 2)  # (B, 3, T, side, side)
    return Batch(views=[clip], labels=torch.full((size,), -1), video_index=torch.arange(size))
