"""Curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import atomic

# Title of each panel, and the metrics in it.
_PANELS = (
    ("loss", ("loss",)),
    ("learning rate", ("lr",)),
    ("weight decay", ("weight_decay",)),
    ("gradient norm", ("grad_norm",)),
    ("entropy of the teacher (nats)", ("teacher_entropy",)),
    ("standard deviation of the features", ("feature_std",)),
    ("rank of the features", ("feature_rank",)),
    ("kNN top-1 (%)", ("knn_top1",)),
    ("seconds a step", ("compute_seconds", "data_seconds")),
)


def draw_curves(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the metrics over the epochs into a PNG, one panel per metric."""
    from matplotlib.figure import Figure  # slow to load, and only the main process draws

    panels = [
        (title, [name for name in names if any(name in line for line in metrics)])
        for title, names in _PANELS
        if any(name in line for name in names for line in metrics)
    ]
    if not panels:
        return
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for axis, (title, names) in zip(axes[: len(panels)], panels, strict=True):
        for name in names:
            points = [(line["epoch"], line[name]) for line in metrics if name in line]
            axis.plot(*zip(*points, strict=True), linewidth=1, label=name, marker="." if len(points) < 50 else "")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=100)
