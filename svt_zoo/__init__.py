"""A model zoo for self-supervised video transformers.

    import svt_zoo

    model = svt_zoo.svt_vitb_k400()                  # a backbone with trained weights
    features = svt_zoo.embed(["video.mp4"])          # (1, 768)

There is one such function for each name of `list_weights()`. Names are loaded when first used: `import svt_zoo` itself
loads neither torch nor a video library.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from .hub.table import TABLE as _TABLE

if _TYPE_CHECKING:
    from .hub.entrypoints import EntryPoint as _EntryPoint
    from .hub.loading import from_pretrained, load_model
    from .hub.sources import WeightsError
    from .hub.table import get_weights, list_weights
    from .inference.extract import extract_features
    from .inference.predict import embed, predict
    from .models import Backbone, Classifier, Features, create_model, list_models, register_model
    from .video import VideoReadError, open_video

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Classifier",
    "Features",
    "VideoReadError",
    "WeightsError",
    "create_model",
    "embed",
    "extract_features",
    "from_pretrained",
    "get_weights",
    "list_models",
    "list_weights",
    "load_model",
    "open_video",
    "predict",
    "register_model",
]

_HOME = {
    "Backbone": "models",
    "Classifier": "models",
    "Features": "models",
    "VideoReadError": "video",
    "WeightsError": "hub.sources",
    "create_model": "models",
    "embed": "inference.predict",
    "extract_features": "inference.extract",
    "from_pretrained": "hub.loading",
    "get_weights": "hub.table",
    "list_models": "models",
    "list_weights": "hub.table",
    "load_model": "hub.loading",
    "open_video": "video",
    "predict": "inference.predict",
    "register_model": "models",
    **dict.fromkeys(_TABLE, "hub.entrypoints"),
}
__all__ += sorted(_TABLE)


def __getattr__(name: str) -> "_EntryPoint":  # the type of all names that are not listed above
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: _EntryPoint = getattr(_importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
