"""The rows of networks trained with labels (TimeSformer, Motionformer, X-ViT), by their authors and by TIME.

Plain data; `table.py` gathers all rows.
"""

from typing import Any

from .sources import HubFile, UrlFile
from .weights import ClipSpec, Number, Weights

KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_FB_README = "README of facebookresearch/TimeSformer"
_MF_README = "README of facebookresearch/Motionformer"
_TIME_README = "README of alinlab/temporal-selfsupervision; its test command shuffles frames, so read with care"
_NON_COMMERCIAL = "CC BY-NC 4.0"
_RECIPES = {"K400": "configs/evaluate/kinetics400.yaml", "SSv2": "configs/evaluate/ssv2.yaml"}
_HR = {"num_frames": 16, "img_size": 448}
_BGR = "Trained on blue-green-red frames, as the original's reader returned them."


def _accuracy(
    name: str, data: str, top1: float, top5: float, source: str, *, views: str = "3x1", pool: str = "mean"
) -> tuple[Number, ...]:
    """The numbers of row `name`; `views` are crops x clips, `pool` is "mean" where the authors add up logits."""
    recipe = f"{_RECIPES[data]} init={name} multiview.views={views} multiview.pool={pool}" if data in _RECIPES else ""
    protocol = f"{views} views"
    return (
        Number(data, protocol, "top-1", top1, source, recipe),
        Number(data, protocol, "top-5", top5, source, recipe),
    )


def _fb_timesformer(
    name: str, data: str, revision: str, clip: ClipSpec, num_classes: int, *, size: str = "base", **options: Any
) -> Weights:
    repo = f"facebook/timesformer-{size}-finetuned-{data.lower()}"
    return Weights(
        name=name,
        model="timesformer_vitb",
        source=HubFile(repo, "pytorch_model.bin", revision),
        clip=clip,
        title=f"TimeSformer{'-HR' if size == 'hr' else ''} ViT-B/16, supervised on {data}",
        paper="https://arxiv.org/abs/2102.05095",
        pretrained_on=f"ImageNet-21k and 1k images, then {data}, with labels",
        num_classes=num_classes,
        labels=HubFile(repo, "config.json", revision),
        **options,
    )


def _time(
    backbone: str, model: str, top1: float, top5: float, *, tuned: bool, drive: str, sha256: str | None = None
) -> Weights:
    """`drive` is the id of the authors' own copy on Google Drive."""
    suffix = "_TIME" if tuned else ""
    name = f"{model}_ssv2{suffix.lower()}"
    return Weights(
        name=name,
        model=model,
        source=HubFile(
            "ICML2022/TimeIsMattEr",
            f"{backbone.replace('-', '')}{suffix}.pyth",
            "e71f54946e0c209f34473875ff9298fa50131913",
        ),
        sha256=sha256,
        clip=ClipSpec(8, None, 224, 224, *HALF),
        title=f"{backbone} ViT-B/16{' + TIME' if tuned else ''}, supervised on SSv2",
        paper="https://arxiv.org/abs/2207.09067",
        license=_NON_COMMERCIAL,
        pretrained_on="ImageNet images, then SSv2, with labels" + (" and temporal self-supervision" if tuned else ""),
        num_classes=174,
        published=_accuracy(name, "SSv2", top1, top5, _TIME_README),
        notes=f"Its authors also keep it at https://drive.google.com/file/d/{drive}.",
    )


class TimeSformer_ViTB_Weights:
    """Supervised `timesformer_vitb`: Facebook's (in Hugging Face's format) and TIME's."""

    K400 = _fb_timesformer(
        "timesformer_vitb_k400",
        "K400",
        "72d580cae9d3a854630da97a8cfd8e42ab97dbca",
        ClipSpec(8, 32, 224, 224, *KINETICS),
        400,
        license=_NON_COMMERCIAL,
        published=_accuracy("timesformer_vitb_k400", "K400", 77.9, 93.2, _FB_README),
    )
    K600 = _fb_timesformer(
        "timesformer_vitb_k600",
        "K600",
        "main",
        ClipSpec(8, 32, 224, 224, *KINETICS),
        600,
        license="",
        published=_accuracy("timesformer_vitb_k600", "K600", 79.1, 94.4, _FB_README),
        notes="Not pinned: of its commit we know the beginning alone, 3da1913. We do not know its page's licence.",
    )
    SSV2_FB = _fb_timesformer(
        "timesformer_vitb_ssv2_fb",
        "SSv2",
        "468c77dca9f6f3f100c49e13b1dd22e3a1c96b9e",
        ClipSpec(8, None, 224, 224, *KINETICS, channel_order="BGR"),
        174,
        license=_NON_COMMERCIAL,
        published=_accuracy("timesformer_vitb_ssv2_fb", "SSv2", 59.1, 85.6, _FB_README),
        notes=_BGR,
    )
    HR_K400 = _fb_timesformer(
        "timesformer_vitb_hr_k400",
        "K400",
        "main",
        ClipSpec(16, 16, 448, 448, *KINETICS),  # the authors' configs/Kinetics/TimeSformer_divST_16x16_448.yaml
        400,
        size="hr",
        license=_NON_COMMERCIAL,
        model_kwargs=_HR,
        published=_accuracy("timesformer_vitb_hr_k400", "K400", 79.6, 94.0, _FB_README),
        notes="Not pinned: of its commit we know the beginning alone, 4448334.",
    )
    HR_SSV2 = _fb_timesformer(
        "timesformer_vitb_hr_ssv2",
        "SSv2",
        "3ab349b0ce456ad350ad8bb3125b1c001612d95c",
        ClipSpec(16, None, 448, 448, *KINETICS, channel_order="BGR"),
        174,
        size="hr",
        license=_NON_COMMERCIAL,
        model_kwargs=_HR,
        published=_accuracy("timesformer_vitb_hr_ssv2", "SSv2", 61.8, 86.9, _FB_README),
        notes=f"{_BGR} The commit is an early one of its repository.",
    )
    SSV2 = _time("TimeSformer", "timesformer_vitb", 62.1, 86.4, tuned=False, drive="1CPOr9LopYEJbDwTc0B0bJcp0L12FKyrY")
    SSV2_TIME = _time(
        "TimeSformer", "timesformer_vitb", 63.7, 87.8, tuned=True, drive="105ld0h0zUNjqBOW1nJLmRlozTKumCaZH"
    )
    DEFAULT = K400


