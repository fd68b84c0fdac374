"""Converts the labels of a list to numbers."""

import os
import re
from collections.abc import Sequence

from .list_formats import Entry, ListError, error_at, lines, load_json


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names in the order of their labels.

    Reads one name per line; `number name` or `number,name` lines, numbered from 0 or 1 (classInd.txt); a json list;
    or a json object from name to number, as in SSv2. Quotes around a name are removed.

    Raises:
        ListError: a name occurs twice, or the numbers are not consecutive from 0 or 1.
    """
    source = os.fspath(path)
    if source.lower().endswith(".json"):
        content = load_json(source)
        pairs = [(str(number), name) for name, number in content.items()] if isinstance(content, dict) else []
        names = [str(name) for name in content] if isinstance(content, list) else []
        if not (pairs or names) or not all(number.isdecimal() for number, _ in pairs):
            raise ListError(f"{source}: a json list of class names, or an object of names and numbers, was expected")
    else:
        texts = [text for _, text in lines(source)]
        matches = [re.fullmatch(r"(\d+)[ \t,]+(\S.*)", text) for text in texts]
        pairs = [(match[1], match[2]) for match in matches if match] if all(matches) else []
        names = [] if pairs else texts
    if pairs:
        pairs.sort(key=lambda pair: int(pair[0]))
        numbers = [int(number) for number, _ in pairs]
        if numbers not in (list(range(len(pairs))), list(range(1, len(pairs) + 1))):
            raise ListError(
                f"{source}: the labels of {len(pairs)} classes must count on from 0 or 1, got {numbers[:10]}"
            )
        names = [name for _, name in pairs]
    names = [name.strip().strip('"') for name in names]
    if len(set(names)) < len(names):
        raise ListError(f"{source}: {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return tuple(names)


def named_classes(source: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Class names of a list without a class file: its labels, sorted, or the names next to its numbers."""
    labelled = [entry for entry in entries if entry.label]
    if not all(entry.label.isdecimal() for entry in labelled):
        return tuple(sorted({entry.label for entry in labelled}))
    names: dict[int, str] = {}
    for entry in labelled:
        number = int(entry.label)
        if entry.name and names.setdefault(number, entry.name) != entry.name:
            raise error_at(source, entry.line, f"label {number} is {entry.name!r} here and {names[number]!r} before")
    return tuple(names.get(number, str(number)) for number in range(max(names) + 1)) if names else ()


def resolve_labels(source: str, entries: Sequence[Entry], classes: Sequence[str]) -> list[int | None]:
    """Labels as numbers. Matches names exactly, then without case, quotes and underscores; keeps numbers."""
    exact = {name: number for number, name in enumerate(classes)}
    loose = {_fold(name): number for number, name in enumerate(classes)}
    numbers: list[int | None] = []
    for entry in entries:
        text = entry.name if entry.name and classes else entry.label
        number = exact.get(text, loose.get(_fold(text)))
        if number is None and text.isdecimal() and (not classes or int(text) < len(classes)):
            number = int(text)
        if number is None and text:
            known = f"{', '.join(classes[:3])}, ..." if len(classes) > 3 else ", ".join(classes)
            message = f"label {text!r} is none of the {len(classes)} classes ({known}), nor a number below that"
            raise error_at(source, entry.line, message)
        numbers.append(number)
    return numbers


def _fold(name: str) -> str:
    return name.strip('"').replace("_", " ").casefold()
