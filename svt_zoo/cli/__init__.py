"""The command `svt-zoo`: one table of commands, each with a function that adds its arguments and one that runs it.

`--help` must be fast: nothing here imports torch; each command imports what it needs when it runs.
"""

import argparse
import difflib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from ..hub.sources import one_line
from . import data, doctor, hub, inference, search, training

AddArguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

# The docstring of the second function is the command's help.
COMMANDS: dict[str, tuple[AddArguments, Run]] = {
    "demo": (training.add_demo, training.demo),
    "embed": (inference.add_embed, inference.embed),
    "predict": (inference.add_predict, inference.predict),
    "visualize": (inference.add_visualize, inference.visualize),
    "extract": (inference.add_extract, inference.extract),
    "search": (search.add_search, search.search),
    "search-index": (search.add_search_index, search.search_index),
    "dedup": (search.add_dedup, search.dedup),
    "serve": (inference.add_serve, inference.serve),
    "pretrain": (training.add_pretrain, training.pretrain),
    "finetune": (training.add_finetune, training.finetune),
    "evaluate": (training.add_evaluate, training.evaluate),
    "probe": (training.add_probe, training.probe),
    "export": (inference.add_export, inference.export),
    "prepare": (data.add_prepare, data.prepare),
    "check": (data.add_check, data.check),
    "index": (data.add_index, data.index),
    "preview": (data.add_preview, data.preview),
    "publish": (hub.add_publish, hub.publish),
    "models": (hub.add_models, hub.models),
    "weights": (hub.add_weights, hub.weights),
    "recipes": (training.add_recipes, training.recipes),
    "options": (training.add_options, training.options),
    "doctor": (doctor.add_doctor, doctor.doctor),
}
RESUMABLE = (
    *("demo", "extract", "search-index", "pretrain", "finetune"),
    *("evaluate", "probe", "prepare", "check", "index"),
)
ERRORS = (ValueError, OSError, RuntimeError, ImportError, FloatingPointError)
EPILOG = """exit status: 0 on success; 1 if something that was asked about is broken; 2 after an error;
75 if a signal asked a training to stop and it saved its state; 130 after Ctrl-C"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    about = "Self-supervised video transformers: features, predictions, training and evaluation."
    parser = argparse.ArgumentParser("svt-zoo", description=about, epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, run) in COMMANDS.items():
        text = run.__doc__ or ""
        about = inspect.cleandoc(text)
        one = commands.add_parser(name, help=text.split("\n")[0], description=about, formatter_class=raw)
        add_arguments(one)
        one.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "svt-zoo --help lists all"
        print(f"error: no command is named {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    args, rest = parser.parse_known_args(argv)
    if rest and ("overrides" not in args or any(word.startswith("-") for word in rest)):
        hint = "; options of a recipe are written key=value, without --" if "overrides" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if rest:
        args.overrides += rest  # key=value after an option
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may have bytes that are not UTF-8
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("svt_zoo").setLevel(logging.INFO)
    try:
        return COMMANDS[args.command][1](args)
    except BrokenPipeError:  # for example after `svt-zoo weights | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ERRORS as error:
        if args.traceback:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumable = args.command in RESUMABLE
        print("stopped" + ("; the same command goes on from here" if resumable else ""), file=sys.stderr)
        return 130
