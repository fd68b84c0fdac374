"""Commands that apply a model: embed, predict, visualize, extract, serve, export."""

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import cast

from .arguments import (
    CLASSIFIER,
    FEATURES_MODEL,
    add_device,
    add_list,
    add_model,
    add_views,
    load_network,
    positive,
    read_videos,
)


def add_embed(parser: ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", help="video files, or folders of them")
    parser.add_argument("-o", "--output", help="file to write: .npy, or .csv with the path in the first column")
    add_model(parser, FEATURES_MODEL)
    add_views(parser)
    add_device(parser)


def embed(args: Namespace) -> int:
    """Print or write the features of videos, one row per video.

    The exit status is 1 if a video cannot be read. Its row in the file is NaN.
    """
    import torch

    from ..evaluation.features import prepare
    from ..files import output_file
    from ..inference.predict import embed as features_of
    from ..inference.predict import write_features
    from ..video import VideoReadError

    target = output_file(args.output, ".npy", ".csv") if args.output else None
    model, device, dtype = prepare(load_network(args), args.device, args.dtype)
    paths, rows, failed = _files(args.videos), [], 0
    for path in paths:
        try:
            (feature,) = features_of(path, model=model, device=device, dtype=dtype, views=args.views)
        except VideoReadError as error:
            print(f"error: {error}", file=sys.stderr)
            feature, failed = torch.full((cast(int, model.embed_dim),), torch.nan), failed + 1
        else:
            if target is None:
                start = ", ".join(f"{value:.3f}" for value in feature[:4].tolist())
                print(f"{path}: {len(feature)} numbers: {start}, ... (norm {feature.norm():.2f})", flush=True)
        rows.append(feature)
    if target:
        write_features(target, paths, torch.stack(rows))
        print(f"{target}: {len(rows)} features of {len(rows[0])} numbers, {failed} failed")
    return 1 if failed else 0


def _files(paths: list[str]) -> list[str]:
    """The video files in `paths`: those named directly, and those inside folders."""
    from ..data.list_files import find_videos
    from ..files import is_url

    files: list[str] = []
    for path in paths:
        if is_url(path):
            raise ValueError(f"{path}: this command reads local files; svt-zoo extract reads URLs")
        inside = [os.path.join(path, name) for name in find_videos(path)] if os.path.isdir(path) else [path]
        if not inside:
            raise ValueError(f"{path}: no video in this folder")
        files += inside
    return files


def add_predict(parser: ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", help="video files, or folders of them")
    parser.add_argument("--top", type=positive, default=5, help="how many classes to print (%(default)s)")
    add_model(parser, CLASSIFIER)
    add_views(parser)
    add_device(parser)


def predict(args: Namespace) -> int:
    """Print the most likely classes of videos.

    The exit status is 1 if a video cannot be read. The others are printed.
    """
    from ..evaluation.features import prepare
    from ..inference.predict import predict as predictions_of
    from ..video import VideoReadError

    model, device, dtype = prepare(load_network(args, num_classes=None), args.device, args.dtype)
    options = {"top": args.top, "device": device, "dtype": dtype, "views": args.views}
    failed = 0
    for path in _files(args.videos):
        try:
            (found,) = predictions_of(path, model=model, **options)
        except VideoReadError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
        else:
            lines = [f"  {score:6.1%}  {label}" for label, score in zip(found.labels, found.scores, strict=True)]
            print(path, *lines, sep="\n", flush=True)
    return 1 if failed else 0


def add_visualize(parser: ArgumentParser) -> None:
    parser.add_argument("video", help="a video file")
    add_model(parser, FEATURES_MODEL)
    parser.add_argument("--no-pretrained", action="store_true", help="random weights, to try the program")
    text = "more models, below the first; dino is the one of the same size"
    parser.add_argument("--compare", nargs="+", default=[], metavar="NAME", help=text)
    text = "attention of the last block, or through all blocks (%(default)s)"
    parser.add_argument("--method", choices=["last", "rollout"], default="last", help=text)
    parser.add_argument("--num-frames", type=positive, help="frames of the clip; by default the model's own")
    parser.add_argument("--img-size", type=positive, help="side of the crop in pixels; by default the model's own")
    parser.add_argument("--output", default=".", help="folder, or stem of the two files (here)")


def visualize(args: Namespace) -> int:
    """Show what a model attends to in a video: an MP4 with the attention beside the frames, and a PNG."""
    from ..inference.visualize import load_models, visualize_attention

    models = load_models(
        args.model or args.default_model,
        weights=args.weights,
        pretrained=not args.no_pretrained,
        compare=args.compare,
        num_frames=args.num_frames,
        img_size=args.img_size,
    )
    for path in visualize_attention(args.video, models, args.output, method=args.method):
        print(path)
    return 0


def add_extract(parser: ArgumentParser) -> None:
    add_list(parser, "videos", help="a list in any format, a folder, a URL of either, or one video")
    parser.add_argument("-o", "--output", default="runs/features.parquet", help="file or URL to write (%(default)s)")
    add_model(parser, FEATURES_MODEL)
    add_views(parser)
    parser.add_argument("--every", type=float, help="seconds from row to row; by default one row per video")
    parser.add_argument("--tokens", choices=["frames", "patches"], help="the mean patch of each frame, or all patches")
    parser.add_argument("--half", action="store_true", help="write float16 instead of float32")
    parser.add_argument("--engine", default="local", choices=["local", "ray"], help="where it runs (%(default)s)")
    add_device(parser, dtype="float32")
    parser.add_argument("--batch-size", type=int, default=8, help="rows that are computed at once (%(default)s)")
    parser.add_argument("--workers", type=int, help="processes that read videos; by default one per core")
    text = "videos that are computed again at most after a kill (%(default)s)"
    parser.add_argument("--shard-size", type=int, default=64, help=text)


def extract(args: Namespace) -> int:
    """Write the features of a collection of videos to a Parquet table.

    After an interruption, the same command continues. Under torchrun, several processes share the work. A video that
    cannot be read becomes a row with the reason. The exit status is 1 if no video can be read.
    """
    from .. import distributed
    from ..device import choose_device
    from ..inference.extract import extract_features
    from ..inference.feature_table import FeatureTable

    device = distributed.init(choose_device(args.device))
    try:
        summary = extract_features(
            load_network(args),
            read_videos(args, args.videos),
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
    finally:
        distributed.shutdown()
    print(summary)
    if summary.complete and not isinstance(summary.output, str) and not FeatureTable(summary.output).has_features():
        print(f"error: no video could be read; see column `error` of {summary.output}", file=sys.stderr)
        return 1
    return 0


def add_serve(parser: ArgumentParser) -> None:
    text = f"weights, a path or an address; by default those of --features, without it {CLASSIFIER}"
    parser.add_argument("--model", help=text)
    parser.add_argument("--features", help="a table that svt-zoo extract wrote with this model: shows neighbors")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port of the page (%(default)s)")
    parser.add_argument("--max-megabytes", type=int, default=100, help="of an upload (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=300, help="of a video (%(default)s)")
    parser.add_argument("--max-pixels", type=int, default=4096 * 2304, help="of a frame (%(default)s)")


def serve(args: Namespace) -> int:
    """Show a page in the browser: drop a video, see its classes or neighbors and the model's attention."""
    import threading
    from dataclasses import replace

    from ..inference.serve import UPLOAD_LIMITS
    from ..inference.serve import serve as serve_page

    limits = replace(UPLOAD_LIMITS, max_duration=args.max_seconds, max_pixels=args.max_pixels)
    options = {"features": args.features, "host": args.host, "port": args.port, "limits": limits}
    try:
        with serve_page(args.model, max_bytes=args.max_megabytes * 1_000_000, **options) as address:
            print(f"the page is at {address}; Ctrl-C ends it", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    return 0


def add_export(parser: ArgumentParser) -> None:
    add_model(parser, FEATURES_MODEL)
    formats = ["torch_export", "aotinductor", "onnx", "transformers", "original", "svt_zoo"]
    parser.add_argument("--format", default="onnx", choices=formats, help="of the output (%(default)s)")
    parser.add_argument("--output", required=True, help="the file (.pt2, .onnx, .pth) or folder to write")
    text = "of the linear layers; int8 is for CPUs and for the formats onnx and svt_zoo (%(default)s)"
    parser.add_argument("--dtype", default="float32", choices=["float32", "int8"], help=text)
    parser.add_argument("--num-frames", type=positive, help="frames of the clip; by default the model's own")
    parser.add_argument("--img-size", type=positive, help="side of the clip in pixels; by default the model's own")
    parser.add_argument("--features", action="store_true", help="without the classifier, even if there is one")


def export(args: Namespace) -> int:
    """Export a model as a program, as ONNX, for transformers, for the original code or for svt_zoo, and check it."""
    from ..hub.download import sha256_of
    from ..hub.loading import WEIGHTS_NAME
    from ..hub.publish import save_pretrained
    from ..inference.export import export_program
    from ..inference.export_transformers import export_transformers
    from ..inference.export_weights import export_original

    if args.dtype == "int8" and args.format not in ("onnx", "svt_zoo"):
        raise ValueError(f"--dtype int8 is for --format onnx and svt_zoo, got --format {args.format}")
    size = {"num_frames": args.num_frames, "img_size": args.img_size}
    model = load_network(args, num_classes=0 if args.features else None, **size)
    if args.format == "svt_zoo":
        file = save_pretrained(model, args.output, dtype=args.dtype) / WEIGHTS_NAME
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB in {args.dtype}, sha256 {sha256_of(file)}")
        return 0
    if args.format == "original":
        print(f"{export_original(model, args.output)}: the names of the original code; reads back with equal tensors")
        return 0
    if args.format == "transformers":
        exported = export_transformers(model, args.output)
    else:
        exported = export_program(model, args.output, args.format, dtype=args.dtype)
    print(f"{exported.path}: free are {', '.join(exported.free)}")
    shapes = ", ".join("x".join(map(str, shape)) for shape in exported.shapes)
    print(f"largest difference to the network {exported.max_difference:.1e} in float32, at {shapes}")
    if args.dtype == "int8":
        print(f"least cosine similarity to the network in int8: {exported.cosine:.5f}")
    return 0
