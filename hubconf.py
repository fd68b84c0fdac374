"""Entry points of torch.hub: `torch.hub.load("org/svt", "svt_vitb_k400")`."""

dependencies = ["torch", "huggingface_hub", "safetensors"]

from svt_zoo.hub import entrypoints  # noqa: E402

__all__ = entrypoints.__all__
globals().update({name: getattr(entrypoints, name) for name in __all__})
