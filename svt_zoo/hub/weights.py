"""The table of trained weights: where each comes from, what it expects, what it reached and under which licence.

Plain data in torchvision's words: `SVT_ViTB_Weights.DEFAULT`, `.transforms()`, `.meta`. What nobody published or
measured is blank. `load_model` (in `loading.py`) turns a row into a network.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from .sources import HubFile, UrlFile

if TYPE_CHECKING:
    from ..data.transforms import EvalTransform

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ClipSpec:
    """The clip a network was trained on: how frames are chosen and prepared for evaluation.

    `sampling_rate` is the distance of two frames in a video of 30 frames per second; None spreads the frames over
    the whole video in equal segments. `resize_size` and `crop_size` are pixels, `mean` and `std` on the scale [0, 1]
    in the order `channel_order`.
    """

    num_frames: int
    sampling_rate: float | None
    resize_size: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def resized(self, num_frames: int, img_size: int) -> "ClipSpec":
        """The same clip with another number of frames over the same seconds, and another crop at the same scale."""
        if num_frames < 1 or img_size < 1:
            raise ValueError(f"num_frames and img_size must be at least 1, got {num_frames} and {img_size}")
        rate = self.sampling_rate and self.sampling_rate * self.num_frames / num_frames
        short_side = round(self.resize_size * img_size / self.crop_size)
        return replace(self, num_frames=num_frames, sampling_rate=rate, crop_size=img_size, resize_size=short_side)


@dataclass(frozen=True)
class Result:
    """One published or measured number: `value` in percent, and who says so."""

    dataset: str
    protocol: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Weights:
    """A row of the table.

    `license` is what the weights' page says, `data_license` what the training data's owner says (blank: not stated
    there). `source` is where the authors keep the file; `hub_copy` is a converted copy on the Hub at a full commit,
    which is preferred. `sha256` is that of `file`, blank until known; meanwhile the hash of the first download is
    recorded beside the cache and every later one must equal it. `num_classes` is the size of the classifier in the
    file, 0 if it has none.
    """

    name: str
    model: str
    source: HubFile | UrlFile
    clip: ClipSpec
    title: str
    paper: str
    license: str
    pretrained_on: str
    sha256: str | None = None
    hub_copy: HubFile | None = None
    data_license: str = ""
    num_classes: int = 0
    labels: HubFile | None = None
    pretrain_mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    published: tuple[Result, ...] = ()
    measured: tuple[Result, ...] = ()
    notes: str = ""

    @property
    def file(self) -> HubFile | UrlFile:
        """The file that is loaded: the copy on the Hub if there is one, else the authors'."""
        return self.hub_copy or self.source

    @property
    def meta(self) -> dict[str, Any]:
        """The whole row as plain data (what models, cards and the zoo page show)."""
        row = asdict(self)
        row["source"] = str(self.source)
        row["hub_copy"] = str(self.hub_copy) if self.hub_copy else None
        row["labels"] = str(self.labels) if self.labels else None
        return row

    def transforms(self) -> "EvalTransform":
        """The evaluation transform of these weights: uint8 frames (T, H, W, 3) -> clip (3, T, H, W)."""
        return transforms_of({"clip": asdict(self.clip)})


def transforms_of(meta: Mapping[str, Any]) -> "EvalTransform":
    """The evaluation transform of a network with this `meta`.

    Raises:
        ValueError: the network has no clip specification (no weights, or a file that does not say its clip).
    """
    if not meta.get("clip"):
        raise ValueError(
            "this model has no clip specification: neither a row of the table nor its file says one; load the file "
            "with model=ROW (one of list_weights()), or use svt_zoo.data.transforms.EvalTransform with your own numbers"
        )
    from ..data.transforms import EvalTransform  # asked for, so torchvision may be loaded

    return EvalTransform(**meta["clip"])


def _ssv2(source: str, top1: float, top5: float, protocol: str = "1x3 views") -> tuple[Result, ...]:
    return (
        Result("SSv2", protocol, "top-1", top1, source),
        Result("SSv2", protocol, "top-5", top5, source),
    )


