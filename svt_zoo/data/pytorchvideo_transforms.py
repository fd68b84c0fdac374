"""The old import path of PyTorchVideo's transforms. Deprecated; removed in the next release."""

import warnings

from . import enable_pytorchvideo_transforms

warnings.warn(
    "svt_zoo.data.pytorchvideo_transforms is deprecated: call svt_zoo.data.enable_pytorchvideo_transforms(), "
    "then import pytorchvideo.transforms",
    DeprecationWarning,
    stacklevel=2,
)
enable_pytorchvideo_transforms()
from pytorchvideo.transforms import *  # noqa: E402, F403
