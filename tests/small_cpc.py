"""CPC's recorded runs: weights and inputs by their rule, and networks that hold them."""

import hashlib
import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svt_zoo.batch import Batch
from svt_zoo.hub.convert import from_cpc
from svt_zoo.methods import CPC, CPCConfig
from svt_zoo.models import Classifier, create_model

CLASSIFIER = {"relu": True, "pool": "context", "final_bn": True}  # what the original fine-tunes
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "img_size": 64, "num_frames": 5, "dropout": 0.0}


def normal(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """The recorded runs' random numbers of a tensor called `name`."""
    seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
    return np.random.RandomState(seed).standard_normal(shape)


def rule_weights(layout: list[list[Any]], salt: str) -> dict[str, Tensor]:
    """The weights of a recorded run, in the original's names; `layout` lists them as (name, shape, type)."""
    state = {}
    for name, shape, dtype in layout:
        n = normal(name.replace("agg.cell_list.0.", "agg.ConvGRUCell_00."), tuple(shape), salt)
        if name.endswith("num_batches_tracked"):
            n = np.zeros(shape)
        elif name.endswith("running_mean"):
            n = 0.1 * n
        elif name.endswith("running_var"):
            n = 1 + 0.2 * np.abs(n)
        elif len(shape) >= 2:
            gain = 2 if len(shape) == 4 and name.startswith("backbone.") else 1
            n = n * math.sqrt(gain / math.prod(shape[1:]))
        else:
            n = 1 + 0.1 * n if name.endswith(("weight", "a_2")) else 0.1 * n
        state[name] = torch.tensor(n.astype(np.float32)).to(getattr(torch, dtype))
    return state


def rule_clip(name: str, shape: tuple[int, ...], salt: str) -> tuple[Tensor, str]:
    """A recorded run's input (B, T, 3, S, S) as a clip (B, 3, T, S, S), and the hash of its bytes."""
    values = normal(f"input:{name}", shape, salt).astype(np.float32)
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:16]
    return torch.from_numpy(values).transpose(1, 2), digest


def original_cpc(state: dict[str, Tensor], net: str, dtype: torch.dtype, **frames: int) -> CPC:
    """The method as the original trains it, with the original's weights and without dropout."""
    method = CPC(
        create_model(f"cpc_{net}", dropout=0.0),
        CPCConfig(attention="full", normalize=False, temperature=1.0),
        **frames,
    ).to(dtype)
    ours = from_cpc(state, predictor=True)
    prefixed = {key if key.startswith("predictor.") else f"backbone.{key}": value for key, value in ours.items()}
    method.load_state_dict(prefixed, strict=True)
    return method


def original_classifier(state: dict[str, Tensor], num_classes: int, dtype: torch.dtype) -> Classifier:
    """The original's classifier with its weights, without the transformer's dropout."""
    network = create_model("cpc_resnet18", num_classes=num_classes, dropout=0.0, **CLASSIFIER).to(dtype)
    ours = from_cpc(state)
    prefixed = {key if key.startswith("head.") else f"backbone.{key}": value for key, value in ours.items()}
    network.load_state_dict(prefixed, strict=True)
    assert isinstance(network, Classifier)
    return network


def clip_batch(clip: Tensor) -> Batch:
    return Batch(views=[clip], labels=torch.full((len(clip),), -1), video_index=torch.arange(len(clip)))


def small_cpc(
    model: str = "cpc_resnet18",
    model_options: dict[str, Any] | None = None,
    *,
    context_frames: int = 2,
    pred_frames: int = 3,
    **options: Any,
) -> CPC:
    """A small CPC that sees two frames and predicts three."""
    torch.manual_seed(0)
    network = create_model(model, **(SMALL if model_options is None else model_options))
    config = CPCConfig(**{"dropout": 0.0, **options})
    return CPC(network, config, context_frames=context_frames, pred_frames=pred_frames)
