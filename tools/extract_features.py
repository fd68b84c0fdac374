"""Write features of a collection of videos to a Parquet table: `python tools/extract_features.py VIDEOS -o FILE`.

The same command goes on where a killed one was. Under `torchrun` several processes share the work. A video that cannot
be read is a row with the reason.

Exit status: 0 when the table has features, or when another process is still to finish it; 1 if no video could be read;
2 if nothing can be done; 130 after Ctrl-C.
"""

import argparse
import logging
import sys

from svt_zoo import distributed, load_model
from svt_zoo.evaluation.prepare import choose_device
from svt_zoo.inference.extract import extract_features, list_videos
from svt_zoo.inference.feature_table import FeatureTable


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="a list in any format, a folder, a URL of either, or one video")
    parser.add_argument("-o", "--output", default="runs/features.parquet", help="file (.parquet) to write")
    parser.add_argument("--model", default="svt_vitb_k400", help="a row of the table, a path or an address")
    parser.add_argument("--weights", help="a file or address of other weights for --model")
    parser.add_argument("--views", default="1x1", help="crops x clips whose features are averaged, or slow-fast 3x1")
    parser.add_argument("--every", type=float, help="a row every so many seconds, instead of one a video")
    parser.add_argument("--tokens", choices=["frames", "patches"], help="patches averaged in each frame, or all")
    parser.add_argument("--half", action="store_true", help="write numbers of 16 bits instead of 32")
    parser.add_argument("--engine", default="local", choices=["local", "ray"])
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch-size", type=int, default=8, help="rows that are computed at once")
    parser.add_argument("--workers", type=int, help="processes that read videos; by default one a core")
    parser.add_argument("--shard-size", type=int, default=64, help="videos that a killed process does again, at most")
    parser.add_argument("--root", help="what paths in the list are relative to; its own folder by default")
    parser.add_argument("--format", default="auto", help="of the list, if it is not recognised")
    parser.add_argument("--where", help="rows of the list to take, such as split=train,set=ucf101")
    parser.add_argument("--frame-rate", type=float, default=30.0, help="of folders of frames in the list")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        device = distributed.init(choose_device(args.device))
        videos = list_videos(
            args.videos, root=args.root, format=args.format, where=args.where, frame_rate=args.frame_rate
        )
        summary = extract_features(
            load_model(args.weights, model=args.model) if args.weights else args.model,
            videos,
            args.output,
            views=args.views,
            every=args.every,
            pooling=args.tokens or "cls",
            store="float16" if args.half else "float32",
            engine=args.engine,
            device=args.device if args.engine == "ray" else device,
            dtype=args.dtype,
            batch_size=args.batch_size,
            num_workers=args.workers,
            shard_size=args.shard_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        distributed.shutdown()
    print(summary)
    if summary.complete and not FeatureTable(summary.output).has_features():
        print(f"error: no video could be read; column `error` of {summary.output} says why", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
