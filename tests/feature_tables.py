"""Tables of given features, and a small network that makes others."""

from pathlib import Path

import torch
from torch import Tensor

from svt_zoo.evaluation.features import Store
from svt_zoo.evaluation.shards import ClipRow, Shard
from svt_zoo.inference.feature_table import FeatureTable, make_schema, write_table
from svt_zoo.models import ZooModel, create_model

CLIP = {"num_frames": 4, "sampling_rate": 5, "resize_size": 36, "crop_size": 32, "mean": (0.45,) * 3, "std": (0.2,) * 3}


def network(seed: int = 0) -> ZooModel:
    torch.manual_seed(seed)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
    model = create_model("svt_vitt", **options).eval()
    model.meta["clip"] = CLIP
    return model


def table_of(
    path: Path, features: Tensor, videos: list[str] | None = None, store: Store = "float32", **metadata: str
) -> FeatureTable:
    """A table of these features; each tenth row is followed by a failure row."""
    names = [*(videos or [f"{i}.mp4" for i in range(len(features))]), "bad.mp4"]
    rows = []
    for i in range(len(features)):
        rows.append(ClipRow(i, 0.0, 1.0))
        if i % 10 == 9:
            rows.append(ClipRow(len(features), None, None, "broken"))
    schema = make_schema(features.shape[1], store, {"weights_sha256": "0", "root": "", **metadata})
    write_table(path, schema, [Shard(rows, features)], names)
    return FeatureTable(path)
