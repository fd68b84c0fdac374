"""Re-encode a collection of videos for training: small, without sound, quick to decode, frame for frame."""

import argparse
import logging
import os
import sys
from pathlib import Path

from svt_zoo.data.encode import Encoding
from svt_zoo.data.lists import read_list
from svt_zoo.data.prepare import prepare_videos


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", help="a list of videos in any format, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the new videos and the new list")
    parser.add_argument("--short-side", type=int, default=256, help="pixels, 224 to 320 for training; never enlarges")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--intra", action="store_true", help="key frames alone: a little faster, 2 to 4 times larger")
    mode.add_argument("--frames", action="store_true", help="folders of JPEG images, the largest by far")
    parser.add_argument("--crf", type=int, default=20, help="quality of H.264, 0 to 51, lower is better")
    parser.add_argument("--preset", default="fast", help="of x264, ultrafast to veryslow: slower is smaller")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="quality of the images, 1 to 95")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0 for none beside this")
    parser.add_argument("--root", help="what paths in the list are relative to; its own folder by default")
    parser.add_argument("--format", default="auto", help="of the list, if it is not recognised")
    parser.add_argument("--where", help="rows to take, such as split=train,set=ucf101")
    parser.add_argument("--frame-rate", type=float, default=30.0, help="of folders of frames among the sources")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        encoding = Encoding(
            mode="frames" if args.frames else "intra" if args.intra else "short",
            short_side=args.short_side,
            crf=args.crf,
            preset=args.preset,
            jpeg_quality=args.jpeg_quality,
        )
        videos = read_list(args.list, root=args.root, format=args.format, where=args.where, frame_rate=args.frame_rate)
        name = "list" if os.path.isdir(args.list) else Path(args.list).stem
        made = prepare_videos(videos, args.output, encoding, name=name, workers=args.workers)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{made.summary()}\nlist: {made.list}")
    for path, reason in made.failures[:20]:
        print(f"failed: {path}: {reason}")
    if made.failures:
        print(f"all failures: {made.list.with_name('failures.csv')}; their rows are in the list without a video")
    return 1 if made.failures else 0


if __name__ == "__main__":
    sys.exit(main())
