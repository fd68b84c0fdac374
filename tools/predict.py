"""Say what happens in videos: the likeliest classes of a classifier, or the feature of a backbone.

Exit status: 0; 1 if a video cannot be read (the others are shown); 2 if nothing can be done.
"""

import argparse
import sys

from svt_zoo import VideoReadError, WeightsError, load_model
from svt_zoo.evaluation.prepare import prepare
from svt_zoo.inference.predict import embed, predict


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", help="video files, or folders of them")
    parser.add_argument("--model", help="a row of the table, a path or an address (timesformer_vitb_k400)")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--features", action="store_true", help="the feature, even of a model with a classifier")
    parser.add_argument("--views", default="1x1", help='crops x clips of each video: 3x10, or "slow-fast 3x1" (1x1)')
    parser.add_argument("--top", type=int, default=5, help="how many classes to show")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    args = parser.parse_args(argv)
    try:
        weights = args.weights or args.model or "timesformer_vitb_k400"
        number = 0 if args.features else None  # None: what the file has
        model = load_model(weights, model=args.model if args.weights else None, num_classes=number)
        network, device, dtype = prepare(model, args.device, args.dtype)
        options = {"model": network, "device": device, "dtype": dtype, "views": args.views}
        failed = 0
        for path in args.videos:
            try:
                if network.meta["num_classes"]:
                    for found in predict(path, top=args.top, **options):
                        pairs = zip(found.labels, found.scores, strict=True)
                        print(found.path, *(f"  {score:6.1%}  {label}" for label, score in pairs), sep="\n", flush=True)
                else:
                    for one in embed(path, **options):
                        start = ", ".join(f"{value:.3f}" for value in one[:4].tolist())
                        print(
                            f"{path}\n  feature of {len(one)} numbers: {start}, ... (norm {one.norm():.2f})", flush=True
                        )
            except VideoReadError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
    except (WeightsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
