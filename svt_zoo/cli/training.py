"""Commands that run recipes (demo, pretrain, finetune, evaluate) or show them (recipes, options)."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_recipe, positive

if TYPE_CHECKING:
    from ..evaluation.results import Result


def add_demo(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute: fewer videos, and too few steps to learn much"
    )
    parser.add_argument("--videos", help="a folder of your own videos; its subfolders are the classes")
    parser.add_argument("--output", type=Path, help="folder of all files (runs/demo, runs/demo_quick, runs/demo_NAME)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated videos and of the training")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")


def demo(args: Namespace) -> int:
    """Pre-train a tiny SVT on generated videos without labels and write a report about what it learned.

    This takes two and a half minutes on two CPU cores. It can be stopped at any time; the same command continues.
    """
    from ..demo.run import REPORT_NAME, run_demo
    from ..distributed import lock_folder
    from ..training.signals import ASKED_TO_STOP

    parts = ["demo", Path(args.videos).resolve().name if args.videos else "", "quick" if args.quick else ""]
    output = args.output or Path("runs", "_".join(filter(None, parts)))
    with lock_folder(output):
        scores = run_demo(output, videos=args.videos, quick=args.quick, seed=args.seed, overrides=args.overrides)
    if scores is None:
        return ASKED_TO_STOP
    for score in scores:
        print(f"{score.name:24s} {score.top1:5.1f} % (95 % interval {score.low:.0f} to {score.high:.0f})")
    print(f"the report: {(output / REPORT_NAME).resolve()}")
    return 0


def add_pretrain(parser: ArgumentParser) -> None:
    add_recipe(parser, "svt/own_videos", overrides="data.train=/videos run.output=runs/mine")


def pretrain(args: Namespace) -> int:
    """Pre-train a network on videos without labels.

    The same command continues a run that was stopped or killed. Under torchrun, several processes train together.
    `svt-zoo options pretrain` lists every key=value.
    """
    from ..config import load_recipe
    from ..training.run import pretrain
    from ..training.signals import ASKED_TO_STOP, exit_when_asked

    with exit_when_asked():
        finished = pretrain(load_recipe(args.recipe, args.overrides))
    return 0 if finished else ASKED_TO_STOP


def add_finetune(parser: ArgumentParser) -> None:
    add_recipe(parser, "finetune/ucf101", overrides="init=dino data.train=/list.csv")


def finetune(args: Namespace) -> int:
    """Fine-tune a network on videos with labels, and test it.

    The same command continues a run that was stopped or killed. Under torchrun, several processes train together.
    `svt-zoo options finetune` lists every key=value.
    """
    from ..config import FinetuneRecipe, read_recipe
    from ..training.run import finetune
    from ..training.signals import ASKED_TO_STOP, exit_when_asked

    recipe = read_recipe(FinetuneRecipe, args.recipe, args.overrides)
    with exit_when_asked():
        results = finetune(recipe)
    if results is None:
        return ASKED_TO_STOP
    _print_results(results, recipe.report.folder, recipe.run.output)
    return 0


def add_evaluate(parser: ArgumentParser) -> None:
    add_recipe(parser, "knn/ucf101", overrides="init=dino data.val=/list.csv")


def evaluate(args: Namespace) -> int:
    """Evaluate a network by nearest neighbors, a linear probe or the test of a classifier.

    The key `kind` of the recipe selects one: knn, linear or test. Features that were computed before are used again.
    `svt-zoo options evaluate --kind KIND` lists every key=value.
    """
    from ..config import load_evaluation
    from ..evaluation.run import evaluate

    recipe = load_evaluation(args.recipe, args.overrides)
    _print_results(evaluate(recipe), recipe.report.folder, recipe.run.output)
    return 0


def add_probe(parser: ArgumentParser) -> None:
    text = "a name that svt-zoo weights lists, a path, an address, the folder of a run, or random"
    parser.add_argument("model", metavar="MODEL", help=text)
    text = "a list with the column split, TRAIN,TEST, or a folder; @COLUMN=VALUE takes rows, as list.csv@set=tennis"
    parser.add_argument("lists", nargs="+", metavar="LIST", help=text)
    parser.add_argument("-o", "--output", default="runs/probe", help="folder of all files (%(default)s)")
    parser.add_argument("--layers", nargs="+", type=positive, help="blocks to probe, counted from 1, such as 6 9 12")
    parser.add_argument("--recipe", help="a YAML file with options, or the name of a recipe")
    text = "options that svt-zoo options probe lists, such as probe.epochs=40"
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help=text)


def probe(args: Namespace) -> int:
    """Probe frozen features: neighbors, linear, attentive and few-shot, beside controls without motion or training.

    One pass reads each video for the input and all controls. After an interruption, the same command continues.
    """
    from ..config import ProbeRecipe, read_recipe
    from ..evaluation.probe_run import probe, probe_table

    layers = [f"probe.layers={args.layers}"] if args.layers else []
    overrides = [f"run.output={args.output}", *layers, *args.set]
    recipe = read_recipe(ProbeRecipe, args.recipe, overrides, init=args.model, lists=args.lists)
    results = probe(recipe)
    if results:
        print(probe_table(results), end="")
        print(f"written: results in {recipe.report.folder}; probe.md, probe.png and features in {recipe.run.output}")
    return 0


def _print_results(results: "list[Result]", folder: str, output: str) -> None:
    """Print results; only the main process has any."""
    from ..evaluation.run import describe_result

    for result in results:
        print(describe_result(result))
    if results:
        print(f"written: results in {folder}, all other files in {output}")


def add_recipes(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="print this one; without it, list all")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, with --dump")
    parser.add_argument("--dump", action="store_true", help="print every option with its value instead of the file")


def recipes(args: Namespace) -> int:
    """List the recipes that come with the package, or print one."""
    from ..options import find_recipe, list_recipes, text_table  # without torch

    if args.recipe is None:
        if args.dump:
            raise ValueError("--dump needs the name of a recipe")
        print(text_table([[name, _headline(find_recipe(name))] for name in list_recipes()]))
    elif args.dump:
        import yaml

        from ..config import load_any
        from ..options import to_dict

        recipe = load_any(args.recipe, args.overrides)
        print(yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None), end="")
    else:
        print(find_recipe(args.recipe).read_text(encoding="utf-8"), end="")
    return 0


def _headline(path: Path) -> str:
    """The first sentence of a recipe's header."""
    header = path.read_text(encoding="utf-8").partition("\n# Paper:")[0]
    text = " ".join(line.removeprefix("#").strip() for line in header.splitlines())
    return text.partition(". ")[0].removesuffix(".")


