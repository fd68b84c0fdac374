import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from svt_zoo import config as recipes
from svt_zoo.config import EVALUATIONS, PRETRAINING, ConfigError, CPCRecipe, FinetuneRecipe, Recipe, build, load_recipe
from svt_zoo.options import attribute_texts, describe, flatten, to_dict


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: int = 1
    on: bool = False
    limit: float | None = 3.0
    mode: Literal["fast", "slow"] = "fast"
    modes: tuple[Literal["a", "b"], ...] = ("a",)
    options: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be >= 0, got {self.count}")


def recipe_file(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"nam": "y"}, r"f: unknown key nam; did you mean name\? \(allowed: name, count"),
        ({"inner": {"rat": 1}}, r"f: unknown key inner.rat; did you mean inner.rate\?"),
        ({"qqq": 1}, r"f: unknown key qqq \(allowed"),
        ({"count": 1.0}, r"f: count must be an integer, got 1.0"),
        ({"count": "1"}, r"f: count must be an integer, got '1'"),
        ({"count": True}, r"f: count must be an integer, got True"),
        ({"count": -1}, r"f: Outer: count must be >= 0, got -1"),
        ({"on": 1}, r"f: on must be true or false, got 1"),
        ({"on": "yes"}, r"f: on must be true or false, got 'yes'"),
        ({"name": 3}, r"f: name must be a string, got 3"),
        ({"name": None}, r"f: name must be a string, got None"),
        ({"limit": "much"}, r"f: limit must be a number, got 'much'"),
        ({"limit": float("nan")}, r"f: limit must be a number, got nan"),
        ({"limit": True}, r"f: limit must be a number, got True"),
        ({"mode": "Fast"}, r"f: mode must be one of fast, slow, got 'Fast'"),
        ({"modes": ["a", "c"]}, r"f: modes\[1\] must be one of a, b, got 'c'"),
        ({"inner": {"pair": [1, 2, 3]}}, r"f: inner.pair must be a list of 2 numbers, got \[1, 2, 3\]"),
        ({"inner": {"sizes": [1, 2.5]}}, r"f: inner.sizes\[1\] must be an integer, got 2.5"),
        ({"inner": {"sizes": 3}}, r"f: inner.sizes must be a list of integers, got 3"),
        ({"inner": None}, r"f: inner must be a section of keys and values, got None"),
        ({"options": [1]}, r"f: options must be a section of keys and values, got \[1\]"),
        ({"options": {1: 2}}, r"f: options must be a section of keys and values"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        build(Outer, values, source="f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("5E4", 5e4), ("-.5", -0.5), ("2", 2.0), ("+1.", 1.0)])
def test_a_number_that_yaml_takes_for_a_text_is_a_number(text: str, number: float) -> None:
    assert build(Inner, {"rate": text}).rate == number


@pytest.mark.parametrize("text", ["1_0", "inf", "nan", "0x10", "", "1e", "1 2"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="rate must be a number"):
        build(Inner, {"rate": text})


def test_null_is_a_value_only_where_it_is_allowed() -> None:
    assert build(Outer, {"limit": None}).limit is None
    with pytest.raises(ConfigError, match="count must be an integer, got None"):
        build(Outer, {"count": None})


values = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(),
        "count": st.integers(0),
        "on": st.booleans(),
        "limit": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "mode": st.sampled_from(["fast", "slow"]),
        "modes": st.lists(st.sampled_from(["a", "b"])).map(tuple),
        "options": st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
        "inner": st.builds(Inner, rate=st.floats(-1, 1), sizes=st.lists(st.integers()).map(tuple)),
    },
)


@given(values)
def test_a_config_as_plain_data_through_yaml_is_the_same_config(options: dict[str, Any]) -> None:
    config = Outer(**options)
    assert build(Outer, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from([option.name for option in fields(Outer)]), value=junk)
def test_any_value_either_fits_its_type_or_is_a_config_error(key: str, value: Any) -> None:
    try:
        config = build(Outer, {key: value})
    except ConfigError:
        return
    assert build(Outer, to_dict(config)) == config


def test_the_old_name_of_an_option_works_and_warns(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "data: {max_failure_share: 0.25}\n")
    with pytest.warns(DeprecationWarning, match=r"data\.max_failure_share is deprecated; rename it to max_failure_fra"):
        assert load_recipe(path).data.max_failure_fraction == 0.25


def test_base_comes_first_and_the_recipe_wins(tmp_path: Path) -> None:
    recipe_file(tmp_path, "optim: {epochs: 7, lr: 0.5}\ninit: random\n", "base.yaml")
    recipe = load_recipe(recipe_file(tmp_path, "_BASE_: base.yaml\noptim: {epochs: 9}\n"))
    assert (recipe.optim.epochs, recipe.optim.lr, recipe.init) == (9, 0.5, "random")


def test_overrides_win_and_look_as_in_yaml(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "optim: {epochs: 7}\n")
    keys = ["optim.epochs=8", "views.local_frames=[2,4]", "data.subset=null", "optim.lr=1e-3", "data.train=/a=b"]
    recipe = load_recipe(path, [*keys, "model.options.depth=2", "run.output=2024-01-01", "data.val="])
    assert (recipe.optim.epochs, recipe.optim.lr) == (8, 1e-3)
    assert (recipe.views.local_frames, recipe.data.subset) == ((2, 4), None)
    assert (recipe.data.train, recipe.run.output) == ("/a=b", "2024-01-01")
    assert recipe.model.options == {"depth": 2}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.epochs", r"'optim.epochs' is not of the form key=value"),
        ("=3", r"'=3' is not of the form key=value"),
        ("optim.epoch=3", r"unknown key optim.epoch; did you mean optim.epochs\?"),
        (
            "data.backend=torchcodec",
            r"data\.backend='torchcodec' was removed: PyAV reads",
        ),
        ("temporal={flow: 1, flow_method: torch}", r"temporal\.flow_method='torch' was removed: OpenCV computes"),
        ("init.dino=1", r"'init.dino=1': init is a value, not a section"),
        ("optim=3", r"optim must be a section of keys and values, got 3"),
        ("optim.warmup_epochs=30", r"optim: warmup_epochs must be 0 to epochs=20, got 30"),
        ("run.log_every_steps=0", r"run: log_every_steps must be >= 1, got 0"),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_recipe(recipe_file(tmp_path, "init: random\n"), [override])


@pytest.mark.parametrize(
    "text",
    [
        "- a\n",
        "just words\n",
        "a: [1\n",
        "_BASE_: absent.yaml\n",
        "_BASE_: r.yaml\n",
        "_BASE_: words.txt\n",
        "_BASE_: 3\n",
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.txt").write_text("only words")
    path = recipe_file(tmp_path, text)
    with pytest.raises(ConfigError, match=r"(r|absent)\.yaml"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: no such recipe"):
        load_recipe(tmp_path / "absent.yaml")


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert load_recipe(recipe_file(tmp_path, "")) == Recipe()


def test_a_list_of_choices_is_described_by_the_choices() -> None:
    line = next(line for line in describe(Recipe).splitlines() if line.startswith("  svt.correspondences="))
    assert line.endswith("(a list of local_to_global, global_to_global, global_to_local, local_to_local)")


def test_every_key_is_described_with_its_default() -> None:
    text = describe(Recipe)
    for key in flatten(to_dict(Recipe())):
        assert f"  {key}=" in text
    assert '  data.train=""  (a string)\n' in text
    assert "  optim.clip_grad=3.0  (a number or null)\n" in text


def test_several_attributes_may_share_a_description() -> None:
    class Documented:
        """One line.

        Attributes:
            a, b: two of them,
                over two lines.
            c: another.
        """

    assert attribute_texts(Documented) == {
        "a": "two of them, over two lines.",
        "b": "two of them, over two lines.",
        "c": "another.",
    }


def test_a_removed_option_is_ignored_when_its_value_is_the_one_that_remains(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "init: random\n")
    options = ["data.backend=pyav", "temporal.flow_method=torch"]  # without optical flow its method has no effect
    assert load_recipe(path, options) == load_recipe(path)


@pytest.mark.parametrize("name", ["CPCOptimConfig", "FinetuneOptimConfig"])
def test_an_old_class_of_options_works_and_warns(name: str) -> None:
    recipe = CPCRecipe() if name.startswith("CPC") else FinetuneRecipe()
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated; use OptimConfig"):
        old = getattr(recipes, name)
    assert old(epochs=40) == replace(recipe.optim, epochs=40)


@pytest.mark.parametrize("cls", [*PRETRAINING.values(), *EVALUATIONS.values(), FinetuneRecipe])
def test_every_numeric_option_has_a_lower_bound(cls: type[Any]) -> None:
    described = re.findall(r"^  (\S+)=.*  \((.*)\)$", describe(cls), re.MULTILINE)
    for key, kind in described:
        if not re.search("integer|number", kind) or key.endswith(".mean"):
            continue
        value: Any = -(10**9)
        if count := re.search(r"a list of (\d*)", kind):
            value = [value] * int(count[1] or 1)
        section, _, name = key.rpartition(".")
        with pytest.raises(ConfigError, match=rf"{name} must be .*, got"):
            build(cls, {section: {name: value}} if section else {name: value})


def test_an_absurd_number_of_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data: num_workers must be .*, got 100000"):
        build(Recipe, {"data": {"num_workers": 100_000}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.checkpoint_every_steps=0", "run: checkpoint_every_steps must be >= 1, got 0"),
        ("svt.out_dim=0", "svt: out_dim must be >= 1, got 0"),
        ("optim.clip_grad=-1", r"optim: clip_grad must be > 0, got -1\.0"),
    ],
)
def test_an_impossible_number_is_one_line_with_file_and_key(tmp_path: Path, override: str, message: str) -> None:
    path = recipe_file(tmp_path, "init: random\n")
    with pytest.raises(ConfigError, match=f"^{path}: {message}$"):
        load_recipe(path, [override])


def test_a_function_that_moved_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"config\.expand_repeats is now evaluation\.run\.expand_repeats"):
        assert recipes.expand_repeats(FinetuneRecipe())
