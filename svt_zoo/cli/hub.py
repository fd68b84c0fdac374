"""Commands about weights and architectures: models, weights, publish, page."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .arguments import FEATURES_MODEL, add_model, columns, load_network


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
    print(columns(rows))
    return 0


def add_weights(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, such as 'svt_*'")


def weights(args: Namespace) -> int:
    """List the trained weights: clip, parameters, license, whether the hash is known, first published number."""
    import torch

    from ..hub.page import frames_and_rate
    from ..hub.table import get_weights, list_weights
    from ..models import create_model

    rows = [["name", "frames x rate", "pixels", "parameters", "license", "hash", "published", "what"]]
    for name in list_weights(args.pattern):
        row = get_weights(name)
        with torch.device("meta"):
            network = create_model(row.model, **row.model_kwargs)
        count = sum(parameter.numel() for parameter in network.parameters())
        numbers = [f"{n.dataset} {n.protocol} {n.value:g}" for n in row.published[:1]]
        license = row.license.partition(":")[0] or "not stated"
        known = "known" if row.sha256 else "not yet"
        clip = [frames_and_rate(row.clip), str(row.clip.crop_size)]
        rows.append([name, *clip, f"{count / 1e6:.1f} M", license, known, *(numbers or [""]), row.title])
    print(columns(rows))
    return 0


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


def add_page(parser: ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("MODEL_ZOO.md"), help="file to write (%(default)s)")


def page(args: Namespace) -> int:
    """Write MODEL_ZOO.md from the table of weights and the result files."""
    from dataclasses import asdict

    from ..evaluation.results import read_results
    from ..hub.page import zoo_page

    results = [asdict(one) for path in sorted(args.results.glob("*.json")) for one in read_results(path)]
    args.output.write_text(zoo_page(results), encoding="utf-8")
    print(f"written: {args.output}")
    return 0
