"""A recipe: what one run is. Read from YAML, with `key=value` overrides, through the strict loader."""

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_type_hints

from .cpc import CPCRecipe
from .evaluation import KNNRecipe, LinearRecipe, MultiviewRecipe
from .find import find_recipe
from .finetune import FinetuneRecipe
from .options import DataConfig, ModelConfig, OptimConfig, RunConfig, SVTConfig, ViewsConfig
from .strict import ConfigError, build, said
from .temporal import TemporalConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """One pre-training by SVT: a file below `configs/`, which names only what differs from the paper's defaults.

    Attributes:
        method: says that this is a recipe of SVT; a recipe that says no method is one.
        init: where the backbone's weights come from: "dino" (DINO's ImageNet weights, as in the paper),
            "image_supervised", "svt", "random", or a file, an address or a row of `svt_zoo.list_weights()`.
    """

    method: Literal["svt"] = "svt"
    init: str = "dino"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    svt: SVTConfig = field(default_factory=SVTConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.temporal.low_confidence:
            raise ValueError("temporal.low_confidence needs classes, which SVT does not have; set it to 0")
        if self.temporal.flow and not self.views.consistent:
            raise ValueError("temporal.flow needs one crop for all frames; set views.consistent=true")


PretrainRecipe = Recipe | CPCRecipe
PRETRAINING: dict[str, type[PretrainRecipe]] = {"svt": Recipe, "cpc": CPCRecipe}  # by what a recipe says in `method`


AnyEvaluation = KNNRecipe | LinearRecipe | MultiviewRecipe
EVALUATIONS: dict[str, type[AnyEvaluation]] = {"knn": KNNRecipe, "linear": LinearRecipe, "test": MultiviewRecipe}
KINDS: dict[str, type[AnyEvaluation | FinetuneRecipe]] = {"finetune": FinetuneRecipe, **EVALUATIONS}  # by key `kind`


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read a recipe of a pre-training, of the class that its `method` names. Raises as `read_recipe`."""
    return _of_method(path, _read_values(path, overrides))


def load_evaluation(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> AnyEvaluation:
    """Read a recipe of an evaluation, of the class that its `kind` names. Raises as `read_recipe`."""
    values = _read_values(path, overrides)
    return build(_choose(EVALUATIONS, "kind", values.get("kind"), path), values, source=str(path))


def load_any(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> PretrainRecipe | FinetuneRecipe | AnyEvaluation:
    """Read any recipe, of the class that its `kind` or its `method` names. Raises as `read_recipe`."""
    values = _read_values(path, overrides)
    if "kind" not in values:
        return _of_method(path, values)
    return build(_choose(KINDS, "kind", values["kind"], path), values, source=str(path))


def _of_method(path: str | os.PathLike[str], values: dict[str, Any]) -> PretrainRecipe:
    if values.get("kind") in KINDS:
        command = "finetune" if values["kind"] == "finetune" else "evaluate"
        raise ConfigError(f"{path}: kind={values['kind']} is not a pre-training; use svt-zoo {command}")
    return build(_choose(PRETRAINING, "method", values.get("method", "svt"), path), values, source=str(path))


def _choose(classes: dict[str, type[T]], key: str, value: object, path: str | os.PathLike[str]) -> type[T]:
    """The class that a recipe's `method` or `kind` names."""
    if not isinstance(value, str) or value not in classes:
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path}: {key} must be one of {', '.join(classes)}, got {got}; state it in the recipe")
    return classes[value]


def read_recipe(cls: type[T], path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> T:
    """Read a recipe of the class `cls` and apply `key=value` overrides, such as `data.train=/videos`.

    `path` is a file, or the name of a recipe that comes with the package, such as "svt/vitb_k400".
    `_BASE_: other.yaml` at the top of a recipe takes that file's values first.

    Raises:
        ConfigError: a file that is no recipe, an unknown key, a wrong type, a value that is not allowed.
    """
    return build(cls, _read_values(path, overrides), source=str(path))


def _read_values(path: str | os.PathLike[str], overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's keys and values, overrides applied."""
    values = _read_yaml(find_recipe(path))
    for override in overrides:
        key, found, text = override.partition("=")
        if not found or not key:
            raise ConfigError(f"{override!r} is not of the form key=value, such as data.train=/videos")
        _set(values, key.split("."), _parse(text), override)
    return values


def describe(cls: type[Any] = Recipe) -> str:
    """All keys that a recipe can set, one a line, with what they take, their defaults and what they mean."""
    return "\n".join(
        f"  {key}={_shown(default)}  ({said(kind)})\n      {text}" for key, kind, default, text in _keys(cls, "")
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
    """What the docstrings of `cls` and of what it derives from say of each attribute, below `Attributes:`."""
    texts: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        section = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \w)", section.rstrip()):
            names, found, text = entry.partition(": ")
            if found:
                texts |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return texts


def _shown(default: Any) -> str:
    """A default as one writes it in YAML."""
    if isinstance(default, tuple):
        return f"[{','.join(map(_shown, default))}]"
    return json.dumps(default) if default in (None, "") or isinstance(default, bool) else str(default)


def _read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    import yaml
    from fvcore.common.config import CfgNode  # asked for: torch.hub must not need it

    try:
        with open(path, encoding="utf-8") as file:
            alone = yaml.safe_load(file)
        if alone is None:
            return {}  # nothing but comments: all defaults
        if not isinstance(alone, dict):
            raise ConfigError(f"{path} is not a recipe: it must hold sections of keys and values, got {alone!r}")
        return dict(CfgNode.load_yaml_with_base(os.fspath(path), allow_unsafe=False))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AssertionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is not a recipe ({' '.join(str(error).split())})") from error


def _parse(text: str) -> Any:
    """The value of an override: numbers, lists, true and null are what they look like; a date stays a text."""
    import yaml

    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, bool | int | float | list | dict) else text


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    section = values
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{override!r}: {key} is a value, not a section")
    section[keys[-1]] = value
