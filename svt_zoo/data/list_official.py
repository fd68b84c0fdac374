"""The table of list formats, how a format is detected, and the parsers of the lists of data sets and repositories."""

import logging
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from . import list_formats as formats
from .list_columns import Block, ListError, Parsed, block_of_rows, error_at
from .list_files import files_in, find_videos, is_folder, is_video, slashes
from .list_formats import load_json, matching_lines

_log = logging.getLogger(__name__)
_HMDB_FILE = re.compile(r"(.+)_test_split([123])\.txt")
_UCF_FILE = re.compile(r"(?:train|test)list0[123]\.txt")


def read_labels(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names in the order of their labels.

    Reads one name per line; `number name` or `number,name` lines, numbered from 0 or 1 (classInd.txt); a json list;
    or a json object from name to number, as in SSv2. Quotes around a name are removed.

    Raises:
        ListError: a name occurs twice, or the numbers are not consecutive from 0 or 1.
    """
    path = os.fspath(source)
    if path.lower().endswith(".json"):
        content = load_json(path)
        pairs = [(str(number), name) for name, number in content.items()] if isinstance(content, dict) else []
        names = [str(name) for name in content] if isinstance(content, list) else []
        if not (pairs or names) or not all(number.isdecimal() for number, _ in pairs):
            raise ListError(f"{path}: a json list of class names, or an object of names and numbers, was expected")
    else:
        names, pairs = [text for _, text in formats.lines(path)], []
        matches = [match for name in names if (match := re.fullmatch(r"(\d+)[ \t,]+(\S.*)", name))]
        if len(matches) == len(names):
            pairs = [(match[1], match[2]) for match in matches]
    if pairs:
        pairs.sort(key=lambda pair: int(pair[0]))
        numbers = [int(number) for number, _ in pairs]
        if numbers not in (list(range(len(pairs))), list(range(1, len(pairs) + 1))):
            raise ListError(f"{path}: the labels of {len(pairs)} classes must count from 0 or 1, got {numbers[:10]}")
        names = [name for _, name in pairs]
    names = [name.strip().strip('"') for name in names]
    if len(set(names)) < len(names):
        raise ListError(f"{path}: {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return tuple(names)


def parse_ucf101(path: str) -> Parsed:
    """UCF-101's trainlist and testlist: `Class/video.avi [label]`; classInd.txt in the same folder has the classes."""
    folder = posixpath.dirname(path)
    if "classInd.txt" not in files_in(folder):
        raise ListError(f"{path}: classInd.txt, which holds the classes, is missing beside it")
    classes = read_labels(posixpath.join(folder, "classInd.txt"))
    number_of = {name: str(number) for number, name in enumerate(classes, start=1)}
    rows = []
    expected = "Class/video.avi [label]"
    for line, match in matching_lines(path, r"([^/]+)(/.*\.avi)(?: (\d+))?", expected):
        if match[1] not in number_of:
            raise error_at(path, line, f"`{expected}` with a class of classInd.txt expected, got {match[0]!r}")
        if match[3] and match[3] != number_of[match[1]]:
            raise error_at(path, line, f"label {match[3]} is not that of {match[1]}, {number_of[match[1]]}")
        rows.append((match[1] + match[2], line, match[1]))
    return Parsed([block_of_rows(("path", "line", "label"), rows)], classes)


def parse_hmdb51(path: str) -> Parsed:
    """HMDB-51's folder of `<class>_test_split<fold>.txt`; each line marks a video: 1 train, 2 test, 0 neither.

    The videos are in `<root>/<class>/`. A filter selects the fold and split: `fold=1,split=train`.
    """
    splits = {"1": "train", "2": "test"}
    rows, classes = [], set()
    for file in filter(None, map(_HMDB_FILE.fullmatch, files_in(path))):
        label, fold = file.groups()
        classes.add(label)
        for line, match in matching_lines(posixpath.join(path, file[0]), r"(.*\S)\s+([012])", "video.avi 0|1|2"):
            if match[2] in splits:
                rows.append((f"{label}/{match[1]}", line, label, fold, splits[match[2]]))
    block = block_of_rows(("path", "line", "label", "fold", "split"), rows)
    return Parsed([block], tuple(sorted(classes)), choose=("fold", "split"))


def parse_kinetics(path: str) -> Parsed:
    """Kinetics' own csv: label (none for test), youtube_id, time_start, time_end, split.

    The file of a row is `<youtube_id>_<start>_<end>` with any suffix, anywhere below the root; times have six digits.
    They refer to the full video on YouTube; the file contains only that part.
    """
    return Parsed((_kinetics_block(path, *part) for part in formats.table(path)), by_stem=True)


def _kinetics_block(path: str, lines: Sequence[int], columns: Mapping[str, Sequence[str]]) -> Block:
    needed = ("youtube_id", "time_start", "time_end")
    if not columns.keys() >= {*needed}:
        raise ListError(f"{path}: the columns {', '.join(needed)} are needed, the header has {', '.join(columns)}")
    files = []
    for line, name, start, end in zip(lines, *(columns[name] for name in needed), strict=True):
        try:
            files.append(f"{name}_{int(start):06d}_{int(end):06d}.mp4")
        except ValueError:
            message = f"time_start and time_end must be integers, got {start!r} and {end!r}"
            raise error_at(path, line, message) from None
    return formats.table_block(path, lines, {**columns, "file": files, "group": columns["youtube_id"]})


def parse_ssv2(path: str) -> Parsed:
    """Something-Something v2's json (`id`, `template`); the label file, `*labels.json`, is in the same folder.

    The file of a video is its id with any suffix, anywhere below the root. Test lists have no labels.
    """
    videos = load_json(path)
    if not isinstance(videos, list) or not all(isinstance(video, dict) and "id" in video for video in videos):
        raise ListError(f"{path}: a json list is Something-Something's: [{{'id': ..., 'template': ...}}, ...]")
    classes = _ssv2_classes(path) if any("template" in video for video in videos) else ()
    rows = [(f"{video['id']}.webm", _ssv2_label(video.get("template", ""))) for video in videos]
    return Parsed([block_of_rows(("path", "label"), rows)], classes, by_stem=True)


def parse_ssv2_frames(path: str) -> Parsed:
    """SSv2's frame list: `original_vido_id video_id frame_id path labels`, one line per frame.

    A video is the folder of its frames. The json files in the same folder give the template of each id as its label.
    """
    folder = posixpath.dirname(path)
    templates: dict[str, str] = {}
    for name in files_in(folder):
        if fnmatch(name, "*train.json") or fnmatch(name, "*validation.json"):
            videos = load_json(posixpath.join(folder, name))
            templates |= {str(video["id"]): _ssv2_label(video["template"]) for video in videos}
    frames_of: dict[str, list[Any]] = {}
    for lines, columns in formats.table(path, " "):
        none = [""] * len(lines)
        cells = (columns.get(name, none) for name in ("video_id", "path", "labels"))
        for line, name, file, label in zip(lines, *cells, strict=True):
            if not file or not name:
                raise error_at(path, line, "a video_id and a path are needed, separated by single spaces")
            first = [posixpath.dirname(file), line, label or templates.get(name, ""), 0]
            frames_of.setdefault(name, first)[-1] += 1
    block = block_of_rows(("path", "line", "label", "num_frames"), frames_of.values())
    return Parsed([block], _ssv2_classes(path) if templates else ())


def _ssv2_label(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _ssv2_classes(path: str) -> tuple[str, ...]:
    folder = posixpath.dirname(path)
    names = [name for name in files_in(folder) if name.endswith("labels.json")]
    if not names:
        raise ListError(f"{path}: the file of labels, something-something-v2-labels.json, is missing beside it")
    return read_labels(posixpath.join(folder, names[0]))


def parse_rawframes(path: str) -> Parsed:
    """mmaction2's frame lists: `folder num_frames label`, with slashes or backslashes."""
    matches = matching_lines(path, r"(.*\S)[ \t]+(\d+)[ \t]+(\d+)", "folder num_frames label")
    rows = ((slashes(match[1]), line, int(match[2]), match[3]) for line, match in matches)
    return Parsed([block_of_rows(("path", "line", "num_frames", "label"), rows)])


def parse_cpc(path: str) -> Parsed:
    """The CPC repository's csv of folders of frames: `.../Class/video/,num_frames`; the parent folder is the class."""
    matches = matching_lines(path, r"(.+[/\\].+?)[/\\]*,\s*(\d+)", ".../Class/video/,num_frames")
    folders = ((slashes(match[1]), line, int(match[2])) for line, match in matches)
    rows = ((folder, line, frames, folder.split("/")[-2]) for folder, line, frames in folders)
    return Parsed([block_of_rows(("path", "line", "num_frames", "label"), rows)])


FORMATS: dict[str, Callable[[str], Parsed]] = {
    "class_folders": formats.parse_class_folders,
    "folder": formats.parse_folder,
    "video": formats.parse_video,
    "csv": formats.parse_csv,
    "parquet": formats.parse_parquet,
    "paths": formats.parse_paths,
    "ucf101": parse_ucf101,
    "hmdb51": parse_hmdb51,
    "kinetics": parse_kinetics,
    "ssv2": parse_ssv2,
    "ssv2_frames": parse_ssv2_frames,
    "rawframes": parse_rawframes,
    "cpc": parse_cpc,
}


def detect(path: str) -> str:
    """Detects the format, a key of `FORMATS`, of the list at `path`."""
    name, suffix = posixpath.basename(path), posixpath.splitext(path)[1].lower()
    if is_video(path.split("?")[0] if "://" in path else path) and not os.path.isdir(path):
        return "video"
    if suffix in (".json", ".parquet"):
        return "ssv2" if suffix == ".json" else "parquet"
    if _UCF_FILE.fullmatch(name):
        return "ucf101"
    if _HMDB_FILE.fullmatch(name):
        raise ListError(
            f"{path} is one class of an HMDB-51 split: give the folder of all 51 and where='fold=1,split=train'"
        )
    if is_folder(path):
        if any(map(_HMDB_FILE.fullmatch, files_in(path))):
            return "hmdb51"
        return _detect_folder(path)
    _, first = next(formats.lines(path), (0, ""))
    if not first:
        raise ListError(f"{path}: the list is empty")
    header = {column.strip().strip('"').lower() for column in re.split(r"[,\t ]", first)}
    if "youtube_id" in header:
        return "kinetics"
    if {"video_id", "frame_id", "path"} <= header:
        return "ssv2_frames"
    if formats.VIDEO_LINE.fullmatch(first):
        return "paths"
    if header & set(formats.PATH_COLUMNS):
        return "csv"
    for kind, pattern in (
        ("cpc", r".+/,\s*\d+"),
        ("rawframes", r".*\S[ \t]+\d+[ \t]+\d+"),
        ("paths", r".*\S[ \t,]+-?\d+"),
    ):
        if re.fullmatch(pattern, first):
            return kind
    raise ListError(
        f"{path}: its first line, {first[:80]!r}, is of no known format; accepted are a CSV with a header that names "
        f"{' or '.join(formats.PATH_COLUMNS)}, lines of `path label`, or format= one of {', '.join(FORMATS)}"
    )


def _detect_folder(path: str) -> str:
    videos = find_videos(path)
    classes = {video.split("/")[0] for video in videos if video.count("/") == 1}
    others = [video for video in videos if video.count("/") != 1]
    if len(classes) > 1 and not others:
        return "class_folders"
    if len(classes) > 1 and len(others) < len(videos) - len(others):
        _log.warning(
            "%s is read without labels: %d of %d videos, such as %s, are not in CLASS/VIDEO. Move them, or set "
            "format=class_folders, which skips videos outside of folders",
            *(path, len(others), len(videos), others[0]),
        )
    return "folder"
