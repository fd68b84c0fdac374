"""Entry points of torch.hub: `torch.hub.load("org/svt", "svt_vitb_k400")`."""

dependencies = ["torch", "huggingface_hub", "safetensors"]

from svt_zoo.hub import (  # noqa: E402
    dino_vitb16,
    dino_vits16,
    svt_vitb_k400,
    timesformer_vitb_k400,
    timesformer_vitb_k600,
    timesformer_vitb_ssv2,
    timesformer_vitb_ssv2_fb,
    timesformer_vitb_ssv2_time,
)

__all__ = [
    "dino_vitb16",
    "dino_vits16",
    "svt_vitb_k400",
    "timesformer_vitb_k400",
    "timesformer_vitb_k600",
    "timesformer_vitb_ssv2",
    "timesformer_vitb_ssv2_fb",
    "timesformer_vitb_ssv2_time",
]
