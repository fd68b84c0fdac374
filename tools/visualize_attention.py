"""Show what a model looks at in a video: an MP4 with the attention beside the frames, and a PNG contact sheet.

python tools/visualize_attention.py video.mp4 --compare dino
python tools/visualize_attention.py video.mp4 --num-frames 32 --method rollout --output pictures/
"""

import argparse
import sys

from svt_zoo import VideoReadError, WeightsError
from svt_zoo.inference.visualize import load_models, visualize_attention


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="any video file")
    parser.add_argument("--model", default="svt_vitb_k400", help="name, path or address of a model (%(default)s)")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--no-pretrained", action="store_true", help="random weights, to try the program")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="NAME", help="more models; dino: the one of that size"
    )
    parser.add_argument("--method", choices=["last", "rollout"], default="last", help="last block, or through all")
    parser.add_argument("--num-frames", type=positive, help="frames in the clip, by default the model's own (8)")
    parser.add_argument(
        "--img-size", type=positive, help="side of the crop in pixels, by default the model's own (224)"
    )
    parser.add_argument("--output", default=".", help="folder, or stem of the two files (default: here)")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """An integer from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, got {text}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Load the models, write the two files, say where they are."""
    args = parse_args(argv)
    try:
        models = load_models(
            args.model,
            weights=args.weights,
            pretrained=not args.no_pretrained,
            compare=args.compare,
            num_frames=args.num_frames,
            img_size=args.img_size,
        )
        for path in visualize_attention(args.video, models, args.output, method=args.method):
            print(path)
    except (VideoReadError, WeightsError, ValueError, OSError) as error:
        print(f"visualize_attention: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