def _fb_motionformer(
    data: str, name: str, file: str, num_classes: int, clip: ClipSpec, published: tuple[Number, ...], notes: str = ""
) -> Weights:
    return Weights(
        name=name,
        model="motionformer_vitb",
        source=UrlFile(f"https://dl.fbaipublicfiles.com/motionformer/{file}_motionformer_224_16x4.pyth"),
        clip=clip,
        title=f"Motionformer ViT-B/16, supervised on {data}",
        paper="https://arxiv.org/abs/2106.05392",
        license="unclear: the repository's licence is Apache-2.0, its README says CC BY-NC 4.0",
        pretrained_on=f"ImageNet images, {'' if data == 'K400' else 'K400, '}then {data}, with labels",
        model_kwargs={"num_frames": 16, "tubelet_frames": 2},
        num_classes=num_classes,
        published=published,
        notes=notes,
    )


class Motionformer_ViTB_Weights:
    """Supervised `motionformer_vitb`: Facebook's, with tubelets of two frames, and TIME's."""

    K400 = _fb_motionformer(
        "K400",
        "motionformer_vitb_k400",
        "k400",
        400,
        ClipSpec(16, 4, 224, 224, *HALF),
        _accuracy("motionformer_vitb_k400", "K400", 79.7, 94.2, _MF_README, views="3x10", pool="softmax"),
    )
    SSV2_FB = _fb_motionformer(
        "SSv2",
        "motionformer_vitb_ssv2_fb",
        "ssv2",
        174,
        ClipSpec(16, None, 224, 224, *HALF),
        _accuracy("motionformer_vitb_ssv2_fb", "SSv2", 66.5, 90.1, _MF_README, pool="softmax"),
    )
    EPIC = _fb_motionformer(
        "Epic-Kitchens-100",
        "motionformer_vitb_epic",
        "ek",
        397,
        ClipSpec(16, 4, 224, 224, *HALF),
        (
            Number("Epic-Kitchens-100", "3x10 views", "action top-1", 43.1, _MF_README),
            Number("Epic-Kitchens-100", "3x10 views", "noun top-1", 56.5, _MF_README),
        ),
        notes="Its two heads are one here: logits of 97 verbs, then of 300 nouns.",
    )
    SSV2 = _time(
        "Motionformer",
        "motionformer_vitb",
        63.8,
        88.5,
        tuned=False,
        drive="1F2tC9WR4Wqt3W4w6JVefRn3SxtmbukpW",
        sha256="a3127f0e0e12daada2f77de88db1d077f2ea21fd159ec7ed465d37c21c293e20",
    )
    SSV2_TIME = _time(
        "Motionformer",
        "motionformer_vitb",
        64.7,
        89.3,
        tuned=True,
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
        clip=ClipSpec(16, None, 224, 224, *HALF),
        title="X-ViT ViT-B/16, supervised on SSv2",
        paper="https://arxiv.org/abs/2106.05968",
        license="Apache-2.0",
        pretrained_on="ImageNet-21k images, then SSv2, with labels",
        num_classes=174,
        published=_accuracy(
            "xvit_vitb_ssv2_original", "SSv2", 67.19, 91.0, "README of 1adrianb/video-transformers", views="3x2"
        ),
        notes="Trained on 16 frames with a time table of 8, which the second half of the clip begins anew.",
    )
    SSV2 = _time("X-ViT", "xvit_vitb", 60.1, 85.2, tuned=False, drive="1GRwhdO0Egmd7oqjkI7WzxLd7srXn2ci1")
    SSV2_TIME = _time("X-ViT", "xvit_vitb", 63.5, 88.1, tuned=True, drive="1oIvocStaf9bYHKy8PxH-fY8v1aOCXEkn")
    DEFAULT = SSV2_TIME
