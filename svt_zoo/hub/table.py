"""The table of trained weights: one class per kind of network, one `Weights` per file.

Plain data with torchvision's names: `SVT_ViTB_Weights.DEFAULT`, `.transforms()`, `.meta`. Values that nobody
published or measured are blank.
"""

from typing import Any

from .sources import ByHand, HubFile, UrlFile
from .table_supervised import HALF, KINETICS, Motionformer_ViTB_Weights, TimeSformer_ViTB_Weights, XViT_ViTB_Weights
from .weights import ClipSpec, Number, Weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SVT_PAPER = "Self-supervised Video Transformer (CVPR 2022), tables 1 to 3"
_IMAGE_NOTE = "An image network as the start of a video one: time has no say until it is trained."


class SVT_ViTB_Weights:
    """SVT pre-training of `svt_vitb`."""

    K400 = Weights(
        name="svt_vitb_k400",
        model="svt_vitb",
        source=UrlFile("https://github.com/kahnchana/svt/releases/download/v1.0/kinetics400_vitb_ssl.pth"),
        clip=ClipSpec(8, 32, 256, 224, *KINETICS),
        title="SVT ViT-B/16, self-supervised on Kinetics-400",
        paper="https://arxiv.org/abs/2112.01514",
        license="unclear: the repository says MIT, its network derives from TimeSformer (CC BY-NC 4.0)",
        pretrained_on="Kinetics-400, no labels",
        pretrain_mean_std=_IMAGENET,
        published=tuple(
            Number(dataset, protocol, "top-1", value, _SVT_PAPER, f"configs/{folder}/{recipe}.yaml init=svt")
            for dataset, recipe, linear, tuned in (
                ("UCF-101", "ucf101", 90.8, 93.7),
                ("HMDB-51", "hmdb51", 57.8, 67.2),
                ("K400", "kinetics400", 68.1, 78.1),
                ("SSv2", "ssv2", 18.3, 59.2),
            )
            for protocol, folder, value in (("linear", "linear", linear), ("fine-tune", "finetune", tuned))
        ),
        notes="The published evaluation normalises with 0.45 / 0.225, pre-training did with ImageNet's statistics.",
    )
    DEFAULT = K400


class ViT_ViTB_Weights:
    """A supervised image network in `timesformer_vitb`, where the supervised video networks start."""

    IMAGENET = Weights(
        name="imagenet_vitb16",
        model="timesformer_vitb",
        source=UrlFile(
            "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth"
        ),
        clip=ClipSpec(8, 32, 256, 224, *HALF),
        title="ViT-B/16, supervised on ImageNet images",
        paper="https://arxiv.org/abs/2010.11929",
        license="Apache-2.0",
        pretrained_on="ImageNet-21k, then ImageNet-1k images, with labels",
        notes=_IMAGE_NOTE,
    )
    DEFAULT = IMAGENET


def _dino(size: str, model: str, revision: str) -> Weights:
    return Weights(
        name=f"dino_vit{size[0]}16",
        model=model,
        source=HubFile(f"timm/vit_{size}_patch16_224.dino", "model.safetensors", revision),
        clip=ClipSpec(8, 32, 256, 224, *_IMAGENET),
        title=f"DINO ViT-{size[0].upper()}/16, self-supervised on ImageNet-1k images",
        paper="https://arxiv.org/abs/2104.14294",
        license="Apache-2.0",
        pretrained_on="ImageNet-1k images, no labels",
        notes=_IMAGE_NOTE,
    )


class DINO_ViTB_Weights:
    """DINO's image network in `svt_vitb`, where SVT's training starts."""

    IMAGENET1K = _dino("base", "svt_vitb", "3ca4284a1d2db6ac0fc1a7e24e71ee0643260ec2")
    DEFAULT = IMAGENET1K


class DINO_ViTS_Weights:
    """DINO's small image network in `svt_vits`."""

    IMAGENET1K = _dino("small", "svt_vits", "733b42a211ebe03aa7327050699cfcee7cd96123")
    DEFAULT = IMAGENET1K


