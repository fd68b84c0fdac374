"""A small head that segments: one 1x1 convolution on the patches of a frozen network, trained on made masks.

    python examples/dense_head.py              # random weights, half a minute on a CPU
    python examples/dense_head.py runs/domain  # your run, or a row of `svt-zoo weights`

For your own masks, replace `made_clips`. For detection, put your detector's head on the same grids.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import svt_zoo


def made_clips(count: int) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, T, H, W) of noise with a brighter square that moves, and masks (B, T, H, W) of the square."""
    clips, masks = 0.3 * torch.randn(count, 3, 4, 96, 96), torch.zeros(count, 4, 96, 96, dtype=torch.long)
    for i, (y, x, dy, dx) in enumerate(torch.randint(0, 16, (count, 4)).tolist()):
        for t in range(4):
            masks[i, t, 2 * y + t * dy // 4 :, 2 * x + t * dx // 4 :][:32, :32] = 1
    return clips + masks.unsqueeze(1), masks


def logits(backbone: nn.Module, head: nn.Module, clips: Tensor) -> Tensor:
    """Logits (B, classes, T, H, W) of every pixel."""
    with torch.no_grad():
        grids = backbone.forward_intermediates(clips, 2, norm=True, output_fmt="BDTHW")  # the last two blocks
    return interpolate(head(torch.cat(grids, dim=1)), (clips.shape[2], *clips.shape[3:]), mode="trilinear")


def main(weights: str | None) -> float:
    """Train the head and return the intersection over union on new clips."""
    torch.manual_seed(0)
    options = {"depth": 2, "img_size": 96, "table_std": 0.5}
    model = svt_zoo.load_model(weights) if weights else svt_zoo.create_model("svt_vitt", **options).eval()
    head = nn.Conv3d(2 * model.embed_dim, 2, kernel_size=1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(1, 61):
        clips, masks = made_clips(8)
        loss = cross_entropy(logits(model, head, clips), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    clips, masks = made_clips(32)
    found, true = logits(model, head, clips).argmax(dim=1) == 1, masks == 1
    score = ((found & true).sum() / (found | true).sum()).item()
    print(f"intersection over union on new clips: {score:.2f}")
    return score


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="a run, a file or a row of the table; by default random weights")
    main(parser.parse_args().weights)
