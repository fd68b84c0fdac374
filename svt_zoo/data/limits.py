"""The old import path of `Limits` and `VideoReadError`, now in `svt_zoo.video`. Removed after one release."""

from .video import __getattr__ as __getattr__
