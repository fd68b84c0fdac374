"""The command `doctor`: what is installed here, and what is wrong with it."""

import os
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

NEEDED = ("torch", "torchvision", "pytorchvideo", "fvcore", "iopath", "huggingface_hub", "av", "safetensors", "numpy")
DECODERS = {"h264": ["h264"], "hevc": ["hevc"], "vp9": ["vp9", "libvpx-vp9"], "av1": ["libdav1d", "libaom-av1"]}
_TIMEOUT = 5.0  # seconds for the Hub's answer


def add_doctor(parser: ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def doctor(args: Namespace) -> int:
    """Print versions, devices, decoders, cache folders and whether the Hub answers.

    A line that starts with "wrong" names a problem. The exit status is 1 if there is one.
    """
    wrong = 0
    for sound, text in (*_versions(), *_devices(), *_decoders(), *_caches(), *_hub()):
        print(f"{'ok   ' if sound else 'wrong'}  {text}", flush=True)
        wrong += not sound
    return 1 if wrong else 0


def _versions() -> Iterator[tuple[bool, str]]:
    yield True, f"python {platform.python_version()}, {sys.executable}"
    for name in NEEDED:
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield False, f"{name} is not installed: pip install {name}"


def _devices() -> Iterator[tuple[bool, str]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield False, f"torch cannot be imported: {error}"
        return
    yield True, f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield True, f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory:.0f} GiB"
    if not torch.cuda.is_available():
        yield True, "GPU: none that torch can use"


def _decoders() -> Iterator[tuple[bool, str]]:
    try:
        import av
    except (ImportError, OSError) as error:
        yield False, f"av cannot be imported: {error}"
        return
    yield True, f"FFmpeg {av.ffmpeg_version_info}"
    for codec, names in DECODERS.items():
        found = [name for name in names if _has_decoder(name)]
        yield bool(found), f"decoder of {codec}: {found[0] if found else 'missing; reinstall av from PyPI'}"


def _has_decoder(name: str) -> bool:
    import av

    try:
        av.codec.Codec(name, "r")
    except ValueError:
        return False
    return True


def _caches() -> Iterator[tuple[bool, str]]:
    try:
        from huggingface_hub import constants

        from ..files import torch_folder

        folders = {"HF_HOME": Path(constants.HF_HUB_CACHE), "TORCH_HOME": torch_folder("checkpoints")}
    except ImportError as error:
        yield False, f"no cache folders: {error}"
        return
    for variable, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        writable = existing.is_dir() and os.access(existing, os.W_OK)
        yield writable, f"cache {folder}" + ("" if writable else f" is not writable; set {variable} to another folder")


def _hub() -> Iterator[tuple[bool, str]]:
    """Whether the Hub answers. No answer is not an error, because weights may be in the cache."""
    try:
        from huggingface_hub import constants, get_session
    except ImportError:
        return
    if constants.HF_HUB_OFFLINE:
        yield True, "Hub: not asked, HF_HUB_OFFLINE is set"
        return
    try:
        status = get_session().head(constants.ENDPOINT, timeout=_TIMEOUT).status_code
        yield True, f"Hub: {constants.ENDPOINT} answers with status {status}"
    except Exception as error:  # broad: the HTTP library depends on the version of the Hub's client
        text = " ".join(str(error).split())
        yield True, f"Hub: {constants.ENDPOINT} does not answer ({text}); only cached weights can be loaded"
