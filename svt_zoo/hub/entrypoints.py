"""One function a model: what `torch.hub.load("org/svt", NAME)` calls, and what `svt_zoo.hub.NAME` is.

All have the same signature:

    pretrained: load the trained weights (the default); False gives fresh, random ones and needs no file.
    weights: other weights to load: a row of `list_weights()`, a path, `https://...`, `hf://org/repo/file@revision` or
        any path iopath reads. Implies loading.
    num_classes: 0 gives the backbone, `model(clip) -> Features(cls (B, D), patches (B, T, N, D))`; K > 0 gives a
        classifier, `model(clip) -> logits (B, K)`.
    num_frames, img_size: the clip, in frames and pixels, that `.transforms()` makes; the stored position tables stay
        as they are.
    revision: another branch, tag or commit of the weights' Hub repository.
    progress: show a bar while downloading.

The model comes in eval mode; its clip is float (B, 3, T, H, W), any T and any H, W of at least a patch.
`model.transforms()` makes one from uint8 frames, `model.meta` says where the weights come from.
"""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from ..models import Backbone, Classifier, ZooModel, create_model
from .loading import load_model
from .weights import (
    DINO_ViTB_Weights,
    DINO_ViTS_Weights,
    SVT_ViTB_Weights,
    TimeSformer_ViTB_Weights,
    Weights,
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


def _model(
    row: Weights,
    pretrained: bool,
    weights: str | Path | Weights | None,
    num_classes: int,
    num_frames: int,
    img_size: int,
    revision: str | None,
    progress: bool,
) -> ZooModel:
    """The network of `row`, with its weights, other ones (`weights`), or none."""
    if weights is None and not pretrained:
        backbone = cast(Backbone, create_model(row.model))
        backbone.meta["clip"] = asdict(row.clip.resized(num_frames, img_size))
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


def svt_vitb_k400(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """SVT ViT-B/16, self-supervised on Kinetics-400 (Ranasinghe et al., CVPR 2022): 121 M parameters, 768 features."""
    row = SVT_ViTB_Weights.DEFAULT
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def dino_vitb16(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """DINO's ViT-B/16 (images, Caron et al., ICCV 2021) in SVT's network: where SVT's training starts."""
    row = DINO_ViTB_Weights.DEFAULT
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def dino_vits16(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """DINO's ViT-S/16 (images, Caron et al., ICCV 2021) in SVT's small network: 384 features."""
    row = DINO_ViTS_Weights.DEFAULT
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def timesformer_vitb_k400(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """TimeSformer ViT-B/16, supervised on Kinetics-400 (Bertasius et al., ICML 2021); num_classes=400 has its head."""
    row = TimeSformer_ViTB_Weights.K400
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def timesformer_vitb_k600(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """TimeSformer ViT-B/16, supervised on Kinetics-600 (Bertasius et al., ICML 2021); num_classes=600 has its head."""
    row = TimeSformer_ViTB_Weights.K600
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def timesformer_vitb_ssv2_fb(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """TimeSformer ViT-B/16, supervised on SSv2 by Facebook (BGR frames); num_classes=174 has its head."""
    row = TimeSformer_ViTB_Weights.SSV2_FB
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def timesformer_vitb_ssv2(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """TimeSformer ViT-B/16, supervised on SSv2: TIME's baseline (ICML 2022); num_classes=174 has its head."""
    row = TimeSformer_ViTB_Weights.SSV2
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)


def timesformer_vitb_ssv2_time(
    *,
    pretrained: bool = True,
    weights: str | Path | Weights | None = None,
    num_classes: int = 0,
    num_frames: int = 8,
    img_size: int = 224,
    revision: str | None = None,
    progress: bool = True,
) -> ZooModel:
    """TimeSformer ViT-B/16 with TIME on SSv2 (Yun et al., ICML 2022); num_classes=174 has its head."""
    row = TimeSformer_ViTB_Weights.SSV2_TIME
    return _model(row, pretrained, weights, num_classes, num_frames, img_size, revision, progress)
