"""The data types for trained weights: clip, published numbers, and the row of the table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..options import bounds
from .sources import ByHand, HubFile, PackageFile, UrlFile

if TYPE_CHECKING:
    from ..data.transforms import EvalTransform


@dataclass(frozen=True)
class ClipSpec:
    """The clip a network was trained on: how frames are chosen and prepared for evaluation.

    A clip spans `num_frames * sampling_rate` frames of a video of 30 frames per second. Its frames are evenly spaced,
    from the first to the last. Without a rate, each frame represents one of equal segments of the entire video.
    `resize_size` and `crop_size` are pixels, `mean` and `std` on the scale [0, 1]
    in the order `channel_order`.
    """

    num_frames: int
    sampling_rate: float | None
    resize_size: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        bounds(self, "num_frames", "resize_size", "crop_size", low=1)
        bounds(self, "sampling_rate", "std", above=0)

    @property
    def frames_and_rate(self) -> str:
        """Frames x rate, such as "8x32"; "8 segments" for frames of equal segments."""
        rate = "" if self.sampling_rate is None else f"x{self.sampling_rate:.3g}"
        return f"{self.num_frames}{rate or ' segments'}"

    def resized(self, num_frames: int | None = None, img_size: int | None = None) -> "ClipSpec":
        """The same clip with another number of frames over the same seconds, and another crop at the same scale."""
        num_frames = self.num_frames if num_frames is None else num_frames
        img_size = self.crop_size if img_size is None else img_size
        if num_frames < 1 or img_size < 1:
            raise ValueError(f"num_frames and img_size must be >= 1, got {num_frames} and {img_size}")
        rate = self.sampling_rate and self.sampling_rate * self.num_frames / num_frames
        short_side = round(self.resize_size * img_size / self.crop_size)
        return replace(self, num_frames=num_frames, sampling_rate=rate, crop_size=img_size, resize_size=short_side)


@dataclass(frozen=True)
class Number:
    """One published or measured number: `value` in percent, and its source.

    `recipe` is the recipe that follows its protocol, with its overrides; blank if we have none.
    """

    dataset: str
    protocol: str
    metric: str
    value: float
    source: str
    recipe: str = ""


@dataclass(frozen=True)
class Weights:
    """A row of the table.

    `license` is the license stated on the weights' page (blank: unknown). `source` is the authors' copy of the file.
    `hub_copy` is a converted copy on the Hub at a full commit, which is preferred. `sha256` is the hash of `file`,
    blank if unknown; then the hash of the first download is recorded beside the cache and every later one must equal
    it. `model_kwargs` are keywords of the model's builder that its weights need. `num_classes` is the size of the
    classifier in the file, 0 if it has none.
    """

    name: str
    model: str
    source: HubFile | UrlFile | ByHand | PackageFile
    clip: ClipSpec
    title: str
    paper: str
    license: str
    pretrained_on: str
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    hub_copy: HubFile | None = None
    num_classes: int = 0
    labels: HubFile | None = None
    pretrain_mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    published: tuple[Number, ...] = ()
    measured: tuple[Number, ...] = ()
    notes: str = ""

    @property
    def file(self) -> HubFile | UrlFile | ByHand | PackageFile:
        """The file that is loaded: the copy on the Hub if there is one, else the authors'."""
        return self.hub_copy or self.source

    @property
    def meta(self) -> dict[str, Any]:
        """The full row as plain data, which models, cards and the zoo page show."""
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
        ValueError: the network has no clip specification (no weights, or a file that does not state its clip).
    """
    if not meta.get("clip"):
        raise ValueError(
            "this model has no clip specification (frames, crop, mean, std). Take that of a row of the table for the "
            "same network: load_model(FILE, model=ROW), or in the tools --weights FILE --model ROW; or set "
            "model.meta['clip'] = get_weights(ROW).meta['clip'] and save the model again"
        )
    from ..data.transforms import EvalTransform  # here, because it loads torchvision

    return EvalTransform(**meta["clip"])
