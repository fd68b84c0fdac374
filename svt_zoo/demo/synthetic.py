"""Makes short synthetic videos whose class is only a motion; `make demo` trains on them.

A light drifts over a frame and reenters at the opposite edge. The class is the line of the motion: horizontal,
vertical, or one of the two diagonals. Start, direction along the line, size, colors and background are random; size,
colors and background change with each frame. So

- one frame has no information: in every class, at every time, the light can have any position and appearance;
- two parts of a video have only the line in common, and it is the same line at any frame rate;
- a mirror image turns one diagonal into the other, so such videos allow no flips.
"""

from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from ..data.pool import progress, run_tasks
from ..files import atomic

# Class name -> displacement of the light: frame widths to the right, frame heights down.
MOTIONS: dict[str, tuple[int, int]] = {
    "sideways": (1, 0),
    "upright": (0, 1),
    "falling diagonal": (1, 1),
    "rising diagonal": (1, -1),
}
_RADIUS = (0.15, 0.20)  # range of the radius of the light, in frame widths
_EDGE = 0.03  # width of its soft edge, in frame widths
_CELLS = 4  # color patches along a side of the background
_BACKGROUND, _LIGHT = (0.10, 0.12, 0.25), (0.95, 0.85, 0.60)  # mean colors, in [0, 1]
_TONE, _TEXTURE = 0.04, 0.06  # deviation from the mean color, per frame and per position


def drift(motion: str, rng: np.random.Generator, num_frames: int) -> NDArray[np.float64]:
    """Position of the light in each frame: (num_frames, 2), right and down, in [0, 1); it crosses the frame once."""
    way = np.array(MOTIONS[motion]) * rng.choice([-1, 1])
    times = np.arange(num_frames)[:, None] / num_frames  # (T, 1)
    places: NDArray[np.float64] = (rng.random(2) + way * times) % 1.0
    return places


def paint(places: NDArray[np.float64], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Frames (T, size, size, 3) with a light at `places` (T, 2); appearance and background change per frame."""
    num_frames = len(places)
    centers = (np.arange(size) + 0.5) / size
    right = (centers - places[:, :1] + 0.5) % 1.0 - 0.5  # (T, W): distance from the light, across the edge if shorter
    down = (centers - places[:, 1:] + 0.5) % 1.0 - 0.5  # (T, H)
    distance = np.sqrt(right[:, None, :] ** 2 + down[:, :, None] ** 2)  # (T, H, W)
    radius = rng.uniform(*_RADIUS, (num_frames, 1, 1))
    light = 1 / (1 + np.exp((distance - radius) / _EDGE))[..., None]  # (T, H, W, 1): 1 inside
    frames = _colors(rng, num_frames, size, _BACKGROUND) * (1 - light) + _colors(rng, num_frames, size, _LIGHT) * light
    return (frames * 255).round().clip(0, 255).astype(np.uint8)


def _colors(
    rng: np.random.Generator, num_frames: int, size: int, color: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Smooth patches around `color`, with a separate tone in each frame, in [0, 1]: (T, size, size, 3)."""
    tone = rng.uniform(-_TONE, _TONE, (num_frames, 1, 1, 3))
    cells = rng.uniform(-_TEXTURE, _TEXTURE, (num_frames, _CELLS, _CELLS, 3))
    colors = ((np.array(color) + tone + cells).clip(0, 1) * 255).astype(np.uint8)
    smooth = [np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in colors]
    return np.stack(smooth) / 255


def make_videos(
    folder: Path, *, per_class: int, seed: int, num_frames: int = 32, size: int = 64, fps: int = 16, workers: int = 0
) -> None:
    """Write `per_class` H.264 files of each class into `folder/<class>/`; existing files are not changed.

    A stopped run continues: a file appears only when it is complete. It depends only on the seed, its class and its
    number.

    Args:
        folder: parent of the class folders; use another folder for another seed.
        per_class: videos of each class.
        num_frames, size, fps: frames per video, pixels per side (an even number), frames per second.
        workers: processes that write; 0 writes in this one.
    """
    tasks = [
        (path, motion, (seed, number, i))
        for number in range(per_class)
        for i, motion in enumerate(MOTIONS)
        if not (path := folder / motion.replace(" ", "_") / f"{number:04d}.mp4").exists()
    ]
    work = partial(_make_video, num_frames=num_frames, size=size, fps=fps)
    for done in progress(run_tasks(work, tasks, workers=workers), len(tasks)):
        if done.result is None:
            raise OSError(f"{done.task[0]} cannot be written: {done.reason}")


def _make_video(task: tuple[Path, str, tuple[int, ...]], *, num_frames: int, size: int, fps: int) -> Path:
    path, motion, seed = task
    rng = np.random.default_rng(seed)
    frames = paint(drift(motion, rng, num_frames), rng, size)
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        # For small frames, x264's assembly code sometimes gives different bits, depending on adjacent memory.
        options = {"crf": "20", "preset": "veryfast", "x264-params": "asm=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        to_yuv = VideoReformatter()
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(to_yuv.reformat(frame, size, size, "yuv420p", threads=1)))
        container.mux(stream.encode())
    return path
