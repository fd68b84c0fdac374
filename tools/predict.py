"""Say what happens in videos: the likeliest classes of a classifier, or the feature of a backbone."""

import argparse
import sys

from svt_zoo import VideoReadError, WeightsError, embed, load_model, predict


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--model", help="a row of the table, a path or an address (timesformer_vitb_k400)")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--features", action="store_true", help="the feature, even of a model with a classifier")
    parser.add_argument("--views", default="1x1", help='crops x clips of each video: 3x10, or "slow-fast 3x1" (1x1)')
    parser.add_argument("--top", type=int, default=5, help="how many classes to show")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    args = parser.parse_args(argv)
    options = {"device": args.device, "dtype": args.dtype, "views": args.views}
    try:
        weights = args.weights or args.model or "timesformer_vitb_k400"
        number = 0 if args.features else None  # None: what the file has
        model = load_model(weights, model=args.model if args.weights else None, num_classes=number)
        if model.meta["num_classes"]:
            for path, labels, scores in predict(args.videos, model=model, top=args.top, **options):
                print(path)
                for label, score in zip(labels, scores, strict=True):
                    print(f"  {score:6.1%}  {label}")
        else:
            for path, feature in zip(args.videos, embed(args.videos, model=model, **options), strict=True):
                start = ", ".join(f"{value:.3f}" for value in feature[:4].tolist())
                print(f"{path}\n  feature of {len(feature)} numbers: {start}, ... (norm {feature.norm():.2f})")
    except (WeightsError, VideoReadError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
