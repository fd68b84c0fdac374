"""What computes on a GPU keeps its tensors there, and waits for it only where that is intended."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import GPU, FakeGPU, fake_gpu
from small_methods import METHODS
from small_models import small
from torch import Tensor

from svt_zoo.config import LinearConfig, OptimConfig, Recipe, RunConfig
from svt_zoo.data.augment import Augment
from svt_zoo.data.crops import ViewParams, ViewSpec, draw_view
from svt_zoo.data.loader import _stack
from svt_zoo.evaluation.attentive import Setting, fresh_head, train_side_by_side
from svt_zoo.evaluation.features import Compute
from svt_zoo.evaluation.knn import nearest
from svt_zoo.evaluation.linear import train_heads
from svt_zoo.inference.predict import predict
from svt_zoo.models import Classifier, list_models
from svt_zoo.training.engine import Trainer

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 11), reason="torch 2.9 cannot copy to a GPU that is not there")


@pytest.fixture
def gpu() -> Iterator[FakeGPU]:
    with fake_gpu() as gpu:
        yield gpu


class Loader(list[Any]):
    """As many batches as it has entries."""

    sampler = SimpleNamespace(samples_per_step=2)
    dataset = SimpleNamespace(videos=())


def test_the_fake_gpu_finds_a_tensor_on_the_cpu_and_a_wait(gpu: FakeGPU) -> None:
    on_gpu = torch.ones(3, device=GPU)
    with pytest.raises(RuntimeError, match=r"two .*devices,? cuda:0"):
        on_gpu + torch.ones(3)
    assert gpu.waits == []
    assert not bool(on_gpu.sum() > 0)
    assert on_gpu.cpu().tolist() == [0, 0, 0]
    assert gpu.waits == ["a number is read in the test", "a copy in the test"]
    assert torch.ones(3).sum().item() == 3


BF16 = [(name, "bf16") for name in ("svt", "time", "cpc", "classify")]


@pytest.mark.parametrize(("name", "precision"), [*BF16, ("svt", "fp16"), ("svt with time", "fp32")])
def test_a_training_step_waits_for_the_gpu_once(name: str, precision: str, tmp_path: Path) -> None:
    make_method, make_batch = METHODS[name]
    method, batch = make_method().train(), make_batch()
    batch = replace(batch, params=[None] * len(batch.views))
    run = RunConfig(output=str(tmp_path), precision=precision, monitor_every_steps=2)
    recipe = Recipe(optim=OptimConfig(warmup_epochs=0), run=run)
    with fake_gpu() as gpu:
        trainer = Trainer(method.to(GPU), Loader([batch] * 4), lambda views, _: views, recipe, device=GPU)
        gpu.waits.clear()
        trainer._train_step(iter([batch]), threading.Event())
        assert len(gpu.waits) == 1
        assert gpu.waits[0].startswith("numbers are read in training/engine.py")
        trainer._train_step(iter([batch]), threading.Event())
        assert len(gpu.waits) == 3  # the second step measures features too
        assert all(place.startswith("numbers are read in training/engine.py") for place in gpu.waits)


@pytest.mark.parametrize("parity", [False, True])
def test_augmentation_does_not_wait_for_the_gpu(gpu: FakeGPU, parity: bool) -> None:
    spec = ViewSpec(size=16, hflip=0.5, jitter=0.8, hue=0.1, blur=0.5, solarize=0.5)
    rng = np.random.default_rng(0)
    params: ViewParams = _stack([draw_view(spec, 20, 24, 2, rng) for _ in range(4)])
    assert 0 < int((params.sigma > 0).sum()) < 4
    augment = Augment(parity=parity).to(GPU)
    views = augment(torch.zeros(4, 2, 16, 16, 3, dtype=torch.uint8, device=GPU), params)
    assert views.shape == (4, 3, 2, 16, 16)
    assert views.device.type == "cuda"
    assert gpu.waits == []


@pytest.mark.parametrize("name", [name for name in list_models() if "vitt" in name or "resnet18" in name])
def test_features_are_computed_on_the_gpu_and_read_without_a_wait(
    name: str, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(record_event=lambda: None))
    network = small(name)
    features, _ = Compute(network, "mean", GPU, torch.bfloat16)._start([torch.zeros(2, 3, 4, 32, 32)])
    assert features.shape == (2, network.cls_dim)
    assert gpu.waits == []


def test_predict_computes_on_the_gpu(gpu: FakeGPU) -> None:
    network = Classifier(small("svt_vitt"), 3)
    (found,) = predict(torch.zeros(3, 4, 32, 32), model=network, device=GPU, dtype="bfloat16")
    assert found.scores == pytest.approx([1 / 3] * 3)  # all logits that are read are 0
    assert len(gpu.waits) == 2  # the copies of the clips and of the logits


def neighbors() -> Tensor:
    return nearest(torch.ones(5, 8), torch.ones(40, 8), 3, device=GPU).rows


def no_gradient(_: Tensor, parameters: Tensor | Sequence[Tensor], **options: Any) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, [parameters] if isinstance(parameters, Tensor) else parameters))


def linear() -> Tensor:
    config, labels = LinearConfig(lrs=(0.1, 0.2), epochs=1, batch_size=4), torch.tensor([0, 1, 2, 0, 1, 2])
    return train_heads(torch.ones(6, 2, 8), labels, num_classes=3, options=config, device=GPU).scores(
        torch.ones(5, 8), 1
    )


def attentive() -> Tensor:
    heads = train_side_by_side(
        fresh_head(48, 3, 1, seed=0),
        [Setting(1e-3, 0.1), Setting(1e-2, 0.0)],
        lambda rows: torch.ones(len(rows), 6, 48),
        torch.arange(5),
        torch.tensor([0, 1, 2, 0, 1]),
        epochs=1,
        batch_size=4,
        device=GPU,
    )
    return heads.scores(lambda rows: torch.ones(len(rows), 6, 48), torch.arange(5))[0]


@pytest.mark.parametrize("evaluate", [neighbors, linear, attentive])
def test_evaluation_computes_on_the_gpu(
    gpu: FakeGPU, evaluate: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.autograd, "grad", no_gradient)
    assert evaluate().shape == (5, 3)
