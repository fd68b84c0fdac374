"""Convert weights, upload them to the Hugging Face Hub, check what arrived, and print the row for the weights table."""

import argparse
import dataclasses
import sys

from svt_zoo import WeightsError, get_weights, list_weights, load_model
from svt_zoo.hub.publish import publish


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="where to; made if it does not exist")
    parser.add_argument("--model", help="a row of the table, a path or an address (svt_vitb_k400)")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    args = parser.parse_args(argv)
    weights = args.weights or args.model or "svt_vitb_k400"
    row = get_weights(weights) if weights in list_weights() else None
    try:
        model = load_model(weights, model=args.model if args.weights else None, num_classes=None)
        file, sha256 = publish(model, args.repo, private=args.private)
    except (WeightsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"uploaded, loaded back and equal: {file}\nsha256 {sha256}")
    if row:
        print("the row for svt_zoo/hub/table.py:")
        print(dataclasses.replace(row, hub_copy=file, sha256=sha256))
    else:
        print(f"for a row in svt_zoo/hub/table.py: hub_copy={file!r}, sha256={sha256!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