_CPC_README = "README of QiyueShang666/SSL-for-Video, fine-tuned at 224 pixels"
_CPC_UCF101 = Number(
    "UCF-101",
    "fine-tune",
    "top-1",
    63.5,
    _CPC_README,
    "configs/finetune/ucf101_cpc_original.yaml init=FILE",
)
_CPC_CAVEAT = (
    "Pre-trained on UCF-101's training split 3, which holds all test videos of split 1, on which the original tests. "
    "Its code chooses the best epoch on a part of the test videos; the README names neither protocol nor seeds. "
    "The same README has 43.6 and 15.5 for random weights, in a picture."
)


def _cpc(name: str, drive: str, num_frames: int, title: str, **options: Any) -> Weights:
    """`drive` is the id of the file on Google Drive, to which the authors' README links."""
    return Weights(
        name=name,
        model="cpc_resnet18",
        source=ByHand(f"https://drive.google.com/file/d/{drive}"),
        # Every third frame of videos of 25 a second: from the first to the last of a window of 3 (N - 1) + 1 frames.
        clip=ClipSpec(num_frames, (3 * num_frames - 2) / num_frames * 30 / 25, 240, 224, *_IMAGENET),
        title=title,
        paper="https://doi.org/10.1016/j.neucom.2021.11.031",
        license="MIT",
        notes=_CPC_CAVEAT,
        **options,
    )


class CPC_ResNet18_Weights:
    """CPC with ResNet-18 and a transformer, "SSL for Video Understanding"."""

    UCF101 = _cpc(
        "cpc_resnet18_ucf101",
        "1XHIbSzbMaVXcBn86Qu5LbIKo2edzOphN",
        5,
        "CPC ResNet-18 and transformer, self-supervised on UCF-101",
        pretrained_on="UCF-101 (training split 3), no labels",
        published=(_CPC_UCF101, Number("HMDB-51", "fine-tune", "top-1", 34.6, _CPC_README)),
    )
    UCF101_FINETUNED = _cpc(
        "cpc_resnet18_ucf101_finetuned",
        "1htAxdKIYCJhSM4QVbhM-eH0uG9-Ry3sz",
        7,
        "CPC ResNet-18 and transformer, fine-tuned on UCF-101",
        pretrained_on="UCF-101 (training split 3), no labels, then UCF-101 with labels",
        model_kwargs={"relu": True, "pool": "context", "final_bn": True},
        num_classes=101,
        published=(_CPC_UCF101,),
    )
    DEFAULT = UCF101


TABLE: dict[str, Weights] = {
    row.name: row
    for row in (
        SVT_ViTB_Weights.K400,
        ViT_ViTB_Weights.IMAGENET,
        DINO_ViTB_Weights.IMAGENET1K,
        DINO_ViTS_Weights.IMAGENET1K,
        TimeSformer_ViTB_Weights.K400,
        TimeSformer_ViTB_Weights.K600,
        TimeSformer_ViTB_Weights.SSV2_FB,
        TimeSformer_ViTB_Weights.HR_K400,
        TimeSformer_ViTB_Weights.HR_SSV2,
        TimeSformer_ViTB_Weights.SSV2,
        TimeSformer_ViTB_Weights.SSV2_TIME,
        Motionformer_ViTB_Weights.K400,
        Motionformer_ViTB_Weights.SSV2_FB,
        Motionformer_ViTB_Weights.EPIC,
        Motionformer_ViTB_Weights.SSV2,
        Motionformer_ViTB_Weights.SSV2_TIME,
        XViT_ViTB_Weights.SSV2_ORIGINAL,
        XViT_ViTB_Weights.SSV2,
        XViT_ViTB_Weights.SSV2_TIME,
        CPC_ResNet18_Weights.UCF101,
        CPC_ResNet18_Weights.UCF101_FINETUNED,
    )
}
