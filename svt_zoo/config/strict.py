"""The strict loader of recipes: plain data to frozen dataclasses and back, and the description of their options."""

import dataclasses
import difflib
import inspect
import json
import math
import re
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
# Options that were removed: whether a saved value, in its section, still has its old meaning; why it was removed.
_REMOVED: dict[str, tuple[Callable[[Any, Mapping[str, Any]], bool], str]] = {
    "data.backend": (lambda value, section: value == "pyav", "PyAV reads all videos"),
    "views.augment": (lambda value, section: value == "device", "images are augmented in one way"),
    "temporal.flow_method": (
        lambda value, section: value == "farneback" or not section.get("flow"),
        "OpenCV computes optical flow",
    ),
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


# Old names of options, which still work for one release. Recipes of saved runs have them.
RENAMED = {"max_failure_share": "max_failure_fraction", "validation_share": "validation_fraction"}


class ConfigError(ValueError):
    """A recipe or an override is not valid; the message is one line with the key, the value and what is allowed."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of full keys: `{"data": {"train": "x"}}` becomes `{"data.train": "x"}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# New options -> the value with which a run continues as in versions without them.
_ADDED: dict[str, Any] = {
    "svt.contrast": 0.0,
    "svt.contrast_end": 0.0,
    "svt.contrast_temp": 0.2,
    "data.fold": None,
    "repeat.folds": None,
}


def with_added(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved recipe as plain data, with the options that are newer than it, in the sections that it has."""
    added = dict(saved)
    for key, value in _ADDED.items():
        section, _, name = key.partition(".")
        if section in added:
            added[section] = {name: value, **added[section]}
    return added


def was_removed(key: str, section: Mapping[str, Any], source: str) -> bool:
    """Whether `key` is a removed option whose value in `section` can be ignored.

    Raises:
        ConfigError: the option was removed, and its value asked for something that no longer exists.
    """
    if key not in _REMOVED:
        return False
    value, (same, why) = section[key.rpartition(".")[2]], _REMOVED[key]
    if not same(value, section):
        raise ConfigError(f"{source}: {key}={value!r} was removed: {why}; delete this option")
    return True


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Full keys, such as `data.train`, whose values differ between two recipes as plain data."""
    a, b, absent = flatten(one), flatten(other), object()
    return [key for key in {**a, **b} if a.get(key, absent) != b.get(key, absent)]


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain data, with the current names of options that were renamed."""
    return {
        RENAMED.get(key, key): current_names(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain data with lists instead of tuples, as in the `config.yaml` of a run; `build` reads it."""
    plain: dict[str, Any] = {}
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[option.name] = list(value) if isinstance(value, tuple) else value
    return plain


def build(cls: type[T], values: Mapping[str, Any], *, source: str = "", path: str = "") -> T:
    """Build the dataclass `cls` from plain data; errors name `source` (a file) and `path` (a section).

    Raises:
        ConfigError: an unknown key, a wrong type, a value that is not allowed.
    """
    where = f"{source}: {path}" if source else path
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__} must be a section of keys and values, got {values!r}")
    hints = get_type_hints(cls)
    names = [option.name for option in dataclasses.fields(cls)]  # type: ignore[arg-type]
    options = {}
    for key, value in values.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in names and was_removed(full, values, source):
            continue
        if key not in names and RENAMED.get(key) in names:
            warnings.warn(
                f"{source}: {full} is deprecated; rename it to {RENAMED[key]}", DeprecationWarning, stacklevel=2
            )
            key = RENAMED[key]
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {full.removesuffix(str(key))}{near[0]}?" if near else ""
            raise ConfigError(f"{source}: unknown key {full}{hint} (allowed: {', '.join(names)})")
        options[key] = _convert(value, hints[key], source, full)
    try:
        return cls(**options)
    except ValueError as error:
        raise ConfigError(f"{source}: {path or cls.__name__}: {error}") from error


def _convert(value: Any, kind: Any, source: str, path: str) -> Any:
    """`value` as the type `kind`, without conversion except 1e-3, which YAML reads as a string."""
    if dataclasses.is_dataclass(kind):
        return build(kind, value, source=source, path=path)  # type: ignore[arg-type]
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for one in args:
            if one is not type(None):
                try:
                    return _convert(value, one, source, path)
                except ConfigError as error:
                    errors.append(error)
        raise errors[0]
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{source}: {path} must be one of {', '.join(map(str, args))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, list | tuple) and (args[-1] is Ellipsis or len(value) == len(args)):
            kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
            return tuple(
                _convert(v, k, source, f"{path}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True))
            )
    elif origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _convert(item, args[1], source, f"{path}.{key}") for key, item in value.items()}
    elif kind is float:
        number = _number(value)
        if number is not None:
            return number
    elif kind is Any or type(value) is kind:
        return value
    raise ConfigError(f"{source}: {path} must be {type_name(kind)}, got {value!r}")


def _number(value: Any) -> float | None:
    """A finite number, also from a string: YAML reads 1e-3, without a dot, as one."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def type_name(kind: Any) -> str:
    """The name of a type in errors and descriptions."""
    if get_origin(kind) is dict:
        return "a section of keys and values"
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if get_origin(args[0]) is Literal:
            return f"a list of {type_name(args[0])}"
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {count}{type_name(args[0]).split(' ')[-1]}s"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(type_name(one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    return _TYPE_NAMES.get(kind, str(kind))


def describe(cls: type[Any]) -> str:
    """All keys of a recipe class with default, type and description."""
    return "\n".join(
        f"  {key}={_shown(default)}  ({type_name(kind)})\n      {text}" for key, kind, default, text in _keys(cls, "")
    )


def _keys(cls: type[Any], prefix: str) -> Iterator[tuple[str, Any, Any, str]]:
    hints, texts, defaults = get_type_hints(cls), attribute_texts(cls), cls()
    for option in dataclasses.fields(cls):
        kind = hints[option.name]
        if dataclasses.is_dataclass(kind):
            yield from _keys(cast(type[Any], kind), f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, kind, getattr(defaults, option.name), texts[option.name]


def attribute_texts(cls: type[Any]) -> dict[str, str]:
    """The description of each attribute in the `Attributes:` sections of `cls` and its base classes."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \w)", section.rstrip()):
            names, colon, text = entry.partition(": ")
            if colon:
                texts |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return texts


def _shown(default: Any) -> str:
    """A default as in YAML."""
    if isinstance(default, tuple):
        return f"[{','.join(map(_shown, default))}]"
    return json.dumps(default) if default in (None, "") or isinstance(default, bool) else str(default)
