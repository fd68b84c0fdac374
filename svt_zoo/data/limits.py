"""The former place of `Limits` and `VideoReadError`, now in `svt_zoo.video`; to be removed after one release."""

from .video import __getattr__ as __getattr__
