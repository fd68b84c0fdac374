"""The data pipeline: lists, datasets, frame sampling, views, augmentation and parallel loading."""

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any


def enable_pytorchvideo_transforms() -> None:
    """Make `import pytorchvideo.transforms` work with torchvision 0.17 and later.

    PyTorchVideo 0.1.5 imports `torchvision.transforms.functional_tensor`. torchvision renamed this module to
    `_functional_tensor`. This function adds the old name to `sys.modules` if the module does not exist. Call it
    before the import, in each process.
    """
    name = "torchvision.transforms.functional_tensor"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        sys.modules[name] = importlib.import_module("torchvision.transforms._functional_tensor")


class _Moved(ModuleType):
    """An old import path, which works for one release with a warning."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(f"{__name__}.{name}")
        self._target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._target == "pytorchvideo.transforms":
            enable_pytorchvideo_transforms()
        value = getattr(importlib.import_module(self._target), name)
        warnings.warn(f"{self.__name__} is deprecated; import {name} from {self._target}", DeprecationWarning, 2)
        return value


for _old, _new in (
    ("video", "svt_zoo.video"),
    ("limits", "svt_zoo.video"),
    ("pytorchvideo_transforms", "pytorchvideo.transforms"),
):
    sys.modules[f"{__name__}.{_old}"] = _Moved(_old, _new)