_SVT_PAPER = "Self-supervised Video Transformer (CVPR 2022), tables 1 to 3"
_FB_README = "README of facebookresearch/TimeSformer"
_TIME_README = "README of alinlab/temporal-selfsupervision; its test command shuffles frames, so read with care"


class SVT_ViTB_Weights:
    """SVT pre-training of `svt_vitb`."""

    K400 = Weights(
        name="svt_vitb_k400",
        model="svt_vitb",
        source=UrlFile("https://github.com/kahnchana/svt/releases/download/v1.0/kinetics400_vitb_ssl.pth"),
        clip=ClipSpec(8, 32, 256, 224, *_KINETICS),
        title="SVT ViT-B/16, self-supervised on Kinetics-400",
        paper="https://arxiv.org/abs/2112.01514",
        license="unclear: the repository says MIT, its network derives from TimeSformer (CC BY-NC 4.0)",
        pretrained_on="Kinetics-400, no labels",
        pretrain_mean_std=_IMAGENET,
        published=tuple(
            Result(dataset, protocol, "top-1", value, _SVT_PAPER)
            for dataset, linear, tuned in (
                ("UCF-101", 90.8, 93.7),
                ("HMDB-51", 57.8, 67.2),
                ("K400", 68.1, 78.1),
                ("SSv2", 18.3, 59.2),
            )
            for protocol, value in (("linear", linear), ("fine-tune", tuned))
        ),
        notes="The published evaluation normalises with 0.45 / 0.225, pre-training did with ImageNet's statistics.",
    )
    DEFAULT = K400


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
        notes="An image network as the start of a video one: time has no say until it is trained.",
    )


class DINO_ViTB_Weights:
    """DINO's image network in `svt_vitb`, where SVT's training starts."""

    IMAGENET1K = _dino("base", "svt_vitb", "3ca4284a1d2db6ac0fc1a7e24e71ee0643260ec2")
    DEFAULT = IMAGENET1K


class DINO_ViTS_Weights:
    """DINO's small image network in `svt_vits`."""

    IMAGENET1K = _dino("small", "svt_vits", "733b42a211ebe03aa7327050699cfcee7cd96123")
    DEFAULT = IMAGENET1K


def _facebook(
    name: str,
    data: str,
    revision: str,
    clip: ClipSpec,
    num_classes: int,
    top1: float,
    top5: float,
    notes: str = "",
) -> Weights:
    repo = f"facebook/timesformer-base-finetuned-{data.lower()}"
    return Weights(
        name=name,
        model="timesformer_vitb",
        source=HubFile(repo, "pytorch_model.bin", revision),
        clip=clip,
        title=f"TimeSformer ViT-B/16, supervised on {data}",
        paper="https://arxiv.org/abs/2102.05095",
        license="CC BY-NC 4.0",
        pretrained_on=f"ImageNet-21k and 1k images, then {data}, with labels",
        num_classes=num_classes,
        labels=HubFile(repo, "config.json", revision),
        published=(
            Result(data, "1x3 views", "top-1", top1, _FB_README),
            Result(data, "1x3 views", "top-5", top5, _FB_README),
        ),
        notes=notes,
    )


def _time(backbone: str, model: str, top1: float, top5: float, tuned: bool, sha256: str | None = None) -> Weights:
    suffix = "_TIME" if tuned else ""
    return Weights(
        name=f"{model}_ssv2{suffix.lower()}",
        model=model,
        source=HubFile(
            "ICML2022/TimeIsMattEr",
            f"{backbone.replace('-', '')}{suffix}.pyth",
            "e71f54946e0c209f34473875ff9298fa50131913",
        ),
        sha256=sha256,
        clip=ClipSpec(8, None, 224, 224, *_HALF),
        title=f"{backbone} ViT-B/16{' + TIME' if tuned else ''}, supervised on SSv2",
        paper="https://arxiv.org/abs/2207.09067",
        license="CC BY-NC 4.0",
        pretrained_on="ImageNet images, then SSv2, with labels" + (" and temporal self-supervision" if tuned else ""),
        num_classes=174,
        published=_ssv2(_TIME_README, top1, top5),
    )


