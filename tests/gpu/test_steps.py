"""Training steps on a GPU equal those on the CPU, copies to it are complete, and fp16 skips what overflows."""

import functools
from pathlib import Path

import pytest
import torch
from small_methods import METHODS
from torch import Tensor
from training_runs import TINY as RECIPE
from training_runs import lines_of, make_training_videos

from svt_zoo.batch import Batch
from svt_zoo.config import load_recipe
from svt_zoo.methods import temporal
from svt_zoo.training import engine
from svt_zoo.training.checkpoint import load_newest
from svt_zoo.training.optim import OptimConfig, build_optimizer, clip_gradients
from svt_zoo.training.run import pretrain


def trained(
    name: str, device: torch.device, dtype: torch.dtype, steps: int = 2
) -> tuple[dict[str, Tensor], list[float]]:
    """State and losses after steps as the loop makes them."""
    make_method, make_batch = METHODS[name]
    method = make_method().to(device, dtype).train()
    batch = make_batch().to(device)
    batch = Batch(**{**vars(batch), "views": [view.to(dtype) for view in batch.views]})
    optimizer = build_optimizer(method, OptimConfig(lr=1e-3, weight_decay=0.04))
    losses = []
    for step in range(steps):
        loss = torch.stack(list(method(batch, float(step)).values())).sum()
        loss.backward()
        method.before_step(step)
        clip_gradients(method.parameters(), 0.1, mode="per_parameter")
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)
        losses.append(loss.item())
    return {key: value.cpu() for key, value in method.state_dict().items()}, losses


@pytest.fixture
def _same_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled frames are drawn on the CPU: generators of two devices draw different numbers."""

    def drawn(batch: int, steps: int, device: torch.device, **_: object) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return torch.stack([torch.randperm(steps, generator=generator) for _ in range(batch)]).to(device)

    monkeypatch.setattr(temporal, "draw_permutations", drawn)


@pytest.mark.usefixtures("_same_permutations")
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_equal_those_of_the_cpu_in_float64(name: str, device: torch.device) -> None:
    state, losses = trained(name, device, torch.float64)
    expected, right = trained(name, torch.device("cpu"), torch.float64)
    assert losses == pytest.approx(right, rel=1e-10)
    for key, value in state.items():
        # Adam divides a gradient by its size, so rounding decides about the keys' bias, whose gradient is 0.
        if not key.endswith("qkv.bias"):
            torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.usefixtures("_same_permutations")
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_in_float32_is_near_that_in_float64(name: str, device: torch.device) -> None:
    _, losses = trained(name, device, torch.float32, steps=1)
    _, right = trained(name, torch.device("cpu"), torch.float64, steps=1)
    assert losses == pytest.approx(right, rel=1e-4)


def test_batches_arrive_whole_while_the_host_makes_new_ones(device: torch.device) -> None:
    """Copies that do not block take pinned memory; it must not be used again before they end."""
    rounds = 200 if device.type == "cuda" else 3
    sums, right = [], []
    for seed in range(rounds):
        generator = torch.Generator().manual_seed(seed)
        views = [torch.randint(256, (64, 2**16), generator=generator, dtype=torch.uint8) for _ in range(2)]
        right.append([int(view.sum()) for view in views])
        batch = Batch(views=views, labels=torch.zeros(64), video_index=torch.arange(64))
        batch = (batch.pin_memory() if device.type == "cuda" else batch).to(device)
        sums.append([view.sum() for view in batch.views])  # not read before the end: nothing waits
        del batch, views
    assert [[int(value) for value in pair] for pair in sums] == right


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training_videos(tmp_path_factory.mktemp("videos"))


def test_fp16_skips_steps_that_overflow_and_goes_on(
    videos: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "choose_precision", lambda *_: torch.float16)  # a run on a CPU refuses it
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**20))
    keys = [f"data.train={videos}", f"run.output={tmp_path}", f"run.device={device.type}", "optim.epochs=8"]
    keys += ["optim.warmup_epochs=0", "svt.freeze_last_layer=0"]
    assert pretrain(load_recipe(RECIPE, keys))
    norms = torch.tensor([float(line["grad_norm"]) for line in lines_of(tmp_path)])
    skipped = ~norms.isfinite()
    assert skipped[0]
    assert not skipped[-8:].any()
    newest = load_newest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.payload["scaler"]["scale"] == 2.0 ** (20 - int(skipped.sum()))
    steps = {float(entry["step"]) for entry in newest.payload["optimizer"]["state"].values()}
    assert max(steps) == int((~skipped).sum())
    assert all(value.isfinite().all() for value in newest.payload["method"].values())
