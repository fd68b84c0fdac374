"""Reads PyTorch files without running code in them: torch's restricted unpickler, and a few more types."""

import argparse
import importlib.util
import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .sources import Source, WeightsError, one_line


def _safe_globals() -> dict[str, Any]:
    """What a pickle of weights may name, besides what torch allows: options and NumPy's numbers with their types."""
    names: dict[str, Any] = {"argparse.Namespace": argparse.Namespace}
    if importlib.util.find_spec("numpy") is None:
        return names
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names |= {f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")}  # NumPy 1 and 2
    types = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_, np.str_)
    classes: list[type] = [np.dtype, *(type(np.dtype(type_)) for type_ in types)]
    for class_ in classes:
        names[f"{class_.__module__}.{class_.__qualname__}"] = class_
    return names


def read_pickle(path: Path, source: Source | str) -> dict[str, Any]:
    """The content of a PyTorch file: a dictionary of tensors and plain data.

    Raises:
        WeightsError: the file is damaged, or holds more than tensors and the types that `_safe_globals` lists.
    """
    file = _checked_archive(path, source)
    try:
        with torch.serialization.safe_globals([(value, name) for name, value in _safe_globals().items()]):
            raw = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:WeightsUnpickler error:\s*|.*(?=unsupported GLOBAL))(.+)", str(error))
        reason = one_line(match[1] if match else error).partition(" Please use")[0]
        raise WeightsError(
            f"{source}: refused, it holds more than tensors or is no PyTorch file ({reason}); "
            "save its state_dict as safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise WeightsError(
            f"{source}: not a complete PyTorch or safetensors file ({type(error).__name__}: {one_line(error)}); "
            "check that it is the right file, or fetch it again"
        ) from error
    if not isinstance(raw, Mapping):
        raise WeightsError(f"{source}: holds a {type(raw).__name__}, not a state dict")
    return dict(raw)


def _checked_archive(path: Path, source: Source | str) -> Path | io.BytesIO:
    """The file, or a copy with a pickle of protocol 2, which is the only one that torch's restricted reader knows.

    Refuses an archive that unpacks to far more than its size; torch itself does not compress.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > 4 * path.stat().st_size + (1 << 20):
                raise WeightsError(f"{source}: refused, an archive that unpacks to {size} bytes; save it uncompressed")
            pickles = {entry.filename: archive.read(entry) for entry in entries if entry.filename.endswith(".pkl")}
            if not any(content[:1] == b"\x80" and content[1:2] > b"\x02" for content in pickles.values()):
                return path
            copy = io.BytesIO()
            with zipfile.ZipFile(copy, "w") as target:
                for entry in entries:
                    content = pickles.get(entry.filename)
                    target.writestr(entry.filename, archive.read(entry) if content is None else in_protocol_2(content))
    except (zipfile.BadZipFile, ValueError, OSError, IndexError):  # torch states what is wrong
        return path
    copy.seek(0)
    return copy


def in_protocol_2(content: bytes) -> bytes:
    """A pickle of protocol 3 to 5 in the opcodes of protocol 2. Nothing is executed.

    Strings are written at each use, so that the two that name a global can be taken back.
    """
    opcodes: list[tuple[bytes, str | None]] = []  # with the text of a string
    memo: dict[int, str | None] = {}
    operations = [*pickletools.genops(content)]
    ends = [position for _, _, position in operations[1:]] + [len(content)]
    for (opcode, argument, start), end in zip(operations, ends, strict=True):
        name = opcode.name
        if name == "PROTO":
            opcodes.append((b"\x80\x02", None))
        elif name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            opcodes.append((_string(str(argument)), str(argument)))
        elif name == "MEMOIZE":
            text = memo[len(memo)] = opcodes[-1][1]
            if text is None:
                opcodes.append((b"r" + struct.pack("<I", len(memo) - 1), None))
        elif name in ("BINGET", "LONG_BINGET") and (text := memo.get(int(str(argument)))) is not None:
            opcodes.append((_string(text), text))
        elif name == "STACK_GLOBAL":
            (_, module), (_, attribute) = opcodes.pop(-2), opcodes.pop(-1)
            opcodes.append((f"c{module}\n{attribute}\n".encode(), None))
        elif name == "SHORT_BINBYTES" and isinstance(argument, bytes):
            text = argument.decode("latin1")
            opcodes.append((b"c_codecs\nencode\n" + _string(text) + _string("latin1") + b"\x86R", None))
        elif name != "FRAME":
            opcodes.append((content[start:end], None))
    return b"".join(code for code, _ in opcodes)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded
