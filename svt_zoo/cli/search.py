"""Commands that read a table of features: search, search-index, dedup."""

from argparse import ArgumentParser, Namespace

from .arguments import add_list, positive, read_videos


def add_search(parser: ArgumentParser) -> None:
    parser.add_argument("features", help="a table that svt-zoo extract wrote")
    parser.add_argument("query", help="a video, a URL of one, or an image")
    parser.add_argument("--start", type=float, help="only the part of the video from here, in seconds")
    parser.add_argument("--end", type=float, help="only the part of the video before this, in seconds")
    parser.add_argument("--top", type=positive, default=10, help="how many rows to print (%(default)s)")
    parser.add_argument("--model", help="the table's weights, if they have moved")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the GPU if there is one")
    parser.add_argument("--faiss", action="store_true", help="use the index of svt-zoo search-index; built if absent")
    parser.add_argument("--sheet", help="picture (.png, .jpg) of the query and its neighbors to write")


def search(args: Namespace) -> int:
    """Find the rows of a table of features that are most similar to a video or an image."""
    from ..data.list_formats import printable
    from ..files import output_file
    from ..inference.feature_table import FeatureTable
    from ..inference.pictures import neighbor_sheet
    from ..inference.search import overlapping, query_feature
    from ..inference.search import search as find_neighbors

    sheet = output_file(args.sheet, ".png", ".jpg", keep=[args.query]) if args.sheet else None
    table = FeatureTable(args.features)
    part = {"start_sec": args.start, "end_sec": args.end}
    feature = query_feature(table, args.query, **part, model=args.model, device=args.device)
    without = overlapping(table, args.query, **part)
    neighbors = find_neighbors(table, feature, top=args.top, without=without, use_faiss=args.faiss)
    for similarity, row in neighbors:
        print(f"{similarity:.4f}  {printable(row.video)}  {row.start_sec:.2f} to {row.end_sec:.2f} s")
    if sheet:
        neighbor_sheet(table, args.query, neighbors, **part).save(sheet)
        print(f"picture: {sheet}")
    return 0


def add_search_index(parser: ArgumentParser) -> None:
    parser.add_argument("features", help="a table that svt-zoo extract wrote")


def search_index(args: Namespace) -> int:
    """Build the index that svt-zoo search --faiss uses, for a table of many rows.

    After an interruption, the same command continues. Needs faiss.
    """
    from ..inference.feature_table import FeatureTable
    from ..inference.search_index import open_index

    index = open_index(FeatureTable(args.features))
    facts = index.facts
    print(
        f"{index.path}: {facts['rows']} rows in {facts['cells']} cells, {index.path.stat().st_size / 1e6:.0f} MB; "
        f"a query reads {facts['nprobe']} cells; half of them give {facts['recall']:.1%} of the 10 nearest rows"
    )
    return 0


def add_dedup(parser: ArgumentParser) -> None:
    parser.add_argument("features", help="a table that svt-zoo extract wrote")
    parser.add_argument("-o", "--output", default="runs/kept.csv", help="list to write, for training (%(default)s)")
    text = "cosine similarity from which two rows are duplicates (%(default)s)"
    parser.add_argument("--similarity", type=float, default=0.95, help=text)
    add_list(parser, "--list", help="the list that the table was made from: writes its labels, groups and times too")
    parser.add_argument("--sheet", help="picture (.png, .jpg) of pairs to write: kept above, removed below")
    parser.add_argument("--report", help="file (.csv) to write all removed rows to, each with the row that is kept")


def dedup(args: Namespace) -> int:
    """Write a list of videos without near-duplicates, from a table of their features.

    Beyond 10,000 rows it needs faiss, and compares only rows in the same clusters. Rows of one video are not compared.
    """
    from ..data.list_formats import printable, write_table
    from ..files import output_file
    from ..inference.dedup import check_list, find_duplicates, write_kept
    from ..inference.feature_table import FeatureTable
    from ..inference.pictures import duplicate_sheet

    output = output_file(args.output, ".csv", keep=[args.list])
    sheet = output_file(args.sheet, ".png", ".jpg") if args.sheet else None
    report = output_file(args.report, ".csv", keep=[args.list, output]) if args.report else None
    table = FeatureTable(args.features)
    videos = read_videos(args, args.list) if args.list else None
    check_list(table, videos)
    found = find_duplicates(table, args.similarity)
    kept = write_kept(table, found, output, videos)
    failed = len(table) - len(table.vectors.numbers)
    order = found.similarity.argsort()[::-1]
    pairs = list(
        zip(found.similarity[order], table.rows(found.kept[order]), table.rows(found.removed[order]), strict=True)
    )
    for similarity, first, second in pairs[:20]:
        print(f"{similarity:.4f}  {printable(first.video)}  {printable(second.video)}")
    print(f"{output}: {kept} of {len(table)} rows; {len(pairs)} duplicates and {failed} without a feature left out")
    if report:
        names = [f"{name}_{side}" for side in ("kept", "removed") for name in ("video", "start_sec", "end_sec")]
        write_table(report, ("similarity", *names), ((f"{found:.4f}", *a[:3], *b[:3]) for found, a, b in pairs))
    if sheet and pairs:
        duplicate_sheet(table, found).save(sheet)
        print(f"picture: {sheet}")
    return 0