def add_options(parser: ArgumentParser) -> None:
    choices, text = ("pretrain", "finetune", "evaluate", "probe"), "one of %(choices)s"
    parser.add_argument("about", choices=choices, metavar="COMMAND", help=text)
    parser.add_argument("--method", choices=["svt", "cpc"], help="of pretrain; by default both")
    parser.add_argument("--kind", choices=["knn", "linear", "test"], help="of evaluate; by default all three")


def options(args: Namespace) -> int:
    """Print every key=value that a recipe can set, with its default and its meaning."""
    from ..config import EVALUATIONS, PRETRAINING, FinetuneRecipe, ProbeRecipe
    from ..options import describe

    if args.method and args.about != "pretrain":
        raise ValueError(f"--method={args.method} applies to pretrain, got {args.about}")
    if args.kind and args.about != "evaluate":
        raise ValueError(f"--kind={args.kind} applies to evaluate, got {args.about}")
    classes: dict[str, type[Any]] = {"kind=finetune": FinetuneRecipe}
    if args.about == "pretrain":
        classes = {f"method={name}": cls for name, cls in PRETRAINING.items() if args.method in (None, name)}
    if args.about == "probe":
        classes = {"probe": ProbeRecipe}
    if args.about == "evaluate":
        classes = {f"kind={name}": cls for name, cls in EVALUATIONS.items() if args.kind in (None, name)}
    for name, cls in classes.items():
        print(f"{name}:\n{describe(cls)}\n")
    return 0
