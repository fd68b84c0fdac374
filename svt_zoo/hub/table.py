"""The table of trained weights, in torchvision's words. Values that nobody published or measured are blank."""

import difflib
from fnmatch import fnmatchcase
from typing import Any

from .own_weights import SVT_ViTT_Weights
from .sources import ByHand, HubFile, UrlFile
from .weights import ClipSpec, Number, Weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NON_COMMERCIAL = "CC BY-NC 4.0"
_SVT_PAPER = "Self-supervised Video Transformer (CVPR 2022), tables 1 to 3"
_FB_README = "README of facebookresearch/TimeSformer"
_MF_README = "README of facebookresearch/Motionformer"
_TIME_README = "README of alinlab/temporal-selfsupervision; its test command shuffles frames, so read with care"
_CPC_README = "README of QiyueShang666/SSL-for-Video, fine-tuned at 224 pixels"
_IMAGE_NOTE = "An image network as the start of a video one: temporal attention has no effect until it is trained."
_BGR = "Trained on blue-green-red frames, as the original's reader returned them."
_EARLY = f"{_BGR} The commit is an early one of its repository."
_UNPINNED = "Not pinned: only the beginning of its commit is known,"
_K600_NOTE = f"{_UNPINNED} 3da1913. The license of its page is not known."
_RECIPES = {"K400": "configs/evaluate/kinetics400.yaml", "SSv2": "configs/evaluate/ssv2.yaml"}


def _accuracy(
    name: str, data: str, top1: float, top5: float, source: str, *, views: str = "3x1", pool: str = "mean"
) -> tuple[Number, ...]:
    """The numbers of row `name`; `views` are crops x clips, `pool` is "mean" where the authors add up logits."""
    recipe = f"{_RECIPES[data]} init={name} multiview.views={views} multiview.pool={pool}" if data in _RECIPES else ""
    return tuple(
        Number(data, f"{views} views", metric, value, source, recipe)
        for metric, value in (("top-1", top1), ("top-5", top5))
    )


class SVT_ViTB_Weights:
    """SVT pre-training of `svt_vitb`."""

    K400 = Weights(
        name="svt_vitb_k400",
        model="svt_vitb",
        source=UrlFile("https://github.com/kahnchana/svt/releases/download/v1.0/kinetics400_vitb_ssl.pth"),
        clip=ClipSpec(8, 32, 256, 224, *_KINETICS),
        title="SVT ViT-B/16, self-supervised on Kinetics-400",
        paper="https://arxiv.org/abs/2112.01514",
        license="unclear: the repository states MIT, its network derives from TimeSformer (CC BY-NC 4.0)",
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
        notes="The published evaluation normalizes with 0.45 / 0.225, pre-training did with ImageNet's statistics.",
    )
    DEFAULT = K400


