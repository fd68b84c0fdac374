"""Decode every video of a list to its end, in parallel, and report what is broken, missing or there twice.

Exit status: 0 if all are sound, 1 if one is broken or missing, 2 if nothing can be done, 130 after Ctrl-C.
"""

import argparse
import logging
import os
import sys

from svt_zoo.data.check import check_videos, default_report
from svt_zoo.data.lists import read_list


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", help="a list of videos in any format, or a folder of them")
    parser.add_argument("--report", help="file to write, .parquet or .csv (one in runs/ named after the list)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0 for none beside this")
    parser.add_argument("--again", action="store_true", help="decode also what an earlier run found sound")
    parser.add_argument("--root", help="what paths in the list are relative to; its own folder by default")
    parser.add_argument("--format", default="auto", help="of the list, if it is not recognised")
    parser.add_argument("--where", help="rows to take, such as split=train,set=ucf101")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        videos = read_list(args.list, root=args.root, format=args.format, where=args.where)
        target = args.report or default_report(args.list)
        report = check_videos(videos, target, workers=args.workers, again=args.again)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(report.describe())
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