class TimeSformer_ViTB_Weights:
    """Supervised `timesformer_vitb`: Facebook's (in Hugging Face's format) and TIME's."""

    K400 = _facebook(
        "timesformer_vitb_k400",
        "K400",
        "72d580cae9d3a854630da97a8cfd8e42ab97dbca",
        ClipSpec(8, 32, 224, 224, *_KINETICS),
        400,
        77.9,
        93.2,
    )
    K600 = _facebook(
        "timesformer_vitb_k600",
        "K600",
        "main",
        ClipSpec(8, 32, 224, 224, *_KINETICS),
        600,
        79.1,
        94.4,
        notes="Not pinned: its full commit is not known to us.",
    )
    SSV2_FB = _facebook(
        "timesformer_vitb_ssv2_fb",
        "SSv2",
        "468c77dca9f6f3f100c49e13b1dd22e3a1c96b9e",
        ClipSpec(8, None, 224, 224, *_KINETICS, channel_order="BGR"),
        174,
        59.1,
        85.6,
        notes="Trained on blue-green-red frames, as the original's reader returned them.",
    )
    SSV2 = _time("TimeSformer", "timesformer_vitb", 62.1, 86.4, tuned=False)
    SSV2_TIME = _time("TimeSformer", "timesformer_vitb", 63.7, 87.8, tuned=True)
    DEFAULT = K400


class Motionformer_ViTB_Weights:
    """TIME's `motionformer_vitb`."""

    SSV2 = _time(
        "Motionformer",
        "motionformer_vitb",
        63.8,
        88.5,
        tuned=False,
        sha256="a3127f0e0e12daada2f77de88db1d077f2ea21fd159ec7ed465d37c21c293e20",
    )
    SSV2_TIME = _time(
        "Motionformer",
        "motionformer_vitb",
        64.7,
        89.3,
        tuned=True,
        sha256="2750004c13477913d096dcba9c36b619b73f50e9affe204757bbbbf92a774954",
    )
    DEFAULT = SSV2_TIME


class XViT_ViTB_Weights:
    """TIME's `xvit_vitb`."""

    SSV2 = _time("X-ViT", "xvit_vitb", 60.1, 85.2, tuned=False)
    SSV2_TIME = _time("X-ViT", "xvit_vitb", 63.5, 88.1, tuned=True)
    DEFAULT = SSV2_TIME


_TABLE: dict[str, Weights] = {
    row.name: row
    for row in (
        SVT_ViTB_Weights.K400,
        DINO_ViTB_Weights.IMAGENET1K,
        DINO_ViTS_Weights.IMAGENET1K,
        TimeSformer_ViTB_Weights.K400,
        TimeSformer_ViTB_Weights.K600,
        TimeSformer_ViTB_Weights.SSV2_FB,
        TimeSformer_ViTB_Weights.SSV2,
        TimeSformer_ViTB_Weights.SSV2_TIME,
        Motionformer_ViTB_Weights.SSV2,
        Motionformer_ViTB_Weights.SSV2_TIME,
        XViT_ViTB_Weights.SSV2,
        XViT_ViTB_Weights.SSV2_TIME,
    )
}


def list_weights(pattern: str = "*") -> list[str]:
    """Names of all rows of the table that match the glob `pattern`, sorted."""
    return sorted(name for name in _TABLE if fnmatchcase(name, pattern))


def get_weights(name: str) -> Weights:
    """The row named `name`.

    Raises:
        ValueError: no such row; the message names the nearest ones.
    """
    if name not in _TABLE:
        near = difflib.get_close_matches(name, _TABLE, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? list_weights() names all" if near else "list_weights() names all"
        raise ValueError(f"no weights are named {name!r}; {hint}")
    return _TABLE[name]
