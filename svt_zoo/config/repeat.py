"""A recipe that is to be repeated over seeds and official splits becomes one recipe for each."""

import logging
from dataclasses import fields, replace
from typing import Any, TypeVar

from .evaluation import KNNRecipe, LinearRecipe, MultiviewRecipe
from .finetune import FinetuneRecipe
from .options import DataConfig
from .strict import ConfigError

R = TypeVar("R", KNNRecipe, LinearRecipe, MultiviewRecipe, FinetuneRecipe)
_MARK = "{split}"
_log = logging.getLogger(__name__)


def cases(recipe: R) -> list[R]:
    """One recipe a split and seed, splits first; of several, each has a folder of its own in `run.output`.

    Lists of one's own, without {split} in their names, leave a recipe's official splits aside.

    Raises:
        ConfigError: {split} in the data's options, but no numbers for it.
    """
    marked = any(isinstance(value, str) and _MARK in value for value in vars(recipe.data).values())
    splits = recipe.repeat.splits if marked else ()
    if marked and not splits:
        raise ConfigError(
            "an option of data contains {split}, but repeat.splits is empty; add the numbers of the splits, such as "
            f"repeat.splits=[1]; got data.train={recipe.data.train!r}, data.val={recipe.data.val!r}"
        )
    if recipe.repeat.splits and not marked:
        _log.info("repeat.splits=%s is ignored, because no option of data contains {split}", list(recipe.repeat.splits))
    single = recipe.repeat.num_seeds == 1 and not splits
    # A number to choose by must not pass for one of the test.
    name = "validation" if recipe.data.validation_fraction else recipe.report.split
    found = []
    for split in splits or (None,):
        for seed in range(recipe.run.seed, recipe.run.seed + recipe.repeat.num_seeds):
            part = f"seed{seed}" if split is None else f"split{split}_seed{seed}"
            output = recipe.run.output if single else f"{recipe.run.output}/{part}"
            found.append(
                replace(
                    recipe,
                    data=_of_split(recipe.data, split),
                    report=replace(recipe.report, split=_split_name(name, split)),
                    run=replace(recipe.run, seed=seed, output=output),
                )
            )
    return found


def _of_split(data: DataConfig, split: int | None) -> DataConfig:
    texts: dict[str, Any] = {
        option.name: value.replace(_MARK, str(split))
        for option in fields(data)
        if isinstance(value := getattr(data, option.name), str)
    }
    return data if split is None else replace(data, **texts)


def _split_name(name: str, split: int | None) -> str:
    return name if split is None else f"{name} {split}"
