"""The demo's report: one HTML page that compares a network trained without labels with an untrained one."""

import base64
import copy
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..data.lists import VideoList
from ..data.sampling import uniform_clip
from ..data.views import EvalViews
from ..evaluation.features import Extracted, extract
from ..evaluation.knn import knn_scores, nearest, standardized
from ..evaluation.metrics import accuracy, confusion_matrix, plot_confusion
from ..inference.pictures import paste
from ..inference.visualize import attention_maps, contact_sheet, unnormalize
from ..models import ZooModel
from ..training.monitor import draw_curves
from ..video import open_video

_VOTES = 10  # neighbors that vote for a class
_QUERIES, _SHOWN = 8, 4  # videos whose neighbors are shown, and neighbors per video
_EXAMPLES = 6  # classes (or videos, without classes) with example frames
_MOVIE_BYTES = 300_000  # a larger video is not put into the page
_ATTENTION_SIDE, _STRIP_SIDE, _GAP, _BORDER = 120, 48, 12, 4  # pixels
_GREEN, _RED, _GRAY = "#2a9d5c", "#c8442f", "#888888"
_BORDERS = {True: (42, 157, 92), False: (200, 68, 47), None: (221, 221, 221)}  # correct, wrong, no answer


@dataclass(frozen=True)
class Score:
    """Accuracy of one kind of features: percent of `n` videos, and the bounds of the 95 % interval."""

    name: str
    top1: float
    low: float
    high: float
    n: int


class Story(NamedTuple):
    """Texts of a report: headline, description of the videos, and commands to try next, one per line."""

    title: str
    about: str
    commands: str


MADE = Story(
    "What a tiny video transformer learned without labels",
    "In each video a light drifts along one of four lines, in either direction, and comes back at the opposite edge. "
    "Its size, its colors and the background change at random in every frame, so only the motion is common to them. "
    "One frame has no information: in every class, the light may be anywhere. Below is one video of each class.",
    """svt-zoo demo --videos /your/videos    # the same with your own; its subfolders are the classes
svt-zoo demo --seed 1 --output runs/demo_1    # other videos, other initial weights
svt-zoo pretrain svt/own_videos data.train=/your/videos run.output=runs/mine    # a full training""",
)
OWN = Story(
    "What a tiny video transformer learned from your videos",
    "Small copies of up to 300 of your videos. The network is tiny and was trained for some minutes, so its features "
    "mostly describe color and layout. The commands at the end of this page start a full training.",
    """svt-zoo pretrain svt/own_videos data.train=/your/videos run.output=runs/mine
svt-zoo visualize video.mp4 --model runs/mine/final.safetensors
svt-zoo embed video.mp4 --model runs/mine/final.safetensors""",
)


@dataclass(frozen=True)
class Subject:
    """Networks, videos and run of a report.

    Attributes:
        trained, untrained: backbones of one architecture with a clip specification.
        train: the training videos of the network, which are also the bank of neighbors.
        val: labeled videos outside the training; if None, neighbors are shown and no accuracy is computed.
        metrics: the lines of the run's `metrics.jsonl`.
        max_entropy: maximum entropy of the teacher's targets, in nats.
    """

    trained: ZooModel
    untrained: ZooModel
    train: VideoList
    val: VideoList | None
    metrics: Sequence[Mapping[str, float]]
    max_entropy: float


def write_report(path: Path, subject: Subject, story: Story) -> list[Score]:
    """Write the page and, next to it, its pictures and `numbers.json`; returns the accuracies, trained ones last.

    Raises:
        ValueError: no video can be read.
    """
    folder, train, val = path.parent, subject.train, subject.val
    folder.mkdir(parents=True, exist_ok=True)
    bank = _features(subject.trained, train)
    queries = _features(subject.trained, val) if val else None
    scores: list[Score] = []
    sections = [section("The videos", story.about, _examples(train))]
    answer = "The videos have no classes, so no accuracy can be computed. Compare the neighbors by eye."
    if val is not None and queries is not None:
        scores, matrix = _compare(subject, bank, queries)
        chance = 100 / train.num_classes
        answer = verdict(scores, chance)
        _draw_accuracy(scores, chance, folder / "accuracy.png")
        picture = plot_confusion(matrix, classes=[_readable(name) for name in train.classes])
        (folder / "confusion.png").write_bytes(picture)
        text = (
            f"Each of {len(queries.names)} videos outside the training gets the class of its {_VOTES} nearest among "
            f"{len(bank.names)}, on standardized features. Labels only measure the accuracy. Lines are 95 % intervals."
        )
        sections.append(section("Does it help?", text, _saved(folder / "accuracy.png")))
        sections.append(section("Confusion of classes", "Videos per class.", _saved(folder / "confusion.png")))
    _neighbors(bank, queries).save(folder / "neighbors.png")
    text = f"At the left a video, then the {_SHOWN} with the most similar features."
    text += "" if queries is None else " Green: the same class; red: another class."
    sections.append(section("Nearest neighbors", text, _saved(folder / "neighbors.png")))
    _attention(subject, (queries or bank).names[0]).save(folder / "attention.png")
    text = "Attention of the class token in the last block, one row per network; bright is high."
    sections.append(section("Attention", text, _saved(folder / "attention.png")))
    draw_curves(subject.metrics, folder / "curves.png")
    text = (
        f"{_describe(subject)} At log K = {subject.max_entropy:.2f} nats the teacher's targets have no information. A "
        "loss far below it means that the network predicts from one clip of a video its output for another clip."
    )
    sections.append(section("The training", text, _saved(folder / "curves.png")))
    (folder / "numbers.json").write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n")
    path.write_text(page(story.title, answer, sections, story.commands), encoding="utf-8")
    return scores


