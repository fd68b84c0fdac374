"""The devices that the tests in this folder run on: the CPU, and a GPU with `pytest -m gpu`."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device, with matrix products in full float32 (no TF32)."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield torch.device(request.param)
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = allowed
