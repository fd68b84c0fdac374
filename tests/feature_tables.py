"""Tables of given features."""

from pathlib import Path

from torch import Tensor

from svt_zoo.evaluation.features import Store
from svt_zoo.evaluation.shards import ClipRow, Shard
from svt_zoo.inference.feature_table import FeatureTable, make_schema, write_table


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
