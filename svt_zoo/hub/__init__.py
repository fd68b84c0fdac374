"""Where weights come from and go to."""

from .entrypoints import (
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