def verdict(scores: Sequence[Score], chance: float) -> str:
    """State in one sentence which features are best, within the confidence intervals; trained features come last."""
    *others, trained = scores
    best = max(others, key=lambda score: score.top1)
    numbers = f"{trained.top1:.0f} % right, against {best.top1:.0f} % ({best.name}) and {chance:.0f} % by guessing"
    if trained.low > best.high:
        return f"Training without labels helped, by more than luck: {numbers}."
    if trained.top1 > best.top1:
        return f"The trained features are ahead, but with so few videos this can be luck: {numbers}."
    return f"The trained features did not win: {numbers}."


def _describe(subject: Subject) -> str:
    """Describe the network, the training videos and the training time."""
    weights = sum(parameter.numel() for parameter in subject.trained.parameters())
    seconds = sum(line["data_seconds"] + line["compute_seconds"] for line in subject.metrics)
    like = subject.trained.transforms()
    return (
        f"A TimeSformer of {weights / 1e6:.1f} million weights looked at {len(subject.train)} videos, "
        f"{like.num_frames} frames of {like.crop_size[0]}x{like.crop_size[1]} pixels at a time, in "
        f"{len(subject.metrics)} steps and {seconds:.0f} seconds."
    )


def _features(model: ZooModel, videos: VideoList, *, one_frame: bool = False) -> Extracted:
    """Features of the central clip of each video, or of its middle frame."""
    transform = model.transforms()
    if one_frame:
        transform = copy.copy(transform)
        transform.num_frames, transform.sampling_rate = 1, None  # the middle frame of the video
    features = extract(model, videos, views=EvalViews(transform), batch_size=32)
    if not features.names:
        raise ValueError(f"none of {len(videos)} videos can be read, the first is {features.missing[0].path}")
    return features


def _compare(subject: Subject, bank: Extracted, queries: Extracted) -> tuple[list[Score], Tensor]:
    """Accuracy of three kinds of features, and the confusion matrix of the last one (trained)."""
    train, val = subject.train, subject.val
    assert val is not None
    kinds = {
        "untrained network": (_features(subject.untrained, train), _features(subject.untrained, val)),
        "trained, one frame only": tuple(_features(subject.trained, part, one_frame=True) for part in (train, val)),
        "trained, all frames": (bank, queries),
    }
    scores = []
    for name, (known, test) in kinds.items():
        k = min(_VOTES, len(known.names))
        bank_features, asked = standardized(known.features, test.features)
        votes = knn_scores(bank_features, known.labels, asked, num_classes=train.num_classes, ks=(k,))[k]
        metrics = accuracy(votes, test.labels)
        scores.append(Score(name, metrics["top1"], metrics["top1_low"], metrics["top1_high"], len(test.names)))
    return scores, confusion_matrix(votes.argmax(dim=1), test.labels, train.num_classes)


def _examples(videos: VideoList) -> str:
    """Frames of one video per class, or of the first few videos, and the video if it is a small MP4."""
    first: dict[str, str] = {}
    for row in videos.rows:
        name = Path(row.path).stem if row.label is None else _readable(videos.classes[row.label])
        first.setdefault(name, row.path)
    figures = []
    for name, path in list(first.items())[:_EXAMPLES]:
        file = Path(path)
        movie = file.read_bytes() if file.suffix == ".mp4" and file.stat().st_size < _MOVIE_BYTES else b""
        buffer = io.BytesIO()
        _strip(path, 8, side=84).save(buffer, format="png", optimize=True)
        figures.append(figure(name, buffer.getvalue(), movie, caption=True))
    return "\n".join(figures)


