"""Writes a report about a network that was trained without labels, compared with the untrained network.

`write_report` compares features by their nearest neighbors and writes one HTML file that contains all pictures.
"""

import copy
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..data.lists import VideoList
from ..data.sampling import uniform_clip
from ..data.views import EvalViews
from ..evaluation.features import Extracted, extract
from ..evaluation.knn import knn_scores, nearest
from ..evaluation.metrics import accuracy, confusion_matrix
from ..inference.visualize import attention_maps, contact_sheet, unnormalize
from ..models import ZooModel
from ..video import open_video
from . import figures
from .page import Picture, Section, page

_VOTES = 10  # neighbors that vote for a class
_QUERIES, _SHOWN = 8, 4  # videos whose neighbors are shown, and neighbors per video
_STRIPS = 6  # classes (or videos, without classes) with a strip of frames
_MOVIE_BYTES = 300_000  # a larger video is not put into the page
_SIDE = 120  # pixels of a frame in the attention picture


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
    "In each video a light drifts along one of four lines, either way, and comes back in over the edge where it left. "
    "Its size, its colours and the background are drawn anew for every frame, so only the motion holds a video "
    "together. One frame says nothing: in every class, the light may be anywhere. Below, one video of each class, from "
    "left to right.",
    """svt-zoo demo --videos /your/videos    # the same with your own; folders in it are taken for classes
svt-zoo demo --seed 1 --output runs/demo_1    # other videos, another start
svt-zoo pretrain svt/own_videos data.train=/your/videos run.output=runs/mine    # in earnest""",
)
OWN = Story(
    "What a tiny video transformer learned from your videos",
    "Small copies of up to 300 of your videos. The network is tiny and was trained for some minutes: what it finds "
    "alike is mostly colour and layout. The last lines of this page say how to go on in earnest.",
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


def verdict(scores: Sequence[Score], chance: float) -> str:
    """State in one sentence which features are best, within the confidence intervals; trained features come last."""
    *others, trained = scores
    best = max(others, key=lambda score: score.top1)
    numbers = f"{trained.top1:.0f} % right, against {best.top1:.0f} % ({best.name}) and {chance:.0f} % by guessing"
    if trained.low > best.high:
        return f"Training without labels helped, by more than luck: {numbers}."
    if trained.top1 > best.top1:
        return f"The trained features are ahead, but that few videos could show it by luck: {numbers}."
    return f"The trained features did not win: {numbers}."


def write_report(path: Path, subject: Subject, story: Story) -> list[Score]:
    """Write the page and, next to it, its pictures and `numbers.json`; returns the accuracies, trained ones last.

    Args:
        path: the HTML file.
        subject: the networks, the videos and the run.
        story: the texts of the page.

    Raises:
        ValueError: no video can be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    train, val = subject.train, subject.val
    bank = _features(subject.trained, train)
    queries = _features(subject.trained, val) if val else None
    scores: list[Score] = []
    sections = [Section("The videos", story.about, _strips(train))]
    answer = "The videos have no classes, so nothing can be counted: look at the neighbours and judge for yourself."
    if val is not None and queries is not None:
        scores, matrix = _compare(subject, bank, queries)
        chance = 100 / train.num_classes
        answer = verdict(scores, chance)
        drawn = figures.bars([(s.name, s.top1, s.low, s.high) for s in scores], chance=chance)
        text = (
            f"Each of {len(queries.names)} videos that were not trained on gets the class of its {_VOTES} nearest "
            f"among {len(bank.names)}. Labels serve only to count. Lines are 95 % intervals."
        )
        sections.append(Section("Does it help?", text, [Picture("accuracy", drawn)]))
        shown = [Picture("confusion", figures.confusion(matrix, [_readable(name) for name in train.classes]))]
        sections.append(Section("Which are taken for which", "In percent of the videos of each class.", shown))
    asked = "" if queries is None else " Green is the right class, red a wrong one."
    text = f"Left a video, then the {_SHOWN} whose features are most alike.{asked}"
    sections.append(Section("Nearest neighbours", text, [Picture("neighbours", _neighbours(bank, queries))]))
    text = "Attention of the class token in the last block; bright is much. One row for each network."
    sections.append(
        Section("What it looks at", text, [Picture("attention", _attention(subject, (queries or bank).names[0]))])
    )
    text = (
        f"{_describe(subject)} The dotted line is log K, where the targets say nothing. A loss far below it means that "
        "the network foretells from one clip of a video what it says of another."
    )
    drawn = figures.curves(subject.metrics, max_entropy=subject.max_entropy)
    sections.append(Section("The training", text, [Picture("curves", drawn)]))
    for section in sections[1:]:
        for picture in section.pictures:
            (path.parent / f"{picture.name}.png").write_bytes(picture.png)
    (path.parent / "numbers.json").write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n")
    path.write_text(page(story.title, answer, sections, story.commands), encoding="utf-8")
    return scores


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
    found = extract(model, videos, views=EvalViews(transform), batch_size=32)
    if not found.names:
        raise ValueError(f"none of {len(videos)} videos can be read, the first is {found.missing[0].path}")
    return found


def _compare(subject: Subject, bank: Extracted, queries: Extracted) -> tuple[list[Score], Tensor]:
    """Accuracy of three kinds of features, and the confusion matrix of the last one (trained)."""
    train, val = subject.train, subject.val
    assert val is not None
    kinds = {
        "untrained network": (_features(subject.untrained, train), _features(subject.untrained, val)),
        "trained, one frame only": tuple(_features(subject.trained, part, one_frame=True) for part in (train, val)),
        "trained, whole clip": (bank, queries),
    }
    scores = []
    for name, (learned, asked) in kinds.items():
        k = min(_VOTES, len(learned.names))
        votes = knn_scores(learned.features, learned.labels, asked.features, num_classes=train.num_classes, ks=(k,))[k]
        found = accuracy(votes, asked.labels)
        scores.append(Score(name, found["top1"], found["top1_low"], found["top1_high"], len(asked.names)))
    return scores, confusion_matrix(votes.argmax(dim=1), asked.labels, train.num_classes)


def _strips(videos: VideoList) -> list[Picture]:
    """Some frames of one video per class, or of the first few videos, and the video if it is a small MP4."""
    first: dict[str, str] = {}
    for row in videos.rows:
        name = Path(row.path).stem if row.label is None else _readable(videos.classes[row.label])
        first.setdefault(name, row.path)
    pictures = []
    for name, path in list(first.items())[:_STRIPS]:
        file = Path(path)
        movie = file.read_bytes() if file.suffix == ".mp4" and file.stat().st_size < _MOVIE_BYTES else b""
        pictures.append(Picture(name, figures.strip(_frames(path, 8), side=84), movie))
    return pictures


def _neighbours(bank: Extracted, queries: Extracted | None) -> bytes:
    """Draw some videos and their neighbors; without queries, bank videos are the queries and exclude themselves."""
    asked = queries or bank
    found = nearest(asked.features, bank.features, min(_SHOWN + 1, len(bank.names))).rows.tolist()
    step = max(1, len(asked.names) // _QUERIES)
    rows = []
    for query in range(0, len(asked.names), step)[:_QUERIES]:
        others = [i for i in found[query] if queries is not None or i != query][:_SHOWN]
        is_right = [None if queries is None else bool(bank.labels[i] == asked.labels[query]) for i in others]
        alike = [figures.Strip(_frames(bank.names[i], 4), right) for i, right in zip(others, is_right, strict=True)]
        rows.append((figures.Strip(_frames(asked.names[query], 4)), alike))
    return figures.neighbours(rows)


def _attention(subject: Subject, path: str) -> bytes:
    """Draw the attention of the two networks for one video."""
    transform = subject.trained.transforms()
    with open_video(path) as video:
        clip = transform(video.frames_at(transform.clip_indices(video.num_frames, fps=video.fps)))  # (3, T, H, W)
    frames = unnormalize(clip, transform).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
    frames = F.interpolate(frames, size=(_SIDE, _SIDE), mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1)
    networks = {"untrained": subject.untrained, "trained": subject.trained}
    maps = {name: attention_maps(network.eval(), clip.unsqueeze(0))[0] for name, network in networks.items()}
    buffer = io.BytesIO()
    contact_sheet(frames, maps, num_columns=6).save(buffer, format="png")
    return buffer.getvalue()


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _frames(path: str, num_frames: int) -> Tensor:
    with open_video(path) as video:
        return video.frames_at(uniform_clip(video.num_frames, num_frames))
