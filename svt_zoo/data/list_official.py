"""Parsers for official lists of data sets and repositories: UCF-101, HMDB-51, Kinetics, SSv2, mmaction2, CPC."""

import csv
import os
import posixpath
import re
from fnmatch import fnmatch

from ..files import is_url, list_remote, local_path
from .labels import read_labels
from .list_formats import Entry, ListError, Parsed, error_at, group_of, lines, load_json, slashes

HMDB_FILE = re.compile(r"(.+)_test_split([123])\.txt")
UCF_FILE = re.compile(r"(?:train|test)list0[123]\.txt")


def files_in(folder: str) -> list[str]:
    """Names of the files in a folder, local or a URL, sorted."""
    if is_url(folder):
        return [name for name in list_remote(folder) or [] if "/" not in name]
    return sorted(os.listdir(folder or "."))


def parse_ucf101(path: str) -> Parsed:
    """UCF-101's trainlist and testlist: `Class/video.avi [label]`; classInd.txt in the same folder has the classes."""
    folder = posixpath.dirname(path)
    if "classInd.txt" not in files_in(folder):
        raise ListError(f"{path}: classInd.txt, which holds the classes, is missing beside it")
    classes = read_labels(posixpath.join(folder, "classInd.txt"))
    number_of = {name: str(number) for number, name in enumerate(classes, start=1)}
    entries = []
    for line, text in lines(path):
        match = re.fullmatch(r"([^/]+)(/.*\.avi)(?: (\d+))?", text)
        if match is None or match[1] not in number_of:
            raise error_at(path, line, f"`Class/video.avi [label]` with a class of classInd.txt expected, got {text!r}")
        if match[3] and match[3] != number_of[match[1]]:
            raise error_at(path, line, f"label {match[3]} is not that of {match[1]}, {number_of[match[1]]}")
        file = match[1] + match[2]
        entries.append(Entry(file, line, match[1], group=group_of(file)))
    return Parsed(entries, classes)


def parse_hmdb51(path: str) -> Parsed:
    """HMDB-51's folder of `<class>_test_split<fold>.txt`; each line marks a video: 1 train, 2 test, 0 neither.

    The videos are in `<root>/<class>/`. A filter selects the fold and split: `fold=1,split=train`.
    """
    split_of = {"1": "train", "2": "test"}
    entries, classes = [], set()
    for name in files_in(path):
        if not (file := HMDB_FILE.fullmatch(name)):
            continue
        label, fold = file.groups()
        classes.add(label)
        source = posixpath.join(path, name)
        for line, text in lines(source):
            match = re.fullmatch(r"(.*\S)\s+([012])", text)
            if match is None:
                raise error_at(source, line, f"`video.avi 0|1|2` was expected, got {text!r}")
            if match[2] != "0":
                columns = {"fold": fold, "split": split_of[match[2]]}
                entries.append(Entry(f"{label}/{match[1]}", line, label, group=group_of(match[1]), columns=columns))
    return Parsed(entries, tuple(sorted(classes)), choose=("fold", "split"))


def parse_kinetics(path: str) -> Parsed:
    """Kinetics' own csv: label (none for test), youtube_id, time_start, time_end, split.

    The file of a row is `<youtube_id>_<start>_<end>` with any suffix, anywhere below the root; times have six digits.
    They refer to the full video on YouTube; the file contains only that part.
    """
    entries = []
    with open(local_path(path), encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            columns = {key: value or "" for key, value in row.items() if key}
            try:
                stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            except (KeyError, TypeError, ValueError) as error:
                raise error_at(path, line, f"time_start and time_end are whole seconds, got {columns}") from error
            label, group = columns.get("label", ""), row["youtube_id"]
            entries.append(Entry(f"{stem}.mp4", line, label, group=group, columns=columns, by_stem=True))
    return Parsed(entries)


def parse_ssv2(path: str) -> Parsed:
    """Something-Something v2's json (`id`, `template`); the label file, `*labels.json`, is in the same folder.

    The file of a video is its id with any suffix, anywhere below the root. Lists without templates (test) have no
    labels.
    """
    videos = load_json(path)
    if not isinstance(videos, list) or not all(isinstance(video, dict) and "id" in video for video in videos):
        raise ListError(f"{path}: a json list is Something-Something's: [{{'id': ..., 'template': ...}}, ...]")
    classes = _ssv2_classes(path) if any("template" in video for video in videos) else ()
    entries = [
        Entry(f"{video['id']}.webm", label=_template(video.get("template", "")), by_stem=True) for video in videos
    ]
    return Parsed(entries, classes)


def parse_ssv2_frames(path: str) -> Parsed:
    """SSv2's frame list: `original_vido_id video_id frame_id path labels`, one line per frame.

    A video is the folder of its frames. The json files in the same folder give the template of each id as its label.
    """
    folder = posixpath.dirname(path)
    templates: dict[str, str] = {}
    for name in files_in(folder):
        if fnmatch(name, "*train.json") or fnmatch(name, "*validation.json"):
            videos = load_json(posixpath.join(folder, name))
            templates |= {str(video["id"]): _template(video["template"]) for video in videos}
    entries: dict[str, Entry] = {}
    with open(local_path(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=" ")
        for line, row in enumerate(reader, start=2):
            if not row.get("path") or not row.get("video_id"):
                raise error_at(path, line, "a video_id and a path are needed, separated by single spaces")
            key = row["video_id"]
            if key not in entries:
                label = row.get("labels") or templates.get(key, "")
                entries[key] = Entry(posixpath.dirname(row["path"]), line, label, num_frames=0)
            entries[key].num_frames = (entries[key].num_frames or 0) + 1
    return Parsed(list(entries.values()), _ssv2_classes(path) if templates else ())


def parse_rawframes(path: str) -> Parsed:
    """mmaction2's frame lists: `folder num_frames label`, with slashes or backslashes."""
    entries = []
    for line, text in lines(path):
        match = re.fullmatch(r"(.*\S)[ \t]+(\d+)[ \t]+(\d+)", text)
        if match is None:
            raise error_at(path, line, f"`folder num_frames label` was expected, got {text!r}")
        folder = slashes(match[1])
        entries.append(Entry(folder, line, match[3], group=group_of(folder), num_frames=int(match[2])))
    return Parsed(entries)


def parse_cpc(path: str) -> Parsed:
    """The CPC repository's csv of folders of frames: `.../Class/video/,num_frames`; the parent folder is the class."""
    entries = []
    for line, text in lines(path):
        match = re.fullmatch(r"(.+?)/*,\s*(\d+)", slashes(text))
        if match is None or "/" not in match[1]:
            raise error_at(path, line, f"`.../Class/video/,num_frames` was expected, got {text!r}")
        folder, label = match[1], match[1].split("/")[-2]
        entries.append(Entry(folder, line, label, group=group_of(folder), num_frames=int(match[2])))
    return Parsed(entries)


def _template(text: str) -> str:
    return text.replace("[", "").replace("]", "")


def _ssv2_classes(path: str) -> tuple[str, ...]:
    folder = posixpath.dirname(path)
    names = [name for name in files_in(folder) if name.endswith("labels.json")]
    if not names:
        raise ListError(f"{path}: the file of labels, something-something-v2-labels.json, is missing beside it")
    return read_labels(posixpath.join(folder, names[0]))
