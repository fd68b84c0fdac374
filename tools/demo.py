"""The main path in miniature: a model through torch.hub, features of videos, and a picture of what it looks at."""

import argparse
import sys
from pathlib import Path

import av
import numpy as np
import torch

import svt_zoo
from svt_zoo.data.lists import read_list
from svt_zoo.inference.visualize import visualize_attention

ROOT = Path(__file__).resolve().parents[1]
DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1)}


def encode_moving_disc(path: Path, direction: tuple[int, int], *, num_frames: int = 60, size: int = 224) -> None:
    """Write two seconds of a disc that crosses a noisy background."""
    noise = np.random.default_rng(0).integers(40, 90, (size, size, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:size, :size]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
        for t in range(num_frames):
            way = (t / (num_frames - 1) - 0.5) * 0.55 * size
            row, column = (size / 2 + step * way for step in direction)
            frame = noise.copy()
            frame[(rows - row) ** 2 + (columns - column) ** 2 < (size / 9) ** 2] = (250, 180, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", help="a folder of your own videos; without it three are made")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where the files go")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.videos:
        videos = [row.path for row in read_list(args.videos, format="folder").rows][:8]
    else:
        videos = [str(args.output / f"disc_{name}.mp4") for name in DIRECTIONS]
        for path, direction in zip(videos, DIRECTIONS.values(), strict=True):
            encode_moving_disc(Path(path), direction)
    try:
        model, weights = torch.hub.load(str(ROOT), "svt_vitb_k400", source="local"), "SVT's weights"
    except svt_zoo.WeightsError as error:
        print(f"no trained weights here: {error}\ngoing on with random ones, which shows the path and nothing more\n")
        model = torch.hub.load(str(ROOT), "svt_vitb_k400", source="local", pretrained=False)
        weights = "random weights"
    rows, readable = [], []
    for path in videos:
        try:
            rows.append(svt_zoo.embed(path, model=model))
            readable.append(path)
        except svt_zoo.VideoReadError as error:
            print(f"left out: {error}")
    if not rows:
        print(f"error: no readable video in {args.videos}", file=sys.stderr)
        return 2
    features = torch.nn.functional.normalize(torch.cat(rows))
    print(f"{len(readable)} videos -> features {tuple(features.shape)} ({weights}); cosine similarity:")
    for path, row in zip(readable, features @ features.T, strict=True):
        print(f"  {Path(path).name:30.30s} " + " ".join(f"{value:6.3f}" for value in row.tolist()))
    movie, picture = visualize_attention(readable[0], {f"SVT ViT-B\n{weights}": model}, args.output / "attention")
    print(f"what it looks at: {picture} and {movie}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
