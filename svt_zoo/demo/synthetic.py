"""Short videos whose class is a motion and nothing else: what `make demo` trains on.

A light drifts over a frame whose edges are joined, left to right and top to bottom. Its class is the line it drifts
along: sideways, upright, or one of the two diagonals. Where it starts, which of the two ways it goes, its size, its
colors and everything behind it are drawn at random, the looks anew for each frame. So

- one frame says nothing: in every class, at every time, the light may be anywhere and look like anything;
- what two parts of a video share is the line alone, and at any frame rate it is the same line;
- a mirror turns one diagonal into the other: such videos allow no flips.
"""

from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from ..data.jobs import progress, run
from ..files import atomic

# Name of a class -> the way that the light goes, in frame widths to the right and frame heights down.
MOTIONS: dict[str, tuple[int, int]] = {
    "sideways": (1, 0),
    "upright": (0, 1),
    "falling diagonal": (1, 1),
    "rising diagonal": (1, -1),
}
_RADIUS = (0.15, 0.20)  # of the light, in frame widths
_EDGE = 0.03  # width of its soft edge, in frame widths
_CELLS = 4  # patches of color along a side of the background
_BACKGROUND, _LIGHT = (0.10, 0.12, 0.25), (0.95, 0.85, 0.60)  # mean colors, in [0, 1]
_TONE, _TEXTURE = 0.04, 0.06  # how far the color of a frame, and of a place in it, strays from that


def drift(motion: str, rng: np.random.Generator, num_frames: int) -> NDArray[np.float64]:
    """Where the light is in each frame: (num_frames, 2), right and down, in [0, 1); it crosses the frame once."""
    way = np.array(MOTIONS[motion]) * rng.choice([-1, 1])
    times = np.arange(num_frames)[:, None] / num_frames  # (T, 1)
    places: NDArray[np.float64] = (rng.random(2) + way * times) % 1.0
    return places


def paint(places: NDArray[np.float64], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Frames (T, size, size, 3) with a light at `places` (T, 2); its looks and the background are new in each."""
    num_frames = len(places)
    centres = (np.arange(size) + 0.5) / size
    right = (centres - places[:, :1] + 0.5) % 1.0 - 0.5  # (T, W): distance from the light, over the edge if shorter
    down = (centres - places[:, 1:] + 0.5) % 1.0 - 0.5  # (T, H)
    distance = np.sqrt(right[:, None, :] ** 2 + down[:, :, None] ** 2)  # (T, H, W)
    radius = rng.uniform(*_RADIUS, (num_frames, 1, 1))
    light = 1 / (1 + np.exp((distance - radius) / _EDGE))[..., None]  # (T, H, W, 1): 1 inside
    frames = (
        _colours(rng, num_frames, size, _BACKGROUND) * (1 - light) + _colours(rng, num_frames, size, _LIGHT) * light
    )
    return (frames * 255).round().clip(0, 255).astype(np.uint8)


def _colours(
    rng: np.random.Generator, num_frames: int, size: int, colour: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Smooth patches around `colour`, with a tone of its own in each frame, in [0, 1]: (T, size, size, 3)."""
    tone = rng.uniform(-_TONE, _TONE, (num_frames, 1, 1, 3))
    cells = rng.uniform(-_TEXTURE, _TEXTURE, (num_frames, _CELLS, _CELLS, 3))
    colours = ((np.array(colour) + tone + cells).clip(0, 1) * 255).astype(np.uint8)
    smooth = [np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in colours]
    return np.stack(smooth) / 255


def make_videos(
    folder: Path, *, per_class: int, seed: int, num_frames: int = 32, size: int = 64, fps: int = 16, workers: int = 0
) -> None:
    """Write `per_class` H.264 files of each class into `folder/<class>/`; files that are there stay as they are.

    A run that was stopped goes on: each file appears when it is complete, and depends on the seed, its class and its
    number alone.

    Args:
        folder: of the class folders; another seed's videos belong into another one.
        per_class: videos of each class.
        seed: of everything that is drawn.
        num_frames, size, fps: of a video: frames, pixels along either side (an even number), frames a second.
        workers: processes that write; 0 writes in this one.

    Raises:
        OSError: a file cannot be written.
    """
    tasks = [
        (path, motion, (seed, number, i))
        for number in range(per_class)
        for i, motion in enumerate(MOTIONS)
        if not (path := folder / motion.replace(" ", "_") / f"{number:04d}.mp4").exists()
    ]
    work = partial(_make_video, num_frames=num_frames, size=size, fps=fps)
    for done in progress(run(work, tasks, workers=workers), len(tasks)):
        if done.result is None:
            raise OSError(f"{done.task[0]} cannot be written: {done.reason}")


def _make_video(task: tuple[Path, str, tuple[int, ...]], *, num_frames: int, size: int, fps: int) -> Path:
    path, motion, seed = task
    rng = np.random.default_rng(seed)
    frames = paint(drift(motion, rng, num_frames), rng, size)
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        # x264's assembly gives other bits for so small frames at times, by what happens to lie beside them in memory.
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
