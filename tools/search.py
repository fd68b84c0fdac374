"""Find the rows of a table of features that are most like a video, a part of it or an image; or near-duplicates.

`python tools/search.py FEATURES.parquet QUERY --sheet neighbours.png`
"""

import argparse
import csv
import sys

from svt_zoo import VideoReadError, WeightsError
from svt_zoo.data.jobs import output_file
from svt_zoo.inference.captions import printable
from svt_zoo.inference.feature_table import FeatureTable
from svt_zoo.inference.neighbours import neighbour_sheet
from svt_zoo.inference.search import find_duplicates, overlapping, query_feature, search


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", help="what tools/extract_features.py wrote")
    parser.add_argument("query", nargs="?", help="a video, a URL of one, or an image")
    parser.add_argument("--start", type=float, help="only the part of the video from here, in seconds")
    parser.add_argument("--end", type=float, help="only the part of the video before this, in seconds")
    parser.add_argument("--top", type=int, default=10, help="how many rows to show")
    parser.add_argument("--model", help="the table's weights, if they have moved")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    parser.add_argument("--faiss", action="store_true", help="use an index, kept beside the table (approximate)")
    parser.add_argument("--sheet", help="picture (.png, .jpg) of the query and its neighbours to write")
    parser.add_argument("--duplicates", type=float, metavar="SIMILARITY", help="list pairs at least so much alike")
    parser.add_argument("--report", help="file (.csv) to write all pairs to")
    args = parser.parse_args(argv)
    if (args.query is None) == (args.duplicates is None):
        parser.error("give a query, or --duplicates SIMILARITY")
    if args.top < 1:
        parser.error(f"--top starts at 1, got {args.top}")
    try:
        sheet = output_file(args.sheet, ".png", ".jpg") if args.sheet else None
        report = output_file(args.report, ".csv") if args.report else None
        table = FeatureTable(args.features)
        if args.query is None:
            pairs = find_duplicates(table, args.duplicates)
            print(f"{len(pairs)} pairs with a similarity of {args.duplicates} or more")
            lines = [(f"{similarity:.4f}", *first[:3], *second[:3]) for similarity, first, second in pairs]
            for line in lines[:20]:
                print(f"{line[0]}  {printable(line[1])}  {printable(line[4])}")
            if report:
                with report.open("w", encoding="utf-8", newline="") as file:
                    names = [f"{name}_{side}" for side in (1, 2) for name in ("video", "start_sec", "end_sec")]
                    csv.writer(file).writerows([("similarity", *names), *lines])
            return 0
        part = {"start_sec": args.start, "end_sec": args.end}
        feature = query_feature(table, args.query, **part, model=args.model, device=args.device)
        without = overlapping(table, args.query, **part)
        neighbours = search(table, feature, top=args.top, without=without, use_faiss=args.faiss)
        for similarity, row in neighbours:
            print(f"{similarity:.4f}  {printable(row.video)}  {row.start_sec:.2f} to {row.end_sec:.2f} s")
        if sheet:
            neighbour_sheet(table, args.query, neighbours, **part).save(sheet)
            print(f"picture: {sheet}")
    except (VideoReadError, WeightsError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
