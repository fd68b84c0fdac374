"""Commands about videos: check, prepare, index, preview."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .arguments import add_list, add_recipe, add_workers, positive, print_failures, read_videos


def add_check(parser: ArgumentParser) -> None:
    add_list(parser, help="a list of videos in any format, a folder of videos, or one video")
    parser.add_argument("--report", help="file to write, .parquet or .csv (by default in runs/, named after the list)")
    parser.add_argument("--again", action="store_true", help="decode again what an earlier run found to be ok")
    add_workers(parser)


def check(args: Namespace) -> int:
    """Decode every video of a list and report broken, missing and duplicate files.

    The exit status is 1 if a video is broken or missing.
    """
    from ..data.check import check_videos, default_report
    from ..files import output_file

    videos = read_videos(args, args.list)
    target = output_file(args.report or default_report(args.list), ".parquet", ".csv", keep=[args.list])
    report = check_videos(videos, target, workers=args.workers, again=args.again)
    print(report.describe())
    return 0 if report.sound else 1


def add_prepare(parser: ArgumentParser) -> None:
    add_list(parser, help="a list of videos in any format, a folder of videos, or one video")
    parser.add_argument("--output", required=True, help="folder for the new videos and the new list")
    parser.add_argument("--short-side", type=int, default=256, help="pixels; never enlarges (%(default)s)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--intra", action="store_true", help="only key frames: a little faster, 2 to 4 times larger")
    mode.add_argument("--frames", action="store_true", help="folders of JPEG images, the largest by far")
    parser.add_argument("--crf", type=int, default=20, help="quality of H.264, 0 to 51, lower is better (%(default)s)")
    parser.add_argument("--preset", default="fast", help="of x264, ultrafast to veryslow (%(default)s)")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="of the images, 1 to 95 (%(default)s)")
    parser.add_argument("--all", action="store_true", help="also files whose copies read slower and are not smaller")
    add_workers(parser)


def prepare(args: Namespace) -> int:
    """Re-encode videos for training: small, without sound, quick to decode.

    The exit status is 1 if a video cannot be read.
    """
    from ..data.encode import Encoding
    from ..data.prepare import prepare_videos

    encoding = Encoding(
        mode="frames" if args.frames else "intra" if args.intra else "short",
        short_side=args.short_side,
        crf=args.crf,
        preset=args.preset,
        jpeg_quality=args.jpeg_quality,
    )
    videos = read_videos(args, args.list)
    name = "list" if Path(args.list).is_dir() else Path(args.list).stem
    made = prepare_videos(videos, args.output, encoding, name=name, workers=args.workers, skip_slower=not args.all)
    print(f"{made.summary()}\nlist: {made.list}")
    rest = f"all failures: {made.failure_list}; their rows are in the list without a video"
    return print_failures(made.failures, rest if made.failures else "")


def add_index(parser: ArgumentParser) -> None:
    add_list(parser, help="a list of videos in any format, or a folder of videos; a path or a URL")
    parser.add_argument("--again", action="store_true", help="write also the indexes that exist")
    add_workers(parser)


def index(args: Namespace) -> int:
    """Write an index beside each video, so that training can read it from an object store in parts.

    The exit status is 1 if a video cannot be read or its index cannot be written.
    """
    from ..data.index import index_videos

    report = index_videos(read_videos(args, args.list), workers=args.workers, again=args.again)
    print(report.summary())
    more = len(report.failures) - 20
    return print_failures(report.failures, f"... and {more} more" if more > 0 else "")


def add_preview(parser: ArgumentParser) -> None:
    add_recipe(parser, "svt/vitb_k400", overrides="data.train=/videos views.hflip=0")
    parser.add_argument("--videos", type=positive, default=2, help="how many videos to show (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/preview.png"), help="the picture (%(default)s)")


def preview(args: Namespace) -> int:
    """Draw the views that a recipe trains on: a picture with one row per view."""
    from ..config import load_recipe
    from ..data.datasets import training_dataset
    from ..inference.pictures import preview_sheet
    from ..training.objectives import OBJECTIVES

    recipe = load_recipe(args.recipe, args.overrides)
    dataset = training_dataset(recipe.data, recipe.views, seed=recipe.run.seed)
    indices = range(0, len(dataset), max(1, len(dataset) // args.videos))[: args.videos]
    picture = preview_sheet(dataset, indices, OBJECTIVES[recipe.method](recipe).augment)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output)
    print(f"{args.output}: {len(indices)} of {len(dataset)} videos, one row per view")
    return 0
