"""Exports a network as a file that runs without this package (torch.export, AOTInductor, ONNX), and checks it."""

import copy
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..files import atomic
from ..models import Classifier, ZooModel, backbone_of

_log = logging.getLogger(__name__)

ProgramFormat = Literal["torch_export", "aotinductor", "onnx"]
Run = Callable[[Tensor], Sequence[Tensor]]
Shape = tuple[int, int, int, int, int]

TOLERANCE = 1e-4  # largest difference in float32 between a network and its export
INT8_COSINE = 0.98  # smallest cosine similarity of an output between a network and its export in int8
CONFIG_KEY = "svt_zoo"  # key of the network's `meta` in the metadata of a program
_DIMENSIONS = {0: "batch", 2: "frames", 3: "height", 4: "width"}
# Free axes, tried in this order, most first: a network with a fixed number of frames cannot leave it free.
_FREE = ((0, 2, 3, 4), (0, 3, 4), (0, 2), (0,))


class ExportError(RuntimeError):
    """A network cannot be exported. The message is one line with the format, the cause and the solution."""


class Exported(NamedTuple):
    """Result of an export: the free input dimensions, and the largest difference from the network when tested.

    For int8 that is the difference before rounding, and `cosine` the smallest similarity of an output after it.
    """

    path: Path
    free: tuple[str, ...]
    max_difference: float
    shapes: tuple[Shape, ...]
    cosine: float = 1.0


def export_program(
    model: ZooModel,
    path: str | os.PathLike[str],
    format: ProgramFormat = "onnx",
    *,
    dtype: Literal["float32", "int8"] = "float32",
) -> Exported:
    """Write `model` as a program clip (B, 3, T, H, W) -> (cls, patches), or logits for a classifier.

    Batch, frames, height and width stay free where network and exporter allow; the result states which. (The two
    formats of torch may refuse a clip of one or two frames, or of one patch.) The file is run at three shapes and
    compared with the network. It is kept only if all differences are at most `TOLERANCE`. It also contains the
    network's `meta` (its clip, its classes), under the key "svt_zoo".

    Args:
        model: a backbone or a classifier; it is not changed.
        path: the file to write: `.onnx` for "onnx", `.pt2` for the others.
        format: "torch_export": load with `torch.export.load(path).module()`. "aotinductor": compiled for this kind of
            machine; needs a C++ compiler; load with `torch._inductor.aoti_load_package(path)`. "onnx": input `clip`
            with free axes batch, frames, height, width; outputs `cls` and `patches`, or `logits`.
        dtype: of the linear layers. "int8" (ONNX only) rounds their weights, per channel, and their inputs in each
            call; inputs and outputs stay float32. The cosine similarity of each output to the network's
            must be at least `INT8_COSINE`.

    Raises:
        ExportError: the network cannot be exported, its export has different outputs, or a package is missing.
        ValueError: the format is unknown, or the suffix does not fit it.
    """
    path = Path(path)
    if format not in _WRITERS:
        raise ValueError(f"format must be one of {', '.join(_WRITERS)}, got {format!r}")
    write, load, suffix = _WRITERS[format]
    if path.suffix != suffix:
        raise ValueError(f"{path}: a file of format {format} ends in {suffix}")
    if dtype not in ("float32", "int8") or (dtype == "int8" and format != "onnx"):
        raise ValueError(f"dtype of format {format} must be float32{' or int8' * (format == 'onnx')}, got {dtype!r}")
    _check_tools(format)
    network = _Program(copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval())
    native = clip_shape(model)
    config = json.dumps(model.meta, default=str)
    reasons = []
    for free in _FREE:
        if 2 in free and native[0] == 1:
            continue  # a program traced with one frame accepts only one frame
        try:
            with atomic(path) as temporary, torch.no_grad():
                write(_trace(network, native, free), temporary, config, network.names)
                shapes = _shapes(native, free, network.patch_size)
                difference, cosine = max_difference(network, load(temporary), shapes), 1.0
                if dtype == "int8":
                    _quantize(temporary)
                    cosine = _least_cosine(network, load(temporary), shapes)
        except Exception as error:  # broad: exporters differ in their errors for axes that cannot stay free
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            reasons.append(reason)
            _log.info("%s with free %s: %s", format, ", ".join(_DIMENSIONS[i] for i in free), reason)
        else:
            return Exported(path, tuple(_DIMENSIONS[i] for i in free), difference, shapes, cosine)
    name = model.meta.get("model") or type(model).__name__
    raise ExportError(f"{name} cannot be exported as {format}: {reasons[-1]}")


def _check_tools(format: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"{format} needs {package}: pip install onnx onnxruntime onnxscript")
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    if format == "aotinductor" and not any(shutil.which(name) for name in compilers):
        raise ExportError("no C++ compiler is found; install g++ or clang++, or export as torch_export or onnx")


class _Program(nn.Module):
    """A network that returns a plain tuple, so that the program does not depend on types of this package."""

    def __init__(self, network: ZooModel) -> None:
        super().__init__()
        self.network = network
        self.names = ("logits",) if isinstance(network, Classifier) else ("cls", "patches")
        self.patch_size = backbone_of(network).patch_size

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        out = self.network(clip)
        return (out,) if isinstance(out, Tensor) else tuple(out)


