"""Arguments that several commands share."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.lists import VideoList
    from ..models import ZooModel

FEATURES_MODEL = "svt_vitb_k400"
CLASSIFIER = "timesformer_vitb_k400"


def add_recipe(parser: ArgumentParser, example: str, *, overrides: str = "data.train=/list.csv") -> None:
    """`RECIPE [key=value ...]`."""
    parser.add_argument("recipe", help=f"a YAML file, or a name that svt-zoo recipes lists, such as {example}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"changes to the recipe, such as {overrides}")


def add_model(parser: ArgumentParser, default: str) -> None:
    """`--model` and `--weights`, for `load_network`."""
    parser.add_argument("--model", help=f"a name that svt-zoo weights lists, a path or an address ({default})")
    parser.add_argument("--weights", help="a file or an address of other weights for --model")
    parser.set_defaults(default_model=default)


def load_network(args: Namespace, *, num_classes: int | None = 0, **options: Any) -> "ZooModel":
    """The network that `--model` and `--weights` name; `num_classes=None` keeps the classifier of the file."""
    from ..hub.loading import load_model

    name = args.weights or args.model or args.default_model
    return load_model(name, model=args.model if args.weights else None, num_classes=num_classes, **options)


def add_device(parser: ArgumentParser, *, dtype: str = "auto") -> None:
    """`--device` and `--dtype`."""
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    choices = ["auto", "float32", "bfloat16", "float16", "int8"]
    text = "of the computation; auto is bfloat16 where that is faster, else float32; int8 is for CPUs (%(default)s)"
    parser.add_argument("--dtype", default=dtype, choices=choices, help=text)


def add_views(parser: ArgumentParser) -> None:
    """`--views`."""
    text = 'views of each video: crops x clips, such as 3x10, or "slow-fast 3x1" (%(default)s)'
    parser.add_argument("--views", default="1x1", help=text)


def add_list(parser: ArgumentParser, name: str = "list", *, help: str) -> None:
    """A list of videos and the options to read it, for `read_videos`."""
    parser.add_argument(name, help=help)
    parser.add_argument("--root", help="the folder of relative paths in the list; by default that of the list")
    parser.add_argument("--format", default="auto", help="of the list, if it is not recognized")
    parser.add_argument("--where", help="rows of the list to take, such as split=train,set=ucf101")
    parser.add_argument("--frame-rate", type=float, default=30.0, help="of folders of frames in the list (%(default)s)")


def read_videos(args: Namespace, path: str) -> "VideoList":
    """The list at `path`, read with the options of `add_list`."""
    from ..data.lists import read_list

    return read_list(path, root=args.root, format=args.format, where=args.where, frame_rate=args.frame_rate)


def print_failures(failures: Sequence[tuple[str, str]], rest: str) -> int:
    """Print the first 20 videos that failed, and `rest` if there is one. The exit status is 1 for any failure."""
    from ..data.list_formats import printable

    for path, reason in failures[:20]:
        print(printable(f"failed: {path}: {reason}"))
    if rest:
        print(rest)
    return 1 if failures else 0


def add_workers(parser: ArgumentParser) -> None:
    """`--workers`."""
    text = "processes; 0 works in the main process (one per core)"
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help=text)


def positive(text: str) -> int:
    """Parse an integer >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be an integer >= 1, got {text}")
    return int(text)
