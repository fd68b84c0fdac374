"""How far flow in torch agrees with OpenCV's on real videos, patch by patch, and what either costs.

    python benchmarks/flow.py VIDEO_OR_FOLDER ... --output benchmarks/results

Eight frames of each video, at three distances, 112 pixels square; the labels are those of 16 x 16 patches. Needs
OpenCV (`pip install opencv-python-headless`).
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from svt_zoo.data.flow import absolute_directions, farneback_flow, patch_means, torch_flow
from svt_zoo.data.transforms import crop_and_resize
from svt_zoo.data.video import VideoReadError, open_video

METHODS = {"farneback": farneback_flow, "torch": torch_flow}


def clips(paths: Iterable[Path], step: int, size: int = 112) -> Iterable[Tensor]:
    """Grey frames (8, size, size) of each video, `step` frames apart."""
    for path in paths:
        try:
            with open_video(path) as video:
                frames = video.frames_at(range(0, min(video.num_frames, 8 * step), step))
        except VideoReadError:
            continue
        height, width = frames.shape[1:3]
        side = min(height, width)
        square = crop_and_resize(frames, ((height - side) // 2, (width - side) // 2, side, side), size)
        if len(square) > 1:
            yield square.float() @ torch.tensor([0.299, 0.587, 0.114])


def compare(paths: list[Path], step: int) -> dict[str, float]:
    """Agreement on patches that move more than 1 pixel by OpenCV, and on those that move less than 0.25."""
    same = moving = quiet = still = 0
    seconds = dict.fromkeys(METHODS, 0.0)
    for gray in clips(paths, step):
        motion = {}
        for name, flow in METHODS.items():
            started = time.process_time()
            motion[name] = patch_means(flow(gray[1:], gray[:-1]), 16)
            seconds[name] += time.process_time() - started
        length = motion["farneback"].norm(dim=-1)
        theirs, ours = (absolute_directions(motion[name], 1.0) for name in METHODS)
        same += int((theirs == ours)[length > 1].sum())
        moving += int((length > 1).sum())
        quiet += int((ours == 0)[length < 0.25].sum())
        still += int((length < 0.25).sum())
    return {
        "moving_patches": moving,
        "agreement": round(100 * same / max(moving, 1), 1),
        "still_patches": still,
        "still_without_direction": round(100 * quiet / max(still, 1), 1),
        "times_slower": round(seconds["torch"] / max(seconds["farneback"], 1e-9), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+", help="files, or folders of which all *.mp4 are taken")
    parser.add_argument("--every", type=int, default=1, help="take every n-th video")
    parser.add_argument("--output", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    paths = [path for given in args.videos for path in ([given] if given.is_file() else sorted(given.rglob("*.mp4")))]
    result = {f"frames {step} apart": compare(paths[:: args.every], step) for step in (1, 2, 4)}
    print(f"{len(paths[:: args.every])} videos")
    print("| | moving patches | agreement | still patches without direction | torch / OpenCV time |")
    print("|---|---|---|---|---|")
    for name, r in result.items():
        cells = f"{r['moving_patches']} | {r['agreement']} % | {r['still_without_direction']} %"
        print(f"| {name} | {cells} | {r['times_slower']} |")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        about = {"videos": len(paths[:: args.every]), "device": platform.machine(), "torch": torch.__version__}
        (args.output / "flow_cpu.json").write_text(json.dumps({**about, **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
