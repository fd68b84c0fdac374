"""Fixtures that every test file may use."""

import json
import os
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("zoo", deadline=None)  # a busy machine is no failure
settings.load_profile("zoo")

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SVT_ZOO_SHARED", ROOT.parent / "shared"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Captured output may name files that are not UTF-8, but parallel processes send reports as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, official lists and recorded numbers that lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: this test compares with recorded numbers or real files kept there")
    return SHARED


@pytest.fixture(scope="session")
def oracle(shared: Path) -> Callable[[str], tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """`oracle("svt/tiny_model_cases")` -> (tensors, json) of one recorded run of an original implementation."""
    from safetensors.torch import load_file

    def load(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        stem = shared / "oracles" / name
        tensors = stem.with_suffix(".safetensors")
        sidecar = stem.with_suffix(".json")
        return (
            load_file(tensors) if tensors.exists() else {},
            json.loads(sidecar.read_text()) if sidecar.exists() else {},
        )

    return load


def encode_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Write uint8 frames (T, H, W, 3) to `path`; the container follows from the suffix."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = options if options is not None else {"crf": "10", "preset": "veryfast"}
        for image in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """`make_video(path, frames, fps=25, codec=..., pix_fmt=..., options=...)`: encode frames (T, H, W, 3)."""
    return encode_video


def grey_level(index: int) -> int:
    """The gray level that stands for frame `index` (0 to 49): 24, 28, ..., steps that survive encoding."""
    return 24 + 4 * index


@pytest.fixture(scope="session")
def gray_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`gray_video(n, fps=25, size=(48, 64), suffix=".mp4")`: a video of which frame i has gray level 24 + 4 * i."""

    def make(n: int, *, fps: int = 25, size: tuple[int, int] = (48, 64), suffix: str = ".mp4", **options: Any) -> Path:
        if n > 50:
            raise ValueError(f"gray_video has 50 gray levels to tell frames apart, got n={n}")
        levels = np.array([grey_level(i) for i in range(n)], dtype=np.uint8)
        frames = np.broadcast_to(levels[:, None, None, None], (n, *size, 3))
        path = tmp_path_factory.mktemp("grey") / f"grey_{n}{suffix}"
        return encode_video(path, frames, fps=fps, **options)

    return make
