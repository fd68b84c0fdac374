"""One function per row of the table of weights: `svt_zoo.NAME`, which `torch.hub.load("org/svt", NAME)` also calls.

Only this module creates them. `hubconf.py` and `svt_zoo/__init__.py` take their names from the table.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

from ..models import Backbone, Classifier, ZooModel, create_model
from .loading import load_model
from .table import TABLE
from .weights import Weights

EntryPoint = Callable[..., ZooModel]

__all__ = sorted(TABLE)

_ARGUMENTS = """

    Args:
        pretrained: load the trained weights (the default); False gives random ones and needs no file.
        weights: other weights to load, as of `load_model`.
        num_classes: 0 gives the backbone: clip -> `Features(cls (B, D), patches (B, T, N, D))`. K > 0 gives a
            classifier: clip -> logits (B, K), with the file's own head if it has K classes.
        num_frames, img_size: the clip, in frames and pixels, that `.transforms()` makes, by default that of the
            weights; the stored position tables stay as they are.
        revision: another branch, tag or commit of the weights' Hub repository.
        progress: show a bar while downloading.

    Returns:
        The model in eval mode. Its clip is float (B, 3, T, H, W), any T and any H, W of at least a patch.
        `model.transforms()` makes one from uint8 frames, `model.meta` states where the weights come from.
    """


def _entry_point(row: Weights) -> EntryPoint:
    """The function that builds the network of `row`, with its weights, with other `weights`, or with none."""

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

    entry_point.__name__ = entry_point.__qualname__ = row.name
    head = f"; num_classes={row.num_classes} has its classifier" if row.num_classes else ""
    entry_point.__doc__ = f"{row.title} ({row.paper}){head}." + _ARGUMENTS
    return entry_point


_ENTRY_POINTS = {name: _entry_point(row) for name, row in TABLE.items()}


def __getattr__(name: str) -> EntryPoint:
    if name not in _ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _ENTRY_POINTS[name]