def _neighbors(bank: Extracted, queries: Extracted | None) -> Image.Image:
    """Draw some videos and their neighbors; without queries, bank videos are the queries and exclude themselves."""
    shown = queries or bank
    known, asked = standardized(bank.features, shown.features)
    ranks = nearest(asked, known, min(_SHOWN + 1, len(bank.names))).rows.tolist()
    step = max(1, len(shown.names) // _QUERIES)
    rows = []
    for query in range(0, len(shown.names), step)[:_QUERIES]:
        strips = [_strip(shown.names[query], 4)]
        for i in [i for i in ranks[query] if queries is not None or i != query][:_SHOWN]:
            is_right = None if queries is None else bool(bank.labels[i] == shown.labels[query])
            strips.append(_strip(bank.names[i], 4, is_right=is_right))
        rows.append(paste(strips, gap=_GAP))
    return paste(rows, vertical=True, gap=_GAP)


def _strip(path: str, num_frames: int, *, side: int = _STRIP_SIDE, is_right: bool | None = None) -> Image.Image:
    """Frames of a video side by side, `side` pixels high, in a colored border."""
    with open_video(path) as video:
        frames = video.frames_at(uniform_clip(video.num_frames, num_frames)).numpy()  # (T, H, W, 3)
    width = round(side * frames.shape[2] / frames.shape[1])
    strip = paste([Image.fromarray(frame).resize((width, side)) for frame in frames], gap=0)
    return ImageOps.expand(strip, _BORDER, _BORDERS[is_right])


def _attention(subject: Subject, path: str) -> Image.Image:
    """Draw the attention of the two networks for one video."""
    transform = subject.trained.transforms()
    with open_video(path) as video:
        clip = transform(video.frames_at(transform.clip_indices(video.num_frames, fps=video.fps)))  # (3, T, H, W)
    frames = unnormalize(clip, transform).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
    frames = F.interpolate(frames, size=(_ATTENTION_SIDE, _ATTENTION_SIDE), mode="bicubic").clamp(0, 255)
    networks = {"untrained": subject.untrained, "trained": subject.trained}
    maps = {name: attention_maps(network.eval(), clip.unsqueeze(0))[0] for name, network in networks.items()}
    return contact_sheet(frames.byte().permute(0, 2, 3, 1), maps, num_columns=6)


def _draw_accuracy(scores: Sequence[Score], chance: float, path: Path) -> None:
    """A bar per score with its interval, the last one in color, and a line at chance level."""
    from matplotlib.figure import Figure  # slow to import (a second)

    drawing = Figure(figsize=(9, 0.6 + 0.6 * len(scores)), layout="constrained")
    axes: Any = drawing.add_subplot()
    for row, score in enumerate(scores):
        axes.barh(row, score.top1, color=_GREEN if score is scores[-1] else "#b9c4d6", height=0.6)
        axes.plot((score.low, score.high), (row, row), color="#333333", linewidth=1.2)
        axes.text(score.high + 1.5, row, f"{score.top1:.0f} %", va="center", fontsize=12, fontweight="bold")
    axes.axvline(chance, color=_GRAY, linestyle=":", linewidth=1.5)
    axes.text(chance, -0.45, "guessing", color=_GRAY, fontsize=9, ha="center", va="bottom")
    axes.set_yticks(range(len(scores)), [score.name for score in scores], fontsize=11)
    axes.tick_params(left=False)
    axes.set(xlim=(0, 112), ylim=(len(scores) - 0.6, -0.8), xticks=[])
    axes.spines[:].set_visible(False)
    drawing.savefig(path, format="png", dpi=130)


def _readable(name: str) -> str:
    return name.replace("_", " ")


def page(title: str, answer: str, sections: Sequence[str], commands: str) -> str:
    """A self-contained HTML page: title, result, sections, and the commands to try next."""
    texts = {"title": title, "answer": answer, "commands": commands}
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.substitute({name: html.escape(text) for name, text in texts.items()}, sections="\n".join(sections))


def section(title: str, text: str, figures: str) -> str:
    """HTML of a headline, a text below it, and figures."""
    return f"<section><h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n{figures}</section>"


def figure(name: str, png: bytes, mp4: bytes = b"", *, caption: bool = False) -> str:
    """HTML of a picture, with the video that plays to its left, if there is one."""
    name = html.escape(name)
    title = f"<figcaption>{name}</figcaption>" if caption else ""
    movie = f'<video autoplay loop muted playsinline src="{_data("video/mp4", mp4)}"></video>' if mp4 else ""
    return f'<figure>{title}{movie}<img alt="{name}" src="{_data("image/png", png)}"></figure>'


def _saved(path: Path) -> str:
    return figure(path.stem, path.read_bytes())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
