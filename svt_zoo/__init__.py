"""A model zoo for self-supervised video transformers.

    import svt_zoo

    model = svt_zoo.svt_vitb_k400()                  # a backbone with trained weights
    features = svt_zoo.embed(["video.mp4"])          # (1, 768)

Names are loaded when first used: `import svt_zoo` itself needs neither a video library nor torchvision.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.video import VideoReadError, open_video
    from .hub.entrypoints import (
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
        timesformer_vitb_hr_k400,
        timesformer_vitb_hr_ssv2,
        timesformer_vitb_k400,
        timesformer_vitb_k600,
        timesformer_vitb_ssv2,
        timesformer_vitb_ssv2_fb,
        timesformer_vitb_ssv2_time,
        xvit_vitb_ssv2,
        xvit_vitb_ssv2_original,
        xvit_vitb_ssv2_time,
    )
    from .hub.loading import from_pretrained, load_model
    from .hub.sources import WeightsError
    from .hub.weights import get_weights, list_weights
    from .inference.extract import extract_features
    from .inference.predict import embed, predict
    from .models import Backbone, Classifier, Features, create_model, list_models, register_model

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Classifier",
    "Features",
    "VideoReadError",
    "WeightsError",
    "cpc_resnet18_ucf101",
    "cpc_resnet18_ucf101_finetuned",
    "create_model",
    "dino_vitb16",
    "dino_vits16",
    "embed",
    "extract_features",
    "from_pretrained",
    "get_weights",
    "imagenet_vitb16",
    "list_models",
    "list_weights",
    "load_model",
    "motionformer_vitb_epic",
    "motionformer_vitb_k400",
    "motionformer_vitb_ssv2",
    "motionformer_vitb_ssv2_fb",
    "motionformer_vitb_ssv2_time",
    "open_video",
    "predict",
    "register_model",
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

_HOME = {
    "Backbone": "models",
    "Classifier": "models",
    "Features": "models",
    "VideoReadError": "data.video",
    "WeightsError": "hub.sources",
    "create_model": "models",
    "embed": "inference.predict",
    "extract_features": "inference.extract",
    "from_pretrained": "hub.loading",
    "get_weights": "hub.weights",
    "list_models": "models",
    "list_weights": "hub.weights",
    "load_model": "hub.loading",
    "open_video": "data.video",
    "predict": "inference.predict",
    "register_model": "models",
    "cpc_resnet18_ucf101": "hub.entrypoints",
    "cpc_resnet18_ucf101_finetuned": "hub.entrypoints",
    "dino_vitb16": "hub.entrypoints",
    "dino_vits16": "hub.entrypoints",
    "svt_vitb_k400": "hub.entrypoints",
    "timesformer_vitb_hr_k400": "hub.entrypoints",
    "timesformer_vitb_hr_ssv2": "hub.entrypoints",
    "timesformer_vitb_k400": "hub.entrypoints",
    "timesformer_vitb_k600": "hub.entrypoints",
    "timesformer_vitb_ssv2": "hub.entrypoints",
    "timesformer_vitb_ssv2_fb": "hub.entrypoints",
    "timesformer_vitb_ssv2_time": "hub.entrypoints",
    "imagenet_vitb16": "hub.entrypoints",
    "motionformer_vitb_epic": "hub.entrypoints",
    "motionformer_vitb_k400": "hub.entrypoints",
    "motionformer_vitb_ssv2": "hub.entrypoints",
    "motionformer_vitb_ssv2_fb": "hub.entrypoints",
    "motionformer_vitb_ssv2_time": "hub.entrypoints",
    "xvit_vitb_ssv2": "hub.entrypoints",
    "xvit_vitb_ssv2_original": "hub.entrypoints",
    "xvit_vitb_ssv2_time": "hub.entrypoints",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