class ViT_ViTB_Weights:
    """A supervised image network in `timesformer_vitb`: the initial weights of the supervised video networks."""

    IMAGENET = Weights(
        name="imagenet_vitb16",
        model="timesformer_vitb",
        source=UrlFile(
            "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth"
        ),
        clip=ClipSpec(8, 32, 256, 224, *_HALF),
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
    """DINO's image network in `svt_vitb`: the initial weights of SVT's training."""

    IMAGENET1K = _dino("base", "svt_vitb", "3ca4284a1d2db6ac0fc1a7e24e71ee0643260ec2")
    DEFAULT = IMAGENET1K


class DINO_ViTS_Weights:
    """DINO's small image network in `svt_vits`."""

    IMAGENET1K = _dino("small", "svt_vits", "733b42a211ebe03aa7327050699cfcee7cd96123")
    DEFAULT = IMAGENET1K


def _time(file: str, top1: float, top5: float, *, drive: str, sha256: str | None = None) -> Weights:
    """A network of TIME's authors; `drive` is the id of their own copy on Google Drive."""
    backbone, _, tuned = file.partition("_")
    model = f"{backbone.lower()}_vitb"
    name = f"{model}_ssv2{'_time' if tuned else ''}"
    title = backbone.replace("XViT", "X-ViT")
    return Weights(
        name=name,
        model=model,
        source=HubFile("ICML2022/TimeIsMattEr", f"{file}.pyth", "e71f54946e0c209f34473875ff9298fa50131913"),
        sha256=sha256,
        clip=ClipSpec(8, None, 224, 224, *_HALF),
        title=f"{title} ViT-B/16{' + TIME' if tuned else ''}, supervised on SSv2",
        paper="https://arxiv.org/abs/2207.09067",
        license=_NON_COMMERCIAL,
        pretrained_on="ImageNet images, then SSv2, with labels" + (" and temporal self-supervision" if tuned else ""),
        num_classes=174,
        published=_accuracy(name, "SSv2", top1, top5, _TIME_README),
        notes=f"Its authors also keep it at https://drive.google.com/file/d/{drive}.",
    )


def _fb_timesformer(
    suffix: str, data: str, revision: str, num_classes: int, top1: float, top5: float, **options: Any
) -> Weights:
    """A TimeSformer of Facebook's in Hugging Face's format, with 8 frames or (`hr`) with 16 frames of 448 pixels."""
    hr = suffix.startswith("hr")
    frames, size = (16, 448) if hr else (8, 224)
    segments = data == "SSv2"
    rate = None if segments else 16 if hr else 32  # configs/Kinetics/TimeSformer_divST_16x16_448.yaml of the authors
    repo = f"facebook/timesformer-{'hr' if hr else 'base'}-finetuned-{data.lower()}"
    name = f"timesformer_vitb_{suffix}"
    return Weights(
        name=name,
        model="timesformer_vitb",
        source=HubFile(repo, "pytorch_model.bin", revision),
        clip=ClipSpec(frames, rate, size, size, *_KINETICS, channel_order="BGR" if segments else "RGB"),
        title=f"TimeSformer{'-HR' if hr else ''} ViT-B/16, supervised on {data}",
        paper="https://arxiv.org/abs/2102.05095",
        pretrained_on=f"ImageNet-21k and 1k images, then {data}, with labels",
        model_kwargs={"num_frames": frames, "img_size": size} if hr else {},
        num_classes=num_classes,
        labels=HubFile(repo, "config.json", revision),
        published=_accuracy(name, data, top1, top5, _FB_README),
        **{"license": _NON_COMMERCIAL, **options},
    )


class TimeSformer_ViTB_Weights:
    """Supervised `timesformer_vitb`: Facebook's (in Hugging Face's format) and TIME's."""

    K400 = _fb_timesformer("k400", "K400", "72d580cae9d3a854630da97a8cfd8e42ab97dbca", 400, 77.9, 93.2)
    K600 = _fb_timesformer("k600", "K600", "main", 600, 79.1, 94.4, license="", notes=_K600_NOTE)
    SSV2_FB = _fb_timesformer(
        "ssv2_fb", "SSv2", "468c77dca9f6f3f100c49e13b1dd22e3a1c96b9e", 174, 59.1, 85.6, notes=_BGR
    )
    HR_K400 = _fb_timesformer("hr_k400", "K400", "main", 400, 79.6, 94.0, notes=f"{_UNPINNED} 4448334.")
    HR_SSV2 = _fb_timesformer(
        "hr_ssv2", "SSv2", "3ab349b0ce456ad350ad8bb3125b1c001612d95c", 174, 61.8, 86.9, notes=_EARLY
    )
    SSV2 = _time("TimeSformer", 62.1, 86.4, drive="1CPOr9LopYEJbDwTc0B0bJcp0L12FKyrY")
    SSV2_TIME = _time("TimeSformer_TIME", 63.7, 87.8, drive="105ld0h0zUNjqBOW1nJLmRlozTKumCaZH")
    DEFAULT = K400


def _fb_motionformer(
    suffix: str, data: str, num_classes: int, published: tuple[Number, ...], notes: str = ""
) -> Weights:
    """A Motionformer of Facebook's: 16 frames in tubelets of two."""
    file = {"ssv2_fb": "ssv2", "epic": "ek"}.get(suffix, suffix)
    return Weights(
        name=f"motionformer_vitb_{suffix}",
        model="motionformer_vitb",
        source=UrlFile(f"https://dl.fbaipublicfiles.com/motionformer/{file}_motionformer_224_16x4.pyth"),
        clip=ClipSpec(16, None if data == "SSv2" else 4, 224, 224, *_HALF),
        title=f"Motionformer ViT-B/16, supervised on {data}",
        paper="https://arxiv.org/abs/2106.05392",
        license="unclear: the repository's license is Apache-2.0, its README states CC BY-NC 4.0",
        pretrained_on=f"ImageNet images, {'' if data == 'K400' else 'K400, '}then {data}, with labels",
        model_kwargs={"num_frames": 16, "tubelet_frames": 2},
        num_classes=num_classes,
        published=published,
        notes=notes,
    )


class Motionformer_ViTB_Weights:
    """Supervised `motionformer_vitb`: Facebook's, with tubelets of two frames, and TIME's."""

    K400 = _fb_motionformer(
        "k400",
        "K400",
        400,
        _accuracy("motionformer_vitb_k400", "K400", 79.7, 94.2, _MF_README, views="3x10", pool="softmax"),
    )
    SSV2_FB = _fb_motionformer(
        "ssv2_fb",
        "SSv2",
        174,
        _accuracy("motionformer_vitb_ssv2_fb", "SSv2", 66.5, 90.1, _MF_README, pool="softmax"),
    )
    EPIC = _fb_motionformer(
        "epic",
        "Epic-Kitchens-100",
        397,
        tuple(
            Number("Epic-Kitchens-100", "3x10 views", f"{what} top-1", value, _MF_README)
            for what, value in (("action", 43.1), ("noun", 56.5))
        ),
        notes="Its two heads are one here: logits of 97 verbs, then of 300 nouns.",
    )
    SSV2 = _time(
        "Motionformer",
        63.8,
        88.5,
        drive="1F2tC9WR4Wqt3W4w6JVefRn3SxtmbukpW",
        sha256="a3127f0e0e12daada2f77de88db1d077f2ea21fd159ec7ed465d37c21c293e20",
    )
    SSV2_TIME = _time(
        "Motionformer_TIME",
        64.7,
        89.3,
        drive="15J9YvNqYdNcDn8b76LHH-BUrJ7GdBxlM",
        sha256="2750004c13477913d096dcba9c36b619b73f50e9affe204757bbbbf92a774954",
    )
    DEFAULT = K400


class XViT_ViTB_Weights:
    """Supervised `xvit_vitb`: the authors' and TIME's."""

    SSV2_ORIGINAL = Weights(
        name="xvit_vitb_ssv2_original",
        model="xvit_vitb",
        source=UrlFile("https://www.adrianbulat.com/downloads/NeurIPS2021/models/xvit_b16_16_ss2.pth"),
        clip=ClipSpec(16, None, 224, 224, *_HALF),
        title="X-ViT ViT-B/16, supervised on SSv2",
        paper="https://arxiv.org/abs/2106.05968",
        license="Apache-2.0",
        pretrained_on="ImageNet-21k images, then SSv2, with labels",
        num_classes=174,
        published=_accuracy(
            "xvit_vitb_ssv2_original", "SSv2", 67.19, 91.0, "README of 1adrianb/video-transformers", views="3x2"
        ),
        notes="Trained on 16 frames with a time table of 8, which is repeated for the second half of the clip.",
    )
    SSV2 = _time("XViT", 60.1, 85.2, drive="1GRwhdO0Egmd7oqjkI7WzxLd7srXn2ci1")
    SSV2_TIME = _time("XViT_TIME", 63.5, 88.1, drive="1oIvocStaf9bYHKy8PxH-fY8v1aOCXEkn")
    DEFAULT = SSV2_TIME


_CPC_UCF101 = Number(
    "UCF-101", "fine-tune", "top-1", 63.5, _CPC_README, "configs/finetune/ucf101_cpc_original.yaml init=FILE"
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
        notes="Pre-trained on UCF-101's training split 3, which holds all test videos of split 1. The original tests "
        "on these. Its code chooses the best epoch on a part of the test videos; the README names neither protocol nor "
        "seeds. The same README has 43.6 and 15.5 for random weights, in a picture.",
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


_FAMILIES = (
    *(SVT_ViTB_Weights, SVT_ViTT_Weights, ViT_ViTB_Weights, DINO_ViTB_Weights, DINO_ViTS_Weights),
    *(TimeSformer_ViTB_Weights, Motionformer_ViTB_Weights, XViT_ViTB_Weights, CPC_ResNet18_Weights),
)
TABLE: dict[str, Weights] = {
    row.name: row for family in _FAMILIES for row in vars(family).values() if isinstance(row, Weights)
}


def list_weights(pattern: str = "*") -> list[str]:
    """Names of all rows of the table that match the glob `pattern`, sorted."""
    return sorted(name for name in TABLE if fnmatchcase(name, pattern))


def weights_for(model: str) -> list[str]:
    """Names of all rows whose architecture is `model`, sorted."""
    return sorted(row.name for row in TABLE.values() if row.model == model)


def get_weights(name: str) -> Weights:
    """The row named `name`.

    Raises:
        ValueError: no such row; the message names the nearest ones.
    """
    if name in TABLE:
        return TABLE[name]
    from ..models import list_models  # needs torch, which importing the table must not load

    if name in list_models():
        rows = ", ".join(weights_for(name))
        raise ValueError(
            f"{name!r} names an architecture, not weights; svt_zoo.create_model({name!r}) builds it with random "
            f"weights" + (f", load_model takes its weights: {rows}" if rows else "")
        )
    near = difflib.get_close_matches(name, TABLE, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ValueError(f"no weights are named {name!r}; {hint}list_weights() names all")