def clip_shape(model: ZooModel) -> tuple[int, int, int]:
    """The clip shape (T, H, W) of a network."""
    backbone, clip = backbone_of(model), model.meta.get("clip")
    if clip:
        return clip["num_frames"], clip["crop_size"], clip["crop_size"]
    size = (model.meta.get("model_kwargs") or {}).get("img_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return backbone.num_frames, height, width


def _trace(network: _Program, native: tuple[int, int, int], free: tuple[int, ...]) -> ExportedProgram:
    # Sizes differ, so that the tracer keeps the axes apart.
    frames, height, width = native
    batch = 2 if frames != 2 else 3
    clip = torch.zeros(batch, 3, frames, height, width + 2 * network.patch_size * (4 in free))
    return torch.export.export(network, (clip,), dynamic_shapes=(dict.fromkeys(free, Dim.DYNAMIC),))


def _shapes(native: tuple[int, int, int], free: tuple[int, ...], patch: int) -> tuple[Shape, Shape, Shape]:
    """The network's clip shape, a larger and a smaller one: all free axes vary, also with partial patches."""
    frames, height, width = native
    more, less = (frames, height, width), (frames, height, width)
    if 2 in free:
        more, less = (2 * frames, *more[1:]), (max(3, frames // 2), *less[1:])
    if 4 in free:
        more = (more[0], height + 2 * patch + 3, max(2 * patch, width - 2 * patch))
        less = (less[0], max(2 * patch, height // 2), width)
    return (1, 3, *native), (2, 3, *more), (3, 3, *less)


def max_difference(network: Run, program: Run, shapes: Sequence[Shape]) -> float:
    """The largest difference of all outputs at `shapes`, on seeded noise.

    Raises:
        ExportError: the difference is above `TOLERANCE`, or NaN.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape in shapes:
        clip = torch.randn(shape, generator=generator)
        with torch.no_grad():
            for expected, got in zip(network(clip), program(clip), strict=True):
                if expected.shape != got.shape:
                    raise ExportError(f"gives {tuple(got.shape)} instead of {tuple(expected.shape)} for clip {shape}")
                difference = (expected - got).abs().max().item()
                if not difference <= TOLERANCE:
                    raise ExportError(f"differs by {difference:.2g} from the network (allowed {TOLERANCE}) at {shape}")
                worst = max(worst, difference)
    return worst


def _least_cosine(network: Run, program: Run, shapes: Sequence[Shape]) -> float:
    """The smallest cosine similarity of an output, (B, D) or (B, K), at `shapes`, on seeded noise."""
    generator = torch.Generator().manual_seed(0)
    least = 1.0
    for shape in shapes:
        clip = torch.randn(shape, generator=generator)
        least = min(least, torch.cosine_similarity(network(clip)[0], program(clip)[0]).min().item())
    if not least >= INT8_COSINE:
        raise ExportError(f"int8 gives a cosine similarity of {least:.3f} to the network (at least {INT8_COSINE})")
    return least


def _quantize(path: Path) -> None:
    """Round the weights of the linear layers of an ONNX file to int8, with one scale per output channel.

    They are at most 64: processors without VNNI add pairs of products with 8-bit inputs in 16 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        # onnxruntime rounds constants only, and torch writes a linear layer as the transpose of one.
        permutation = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
        values = onnx.numpy_helper.to_array(weights[node.input[0]]).transpose(permutation).copy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    read = {name for node in model.graph.node for name in node.input}
    for name in weights.keys() - read:
        model.graph.initializer.remove(weights[name])
    onnx.save(model, path)
    products = ["Gemm", "MatMul"]
    quantize_dynamic(
        path,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=products,
    )


def _write_torch(program: ExportedProgram, path: Path, config: str, names: Sequence[str]) -> None:
    torch.export.save(program, path, extra_files={CONFIG_KEY: config})


def _write_inductor(program: ExportedProgram, path: Path, config: str, names: Sequence[str]) -> None:
    options = {"aot_inductor.metadata": {CONFIG_KEY: config}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def _write_onnx(program: ExportedProgram, path: Path, config: str, names: Sequence[str]) -> None:
    # No optimization here: onnxruntime optimizes at load time, and onnxscript's optimizer fails on Motionformer.
    written = torch.onnx.export(program, input_names=["clip"], output_names=list(names), optimize=False, verbose=False)
    if written is None:
        raise ExportError("torch.onnx wrote nothing")
    if hasattr(written, "rename_axes"):  # older versions of torch keep names such as s77
        sizes = written.model.graph.inputs[0].shape or ()
        written.rename_axes({size: _DIMENSIONS[i] for i, size in enumerate(sizes) if not isinstance(size, int)})
    written.model.metadata_props[CONFIG_KEY] = config
    written.save(str(path), external_data=False)


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clip: [torch.from_numpy(out) for out in session.run(None, {"clip": clip.numpy()})]


# For each format: its writer, its runner, and its file suffix.
_Write = Callable[[ExportedProgram, Path, str, Sequence[str]], None]
_WRITERS: dict[str, tuple[_Write, Callable[[Path], Run], str]] = {
    "torch_export": (_write_torch, lambda path: torch.export.load(path).module(), ".pt2"),
    "aotinductor": (_write_inductor, lambda path: torch._inductor.aoti_load_package(str(path)), ".pt2"),
    "onnx": (_write_onnx, _run_onnx, ".onnx"),
}
