"""The old import path of `svt_zoo.video`. Removed after one release."""

import warnings
from typing import Any

from .. import video


def __getattr__(name: str) -> Any:
    if name not in video.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"svt_zoo.data.video and svt_zoo.data.limits are deprecated; import {name} from svt_zoo.video"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(video, name)
