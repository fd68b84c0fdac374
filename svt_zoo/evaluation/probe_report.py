"""The table and the picture of probes with their controls."""

import io
from collections.abc import Iterator, Sequence

from .results import Result

_NOTE = """Top-1 in percent with 95 % intervals, by a bootstrap over groups. ▼: the control is below the input, ▲: above
it, where the interval of the paired difference excludes 0."""


def probe_table(results: Sequence[Result]) -> str:
    """Markdown: a table per set, with a row per probe and layer and a column per condition."""
    text = []
    for mine in _by_set(results):
        facts, columns = mine[0].recipe, _columns(mine[0])
        parts = f"{facts['train_n']} training and {mine[0].n} test videos in {facts['groups']} groups"
        text += [f"**{mine[0].dataset}**: {parts}, chance {100 / facts['classes']:.1f}\n"]
        text += [f"| | {' | '.join(['input', *columns[1:]])} |", "|---" * (1 + len(columns)) + "|"]
        for result in mine:
            cells = " | ".join(_cell(result.metrics, column) for column in columns)
            text.append(f"| {result.protocol.removeprefix('probe, ')} | {cells} |")
        text.append("")
    return "\n".join([*text, _NOTE, ""])


def plot_probes(results: Sequence[Result]) -> bytes:
    """Draw accuracies with their intervals as PNG: a panel per set, a group per probe, a color per condition."""
    from matplotlib.figure import Figure  # slow to import

    sets = list(_by_set(results))
    figure = Figure(figsize=(3 + 1.2 * max(map(len, sets)), 0.6 + 2.6 * len(sets)), layout="constrained")
    for axes, mine in zip(figure.subplots(len(sets), squeeze=False)[:, 0], sets, strict=True):
        columns = _columns(mine[0])
        for number, column in enumerate(columns):
            places = [i + 0.8 * ((number + 0.5) / len(columns) - 0.5) for i in range(len(mine))]
            values, low, high = ([one.metrics[column + end] for one in mine] for end in ("", "_low", "_high"))
            below = [value - end for value, end in zip(values, low, strict=True)]
            above = [end - value for value, end in zip(values, high, strict=True)]
            style = {"fmt": "s", "label": "input"} if column == "top1" else {"fmt": "o", "label": column}
            axes.errorbar(places, values, [below, above], ms=5, capsize=2, **style)
        axes.axhline(100 / mine[0].recipe["classes"], color="gray", ls=":", lw=1)
        axes.set(title=f"{mine[0].dataset} (dotted: chance)", ylabel="top-1, %", ylim=(-3, 103))
        axes.set_xticks(range(len(mine)), [one.protocol.removeprefix("probe, ") for one in mine])
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _by_set(results: Sequence[Result]) -> Iterator[list[Result]]:
    for name in dict.fromkeys(one.dataset for one in results):
        yield [one for one in results if one.dataset == name]


def _columns(result: Result) -> list[str]:
    return ["top1", *result.recipe["probe"]["controls"]]


def _cell(metrics: dict[str, float], name: str) -> str:
    mark = ""
    if name != "top1":
        mark = " ▼" if metrics[f"minus_{name}_low"] > 0 else " ▲" if metrics[f"minus_{name}_high"] < 0 else ""
    return f"{metrics[name]:.1f} ({metrics[f'{name}_low']:.0f} to {metrics[f'{name}_high']:.0f}){mark}"
