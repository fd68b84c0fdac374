"""Export a network: a program for torch, or ONNX, or weights for transformers; each is checked by running."""

import argparse
import sys

from svt_zoo import WeightsError, load_model
from svt_zoo.inference.export import ExportError, export_program
from svt_zoo.inference.export_weights import export_transformers


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="svt_vitb_k400", help="a row of the table, a path or an address")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--format", default="onnx", choices=["torch_export", "aotinductor", "onnx", "transformers"])
    parser.add_argument("--output", required=True, help="the file (.pt2, .onnx) or folder to write")
    parser.add_argument("--num-frames", type=int, help="another clip than the weights were trained with")
    parser.add_argument("--img-size", type=int, help="its pixels")
    parser.add_argument("--features", action="store_true", help="without the classifier, even if there is one")
    args = parser.parse_args(argv)
    try:
        model = load_model(
            args.weights or args.model,
            model=args.model if args.weights else None,
            num_classes=0 if args.features else None,
            num_frames=args.num_frames,
            img_size=args.img_size,
        )
        if args.format == "transformers":
            exported = export_transformers(model, args.output)
        else:
            exported = export_program(model, args.output, args.format)
    except (ExportError, WeightsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{exported.path}: free are {', '.join(exported.free)}")
    shapes = ", ".join("x".join(map(str, shape)) for shape in exported.shapes)
    print(f"largest difference to the network {exported.max_difference:.1e} in float32, at {shapes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
