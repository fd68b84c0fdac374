"""Finds recipes: files of the user, and those that come with the package, by name."""

import difflib
import os
from pathlib import Path

from .strict import ConfigError


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as "svt/vitb_k400", sorted."""
    folder = _folder()
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
        return _folder() / f"{short}.yaml"
    near = difflib.get_close_matches(short, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "give a file or a name"
    raise ConfigError(f"{name}: no such recipe; {hint} (svt-zoo recipes lists all names)")


def _folder() -> Path:
    """Where the recipes are: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
