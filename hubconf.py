"""Entry points of torch.hub: `torch.hub.load("org/svt", "svt_vitb_k400")`."""

dependencies = ["torch", "huggingface_hub", "safetensors"]

from svt_zoo.hub import (  # noqa: E402
    cpc_resnet18_ucf101,
    cpc_resnet18_ucf101_finetuned,
    dino_vitb16,
    dino_vits16,
    imagenet_vitb16,
    motionformer_vitb_epic,
    motionformer_vitb_k400,
    motionformer_vitb_ssv2,
    motionformer_vitb_ssv2_fb,
    motionformer_vitb_ssv2_time,
    svt_vitb_k400,
    timesformer_vitb_k400,
    timesformer_vitb_k600,
    timesformer_vitb_ssv2,
    timesformer_vitb_ssv2_fb,
    timesformer_vitb_ssv2_time,
    xvit_vitb_ssv2,
    xvit_vitb_ssv2_original,
    xvit_vitb_ssv2_time,
)

__all__ = [
    "cpc_resnet18_ucf101",
    "cpc_resnet18_ucf101_finetuned",
    "dino_vitb16",
    "dino_vits16",
    "imagenet_vitb16",
    "motionformer_vitb_epic",
    "motionformer_vitb_k400",
    "motionformer_vitb_ssv2",
    "motionformer_vitb_ssv2_fb",
    "motionformer_vitb_ssv2_time",
    "svt_vitb_k400",
    "timesformer_vitb_k400",
    "timesformer_vitb_k600",
    "timesformer_vitb_ssv2",
    "timesformer_vitb_ssv2_fb",
    "timesformer_vitb_ssv2_time",
    "xvit_vitb_ssv2",
    "xvit_vitb_ssv2_original",
    "xvit_vitb_ssv2_time",
]
