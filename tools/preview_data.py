"""Draw the views that a recipe trains on: one row a view, with its frames, as a PNG."""

import argparse
import sys
from pathlib import Path

from PIL import Image

from svt_zoo import VideoReadError
from svt_zoo.config import load_recipe
from svt_zoo.data.build import training_dataset
from svt_zoo.data.preview import augmented_views, views_sheet
from svt_zoo.training.pieces import PIECES


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a file below configs/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as data.train=/videos views.hflip=0"
    )
    parser.add_argument("--videos", type=int, default=2, help="how many videos to show")
    parser.add_argument("--output", type=Path, default=Path("runs/preview.png"), help="the picture")
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        views, seed = recipe.views, recipe.run.seed
        dataset = training_dataset(recipe.data, views, seed=seed)
        augment = PIECES[recipe.method].augment(recipe)
        sheets = []
        for index in range(0, len(dataset), max(1, len(dataset) // args.videos))[: args.videos]:
            clips = augmented_views(dataset, index, augment)
            names = [
                f"{Path(dataset.videos.rows[index].path).name}: "
                f"{'clip' if len(clips) == 1 else 'global view' if i < 2 else 'local view'} {i + 1}, "
                f"{clip.shape[1]} frames of {clip.shape[2]}x{clip.shape[3]}"
                for i, clip in enumerate(clips)
            ]
            sheets.append(views_sheet(clips, names=names, mean=views.mean, std=views.std))
    except (VideoReadError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    picture = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    for i, sheet in enumerate(sheets):
        picture.paste(sheet, (0, sum(s.height for s in sheets[:i])))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output)
    print(f"{args.output}: {len(sheets)} of {len(dataset)} videos, one row a view")
    return 0


if __name__ == "__main__":
    sys.exit(main())
