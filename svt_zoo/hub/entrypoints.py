"""One function a row of the table: what `torch.hub.load("org/svt", NAME)` calls, and what `svt_zoo.hub.NAME` is."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

from ..models import Backbone, Classifier, ZooModel, create_model
from .loading import load_model
from .table import (
    CPC_ResNet18_Weights,
    DINO_ViTB_Weights,
    DINO_ViTS_Weights,
    SVT_ViTB_Weights,
    ViT_ViTB_Weights,
)
from .table_supervised import Motionformer_ViTB_Weights, TimeSformer_ViTB_Weights, XViT_ViTB_Weights
from .weights import Weights

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
    "timesformer_vitb_hr_k400",
    "timesformer_vitb_hr_ssv2",
    "timesformer_vitb_k400",
    "timesformer_vitb_k600",
    "timesformer_vitb_ssv2",
    "timesformer_vitb_ssv2_fb",
    "timesformer_vitb_ssv2_time",
    "xvit_vitb_ssv2",
    "xvit_vitb_ssv2_original",
    "xvit_vitb_ssv2_time",
]

_ARGUMENTS = """

    Args:
        pretrained: load the trained weights (the default); False gives fresh, random ones and needs no file.
        weights: other weights to load: a row of `list_weights()`, a path, `https://...`,
            `hf://org/repo/file@revision` or any path iopath reads. Implies loading.
        num_classes: 0 gives the backbone, `model(clip) -> Features(cls (B, D), patches (B, T, N, D))`; K > 0 gives a
            classifier, `model(clip) -> logits (B, K)`, with the file's own head if it has one of K classes.
        num_frames, img_size: the clip, in frames and pixels, that `.transforms()` makes, by default that of the
            weights; the stored position tables stay as they are.
        revision: another branch, tag or commit of the weights' Hub repository.
        progress: show a bar while downloading.

    Returns:
        The model in eval mode; its clip is float (B, 3, T, H, W), any T and any H, W of at least a patch.
        `model.transforms()` makes one from uint8 frames, `model.meta` says where the weights come from.
    """


def _entry_point(row: Weights, about: str) -> Callable[..., ZooModel]:
    """The function that builds the network of `row`, with its weights, other ones (`weights`), or none."""

    def entry_point(
        *,
        pretrained: bool = True,
        weights: str | Path | Weights | None = None,
        num_classes: int = 0,
        num_frames: int | None = None,
        img_size: int | None = None,
        revision: str | None = None,
        progress: bool = True,
    ) -> ZooModel:
        if weights is None and not pretrained:
            backbone = cast(Backbone, create_model(row.model, **row.model_kwargs))
            clip = row.clip.resized(num_frames or row.clip.num_frames, img_size or row.clip.crop_size)
            backbone.meta["clip"] = asdict(clip)
            return (Classifier(backbone, num_classes) if num_classes else backbone).eval()
        return load_model(
            row if weights is None or weights == "DEFAULT" else weights,
            model=row.name,
            num_classes=num_classes,
            num_frames=num_frames,
            img_size=img_size,
            revision=revision,
            progress=progress,
        )

    entry_point.__name__ = entry_point.__qualname__ = row.name
    entry_point.__doc__ = about + _ARGUMENTS
    return entry_point


svt_vitb_k400 = _entry_point(
    SVT_ViTB_Weights.K400,
    "SVT ViT-B/16, self-supervised on Kinetics-400 (Ranasinghe et al., CVPR 2022): 121 M parameters, 768 features.",
)
dino_vitb16 = _entry_point(
    DINO_ViTB_Weights.IMAGENET1K,
    "DINO's ViT-B/16 (images, Caron et al., ICCV 2021) in SVT's network: where SVT's training starts.",
)
dino_vits16 = _entry_point(
    DINO_ViTS_Weights.IMAGENET1K,
    "DINO's ViT-S/16 (images, Caron et al., ICCV 2021) in SVT's small network: 384 features.",
)
imagenet_vitb16 = _entry_point(
    ViT_ViTB_Weights.IMAGENET,
    "The supervised ViT-B/16 (images, Dosovitskiy et al., ICLR 2021) in TimeSformer's network: where TIME's starts.",
)
timesformer_vitb_k400 = _entry_point(
    TimeSformer_ViTB_Weights.K400,
    "TimeSformer ViT-B/16, supervised on Kinetics-400 (Bertasius et al., ICML 2021); num_classes=400 has its head.",
)
timesformer_vitb_k600 = _entry_point(
    TimeSformer_ViTB_Weights.K600,
    "TimeSformer ViT-B/16, supervised on Kinetics-600 (Bertasius et al., ICML 2021); num_classes=600 has its head.",
)
timesformer_vitb_ssv2_fb = _entry_point(
    TimeSformer_ViTB_Weights.SSV2_FB,
    "TimeSformer ViT-B/16, supervised on SSv2 by Facebook (BGR frames); num_classes=174 has its head.",
)
timesformer_vitb_hr_k400 = _entry_point(
    TimeSformer_ViTB_Weights.HR_K400,
    "TimeSformer-HR ViT-B/16 (16 frames of 448 pixels), supervised on Kinetics-400; num_classes=400 has its head.",
)
timesformer_vitb_hr_ssv2 = _entry_point(
    TimeSformer_ViTB_Weights.HR_SSV2,
    "TimeSformer-HR ViT-B/16 (16 BGR frames of 448 pixels), supervised on SSv2; num_classes=174 has its head.",
)
timesformer_vitb_ssv2 = _entry_point(
    TimeSformer_ViTB_Weights.SSV2,
    "TimeSformer ViT-B/16, supervised on SSv2: TIME's baseline (ICML 2022); num_classes=174 has its head.",
)
timesformer_vitb_ssv2_time = _entry_point(
    TimeSformer_ViTB_Weights.SSV2_TIME,
    "TimeSformer ViT-B/16 with TIME on SSv2 (Yun et al., ICML 2022); num_classes=174 has its head.",
)
motionformer_vitb_k400 = _entry_point(
    Motionformer_ViTB_Weights.K400,
    "Motionformer ViT-B/16, supervised on Kinetics-400 (Patrick et al., NeurIPS 2021); num_classes=400 has its head.",
)
motionformer_vitb_ssv2_fb = _entry_point(
    Motionformer_ViTB_Weights.SSV2_FB,
    "Motionformer ViT-B/16, supervised on SSv2 by Facebook (16 frames); num_classes=174 has its head.",
)
motionformer_vitb_epic = _entry_point(
    Motionformer_ViTB_Weights.EPIC,
    "Motionformer ViT-B/16, supervised on Epic-Kitchens-100; num_classes=397 has its heads: 97 verbs, then 300 nouns.",
)
motionformer_vitb_ssv2 = _entry_point(
    Motionformer_ViTB_Weights.SSV2,
    "Motionformer ViT-B/16, supervised on SSv2: TIME's baseline (ICML 2022); num_classes=174 has its head.",
)
motionformer_vitb_ssv2_time = _entry_point(
    Motionformer_ViTB_Weights.SSV2_TIME,
    "Motionformer ViT-B/16 with TIME on SSv2 (Yun et al., ICML 2022); num_classes=174 has its head.",
)
xvit_vitb_ssv2_original = _entry_point(
    XViT_ViTB_Weights.SSV2_ORIGINAL,
    "X-ViT ViT-B/16, supervised on SSv2 by its authors (Bulat et al., NeurIPS 2021); num_classes=174 has its head.",
)
xvit_vitb_ssv2 = _entry_point(
    XViT_ViTB_Weights.SSV2,
    "X-ViT ViT-B/16, supervised on SSv2: TIME's baseline (ICML 2022); num_classes=174 has its head.",
)
xvit_vitb_ssv2_time = _entry_point(
    XViT_ViTB_Weights.SSV2_TIME,
    "X-ViT ViT-B/16 with TIME on SSv2 (Yun et al., ICML 2022); num_classes=174 has its head.",
)
cpc_resnet18_ucf101 = _entry_point(
    CPC_ResNet18_Weights.UCF101,
    "CPC ResNet-18 and transformer, self-supervised on UCF-101 (Shang 2025, after Liu et al. 2022): 256 features.",
)
cpc_resnet18_ucf101_finetuned = _entry_point(
    CPC_ResNet18_Weights.UCF101_FINETUNED,
    "CPC ResNet-18 and transformer, fine-tuned on UCF-101 (Shang 2025); num_classes=101 has its head.",
)
