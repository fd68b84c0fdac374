"""The data pipeline: lists, datasets, frame sampling, views, augmentation and parallel loading."""

import importlib
import sys


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
