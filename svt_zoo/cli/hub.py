"""Commands about weights and architectures: models, weights, publish."""

import difflib
from argparse import ArgumentParser, Namespace

from .arguments import FEATURES_MODEL, add_model, load_network


def add_models(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, such as 'svt_*'")


def models(args: Namespace) -> int:
    """List the architectures."""
    import torch

    from ..models import create_model, list_models

    rows = [["name", "frames", "embed_dim", "parameters"]]
    for name in list_models(args.pattern):
        with torch.device("meta"):
            network = create_model(name)
        count = sum(parameter.numel() for parameter in network.parameters())
        rows.append([name, str(network.num_frames), str(network.embed_dim), f"{count / 1e6:.1f} M"])
    print(_found(rows, args.pattern, list_models()))
    return 0


def add_weights(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, such as 'svt_*', or one name")


def weights(args: Namespace) -> int:
    """List the trained weights: clip, parameters, license, first published number; with a full name, all about it.

    MODEL_ZOO.md has all published numbers, the sources and the full licenses.
    """
    import torch

    from ..hub.table import get_weights, list_weights
    from ..models import create_model
    from ..options import text_table

    rows = [["name", "frames x rate", "pixels", "parameters", "license", "published"]]
    names = list_weights(args.pattern)
    for name in names:
        row = get_weights(name)
        with torch.device("meta"):
            network = create_model(row.model, **row.model_kwargs)
        count = sum(parameter.numel() for parameter in network.parameters())
        numbers = [f"{n.dataset} {n.protocol.removesuffix(' views')} {n.value:g}" for n in row.published[:1]]
        license = row.license.partition(":")[0] or "not stated"
        clip = [row.clip.frames_and_rate, str(row.clip.crop_size)]
        rows.append([name, *clip, f"{count / 1e6:.1f} M", license, *(numbers or [""])])
    if names == [args.pattern]:
        facts = dict(zip(*rows, strict=True))
        facts |= {"license": row.license or "not stated", "what": row.title, "trained on": row.pretrained_on}
        facts |= {"file": str(row.file), "sha256": row.sha256 or "not known; your first download records it"}
        facts |= {"paper": row.paper, "notes": row.notes}
        del facts["published"]
        lines = [[key, value] for key, value in facts.items() if value]
        lines += [["published", f"{n.dataset} {n.protocol} {n.metric} {n.value:g}"] for n in row.published]
        print(text_table(lines))
    else:
        print(_found(rows, args.pattern, list_weights()))
    return 0


def _found(rows: list[list[str]], pattern: str, known: list[str]) -> str:
    """The rows below their header as a table; ValueError if there is only the header."""
    from ..options import text_table

    if len(rows) == 1:
        near = difflib.get_close_matches(pattern, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "without a pattern, all are listed"
        raise ValueError(f"no name matches {pattern!r}; {hint}")
    return text_table(rows)


def add_publish(parser: ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="Hub repository; created if it is new")
    add_model(parser, FEATURES_MODEL)
    parser.add_argument("--private", action="store_true", help="create a private repository")


def publish(args: Namespace) -> int:
    """Convert weights, upload them to the Hugging Face Hub, verify the upload, and print the row for the table."""
    import dataclasses

    from ..hub.publish import publish as upload
    from ..hub.table import get_weights, list_weights

    name = args.weights or args.model or args.default_model
    file, sha256 = upload(load_network(args, num_classes=None), args.repo, private=args.private)
    print(f"uploaded, loaded back and equal: {file}\nsha256 {sha256}")
    if name in list_weights():
        print("the row for svt_zoo/hub/table.py:")
        print(dataclasses.replace(get_weights(name), hub_copy=file, sha256=sha256))
    else:
        print(f"for a row in svt_zoo/hub/table.py: hub_copy={file!r}, sha256={sha256!r}")
    return 0
