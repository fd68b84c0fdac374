"""Small networks for tests."""

import torch

from svt_zoo.models import Backbone, create_model

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
CLIP_SPEC = {
    "num_frames": 4,
    "sampling_rate": 5,
    "resize_size": 36,
    "crop_size": 32,
    "mean": (0.45,) * 3,
    "std": (0.225,) * 3,
}


def small(name: str) -> Backbone:
    """A registered network of 48 dimensions and 2 blocks, in eval mode."""
    torch.manual_seed(0)
    model = create_model(name, **SMALL)
    assert isinstance(model, Backbone)
    for parameter in model.parameters():  # so that parameters initialized to zero have an effect
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()
