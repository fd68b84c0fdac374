"""A network whose attention is known beforehand: its class token looks at the brightest patches."""

import torch

from svt_zoo.models import create_model
from svt_zoo.models.timesformer import TimeSformer


def bright_model(patch_size: int, *, sharpness: float = 40.0) -> TimeSformer:
    """One divided block without positions whose keys measure a patch's brightness and whose query asks for much.

    `sharpness` is about the difference in logits between a white and a black patch (at 0 and 1).
    """
    options = {"img_size": patch_size, "patch_size": patch_size, "num_frames": 1, "depth": 1, "num_heads": 1}
    model = create_model("svt_vitt", embed_dim=8, **options)
    assert isinstance(model, TimeSformer)
    # Two directions that a layer norm keeps apart: brightness, and a constant that dominates the token's length.
    bright = torch.tensor([1.0, -1, 0, 0, 0, 0, 0, 0])
    constant = torch.tensor([0, 0, 1.0, -1, 0, 0, 0, 0])
    block = model.blocks[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (block.norm1, block.norm2, block.temporal_norm1, model.norm):
            norm.weight.fill_(1)
        model.cls_token[:] = constant
        model.patch_embed.proj.bias[:] = 3 * constant
        model.patch_embed.proj.weight[:] = bright.view(8, 1, 1, 1) / (3 * patch_size**2)  # the mean of all pixels
        block.attn.qkv.bias[0] = sharpness * 3 * 2**0.5
        block.attn.qkv.weight[8] = bright / 2  # the first component of the keys
    return model.eval()


def moving_square(grid: tuple[int, int], path: list[tuple[int, int]], patch_size: int) -> torch.Tensor:
    """Black frames in which one white patch goes from (row, column) to (row, column): float (3, T, H, W)."""
    clip = torch.zeros(3, len(path), grid[0] * patch_size, grid[1] * patch_size)
    for t, (row, column) in enumerate(path):
        top, left = row * patch_size, column * patch_size
        clip[:, t, top : top + patch_size, left : left + patch_size] = 1
    return clip
