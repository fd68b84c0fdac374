"""Options as frozen dataclasses: their bounds, the strict way from YAML to them and back, and the files of recipes."""

import dataclasses
import difflib
import inspect
import json
import math
import os
import re
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_RENAMED = {"max_failure_share": "max_failure_fraction", "validation_share": "validation_fraction"}  # for one release
# Removed options: the value that remains, the option of its section without which it has no effect, and the reason.
_REMOVED = {
    "data.backend": ("pyav", None, "PyAV reads all videos"),
    "views.augment": ("device", None, "images are augmented in one way"),
    "temporal.flow_method": ("farneback", "flow", "OpenCV computes optical flow"),
}


class ConfigError(ValueError):
    """A recipe or an override is not valid; the message is one line with the key, the value and what is allowed."""


def bounds(options: Any, *names: str, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> None:
    """Raise a ValueError unless low <= value <= high and value > above, for each value of the options `names`.

    A tuple is checked item by item; null is allowed; NaN never is.
    """
    limits = [f"{sign} {limit:g}" for sign, limit in ((">=", low), (">", above), ("<=", high)) if math.isfinite(limit)]
    for name in names:
        value = getattr(options, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not (low <= item <= high and item > above):
                raise ValueError(f"{name} must be {' and '.join(limits) or 'a finite number'}, got {value}")


def build(cls: type[T], values: Mapping[str, Any], *, source: str = "", path: str = "", default: T | None = None) -> T:
    """Build the dataclass `cls` from plain data.

    Args:
        source, path: file and section of `values`, for errors.
        default: has the values of the other options; without it, they have the defaults of `cls`.

    Raises:
        ConfigError: an unknown key, a wrong type, a value that is not allowed.
    """
    where = f"{source}: {path or cls.__name__}"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a section of keys and values, got {values!r}")
    sections = _sections(cls)
    hints = get_type_hints(cls)
    options: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{path}.{key}" if path else str(key)
        name = _current_name(key, full, values, list(hints), source)
        if name in sections:
            options[name] = build(hints[name], value, source=source, path=full, default=sections[name])
        elif name is not None:
            options[name] = _convert(value, hints[name], source, full)
    try:
        return cls(**options) if default is None else dataclasses.replace(default, **options)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _sections(cls: type[Any]) -> dict[str, Any]:
    """The options that are dataclasses themselves, with their defaults."""
    factories = {option.name: option.default_factory for option in dataclasses.fields(cls)}
    defaults = {name: factory() for name, factory in factories.items() if callable(factory)}
    return {name: default for name, default in defaults.items() if dataclasses.is_dataclass(default)}


def _current_name(key: str, full: str, values: Mapping[str, Any], names: list[str], source: str) -> str | None:
    """The option that `key` sets; None for a removed option whose value has the same meaning today."""
    if key in names:
        return key
    if full in _REMOVED:
        remaining, needed, reason = _REMOVED[full]
        if values[key] != remaining and (needed is None or values.get(needed)):
            raise ConfigError(f"{source}: {full}={values[key]!r} was removed: {reason}; delete this option")
        return None
    if (new := _RENAMED.get(key)) in names:
        warnings.warn(f"{source}: {full} is deprecated; rename it to {new}", DeprecationWarning, stacklevel=4)
        return new
    near = difflib.get_close_matches(str(key), names, n=1)
    hint = f"; did you mean {full.removesuffix(str(key))}{near[0]}?" if near else ""
    raise ConfigError(f"{source}: unknown key {full}{hint} (allowed: {', '.join(names)})")


def _convert(value: Any, kind: Any, source: str, path: str) -> Any:
    """`value` as the type `kind`, without conversion except 1e-3, which YAML reads as a string."""
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
        if (number := _number(value)) is not None:
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
    origin, args = get_origin(kind), get_args(kind)
    if origin is dict:
        return "a section of keys and values"
    if origin is tuple:
        if get_origin(args[0]) is Literal:
            return f"a list of {type_name(args[0])}"
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {count}{type_name(args[0]).split(' ')[-1]}s"
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, args))
    if origin is Literal:
        return ", ".join(map(str, args))
    return _TYPE_NAMES.get(kind, str(kind))


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain data with lists instead of tuples, as in the `config.yaml` of a run; `build` reads it."""

    def plain(options: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options}

    return dataclasses.asdict(config, dict_factory=plain)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of full keys: `{"data": {"train": "x"}}` becomes `{"data.train": "x"}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe(cls: type[Any]) -> str:
    """All keys of a recipe class with default, type and description."""
    return "\n".join(_descriptions(cls(), ""))


def _descriptions(config: Any, prefix: str) -> Iterator[str]:
    cls = type(config)
    hints, texts, sections = get_type_hints(cls), attribute_texts(cls), _sections(cls)
    for name, kind in hints.items():
        if name in sections:
            yield from _descriptions(sections[name], f"{prefix}{name}.")
        else:
            default = _as_yaml(getattr(config, name))
            yield f"  {prefix}{name}={default}  ({type_name(kind)})\n      {texts[name]}"


def _as_yaml(default: Any) -> str:
    if isinstance(default, tuple):
        return f"[{','.join(map(_as_yaml, default))}]"
    return json.dumps(default) if default in (None, "") or isinstance(default, bool) else str(default)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a table in plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


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


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as "svt/vitb_k400", sorted."""
    folder = _recipe_folder()
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_base_/"))


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a path, or a name of `list_recipes()`.

    Raises:
        ConfigError: there is neither a file nor a recipe of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = list_recipes()
    short = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    if short in known:
        return _recipe_folder() / f"{short}.yaml"
    near = difflib.get_close_matches(short, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "give a file or a name"
    raise ConfigError(f"{name}: no such recipe; {hint} (svt-zoo recipes lists all names)")


def _recipe_folder() -> Path:
    """Where the recipes are: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def read_options(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a recipe, a file, a name or None, after `key=value` overrides.

    Raises:
        ConfigError: a file that is not a recipe, or an override without a key.
    """
    values = {} if path is None else _read_yaml(find_recipe(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not of the form key=value, such as data.train=/videos")
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{override!r}: {section} is a value, not a section")
        place[name] = _parse(text)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml
    from fvcore.common.config import CfgNode  # imported late: torch.hub must not need it

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            values = CfgNode.load_yaml_with_base(os.fspath(path), allow_unsafe=False)
    except RecursionError as error:
        raise ConfigError(f"{path} is not a recipe: its _BASE_ leads back to itself") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AssertionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} or its _BASE_ is not a recipe ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} or its _BASE_ is not a recipe: it must hold sections and keys, got {values!r}")
    return dict(values or {})  # only comments: all defaults


def _parse(text: str) -> Any:
    """The value of an override as in YAML, except that dates stay strings."""
    import yaml

    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, bool | int | float | list | dict) else text
