"""Measure how many videos per second one core turns into SVT's ten views: ours, hand-written pipelines, decoding alone.

    python benchmarks/loader.py VIDEO ... --output benchmarks/results

Each pipeline runs in its own process with one thread, as a loader's worker does. All take turns (A B C, then C B A,
...) on the same frames of the same videos. CPU time is measured, including threads and child processes. Ratios are
medians over the rounds. Memory is the peak of a process beyond its imports. ffmpeg runs if it is installed; its
start-up time, measured with a file of one tiny frame, is subtracted. Then the loader runs with one worker per core, in
wall time. Without a VIDEO, a synthetic one is used: 10 seconds of a moving texture.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from pytorchvideo.data.encoded_video import EncodedVideo
from torch import Tensor
from torchvision.transforms import v2

from svt_zoo.config import ViewsConfig
from svt_zoo.data import enable_pytorchvideo_transforms
from svt_zoo.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from svt_zoo.data.crops import ViewSpec
from svt_zoo.data.datasets import VideoDataset
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.data.loader import VideoLoader, collate
from svt_zoo.data.sampling import sample_rng
from svt_zoo.data.views import train_views
from svt_zoo.video import open_video

FFMPEG = "ffmpeg -threads 1, all frames"
OURS, OURS_FLOAT = "svt_zoo, uint8 views", "svt_zoo, float views"
V2, V2_FLOAT = "torchvision v2, uint8 views", "torchvision v2, float views"


def dataset_of(paths: Sequence[str]) -> VideoDataset:
    return VideoDataset(VideoList(tuple(Row(path) for path in paths)), train_views(ViewsConfig()), train=True)


one_video = cache(lambda path: dataset_of([path]))
augment = Augment()


def ours(path: str, number: int) -> list[Tensor]:
    """Crop and resize; the GPU does color, blur, flip and normalization."""
    views: list[Tensor] = one_video(path)[number, 0]["video"]
    return views


def ours_float(path: str, number: int) -> list[Tensor]:
    """The same views, with all augmentation on the CPU."""
    batch = collate([one_video(path)[number, 0]])
    return [augment(view, params) for view, params in zip(batch.views, batch.params, strict=True)]


def our_frames(path: str, number: int) -> Tensor:
    """Decode the frames of all views, without crop and resize."""
    with open_video(path) as video:
        return video.frames_at(sorted({i for view in indices_of(video.num_frames, number) for i in view}))


def indices_of(total: int, number: int) -> list[list[int]]:
    """The frame indices of each view that `ours` uses, for a video of `total` frames."""
    return ViewsConfig().sample(total, 30.0, sample_rng(0, number, 0))


def frames_by_hand(path: str, number: int) -> list[Tensor]:
    """The frames of each view, uint8 (T, 3, H, W): decoded from the start, converted if a view uses them."""
    with av.open(path) as container:
        indices = indices_of(container.streams.video[0].frames, number)
        images = {i: np.empty(0) for view in indices for i in view}
        for i, frame in enumerate(container.decode(video=0)):
            if i in images:
                images[i] = frame.to_ndarray(format="rgb24")
            if i == max(images):
                break
    return [torch.from_numpy(np.stack([images[i] for i in view])).permute(0, 3, 1, 2) for view in indices]


def view_by_hand(spec: ViewSpec, *, real: bool, colors: bool = True) -> v2.Compose:
    """One view with torchvision transforms; with `real`, input and output are floats, normalized at the end."""
    area, bicubic = spec.area or (1.0, 1.0), v2.InterpolationMode.BICUBIC
    steps: list[Any] = [v2.RandomResizedCrop(spec.size, area, spec.ratio, interpolation=bicubic, antialias=True)]
    if colors:
        jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
        steps += [v2.RandomHorizontalFlip(spec.hflip), v2.RandomApply([jitter], spec.jitter)]
        steps += [v2.RandomGrayscale(spec.grayscale), v2.RandomApply([v2.GaussianBlur(17, spec.blur_sigma)], spec.blur)]
        steps += [v2.RandomSolarize(0.5 if real else 128, spec.solarize)]
    return v2.Compose(steps + ([v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)] if real else []))


def torchvision_views(*, real: bool, colors: bool = True) -> Callable[[str, int], list[Tensor]]:
    """Decode with PyAV from the start, then apply one `Compose` per view."""
    transforms = [view_by_hand(spec, real=real, colors=colors) for spec in ViewsConfig().specs()]
    first: Callable[[Tensor], Tensor] = v2.ToDtype(torch.float32, scale=True) if real else v2.Identity()

    def run(path: str, number: int) -> list[Tensor]:
        frames = frames_by_hand(path, number)
        return [transform(first(clip)) for transform, clip in zip(transforms, frames, strict=True)]

    return run


def pytorchvideo_views() -> Callable[[str, int], list[Tensor]]:
    """Read the full clip with PyTorchVideo, then apply one `Compose` per view."""
    enable_pytorchvideo_transforms()
    from pytorchvideo.transforms import Div255

    transforms = [v2.Compose([Div255(), view_by_hand(spec, real=True)]) for spec in ViewsConfig().specs()]

    def run(path: str, number: int) -> list[Tensor]:
        video = EncodedVideo.from_path(path, decode_audio=False)
        clip = video.get_clip(0, video.duration)["video"].transpose(0, 1)  # (T, 3, H, W), float
        video.close()
        indices = indices_of(len(clip), number)
        return [transform(clip[view]) for transform, view in zip(transforms, indices, strict=True)]

    return run


def pyav_all(path: str, number: int) -> int:
    """Decode every frame with one thread, convert none."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(1 for _ in container.decode(video=0))


def ffmpeg(path: str, number: int) -> None:
    """Decode every frame with the program ffmpeg, without output."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", path, "-an", "-f", "null", "-"]
    subprocess.run(command, check=True)


@cache
def pipelines() -> dict[str, Callable[[str, int], Any]]:
    """The compared pipelines: name -> run(path, round)."""
    entries: dict[str, Callable[[str, int], Any]] = {
        OURS: ours,
        OURS_FLOAT: ours_float,
        V2: torchvision_views(real=False),
        V2_FLOAT: torchvision_views(real=True),
        "torchvision v2, uint8 crops alone": torchvision_views(real=False, colors=False),
        "PyTorchVideo, float views": pytorchvideo_views(),
        "svt_zoo, frames alone": our_frames,
        "PyAV, all frames": pyav_all,
    }
    return entries | ({FFMPEG: ffmpeg} if shutil.which("ffmpeg") else {})


def cpu_seconds() -> float:
    """CPU seconds of this process with all its threads, and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def seconds_of(name: str, path: str, number: int) -> float:
    """CPU seconds of one video, in a worker."""
    torch.set_num_threads(1)
    torch.manual_seed(number)
    run, start = pipelines()[name], cpu_seconds()
    run(path, number)
    return cpu_seconds() - start


def timed(paths: Sequence[str], tiny: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """CPU seconds per video of each pipeline in each round, after two warm-up rounds, and growth of memory in MB."""
    spawn = multiprocessing.get_context("spawn")
    workers = {name: ProcessPoolExecutor(1, mp_context=spawn) for name in pipelines()}
    for worker in workers.values():
        worker.submit(memory_at_start).result()
    runs = [(name, path) for path in paths for name in workers]
    seconds = {name: [0.0] * rounds for name in workers}
    for number in range(-2, rounds):
        for name, path in runs if number % 2 else runs[::-1]:
            spent = workers[name].submit(seconds_of, name, path, number + 2).result()
            if name == FFMPEG:
                spent -= workers[name].submit(seconds_of, name, tiny, 0).result()
            if number >= 0:
                seconds[name][number] += spent / len(paths)
    growth = {name: worker.submit(memory_growth).result() for name, worker in workers.items() if name != FFMPEG}
    for worker in workers.values():
        worker.shutdown()
    return seconds, growth


@cache
def memory_at_start() -> int:
    """Resident KB of this process after all imports; resets the peak."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def memory_growth() -> int:
    """Peak growth of the resident memory in MB."""
    return (resident("VmHWM") - memory_at_start()) // 1024


def resident(field: str) -> int:
    """A field of /proc/self/status, in KB; 0 on other systems."""
    file = Path("/proc/self/status")
    return int(re.findall(rf"{field}:\s+(\d+) kB", file.read_text())[0]) if file.exists() else 0


def all_cores(paths: Sequence[str], cores: int) -> float:
    """Videos per second of the loader in wall time, one worker per core; an earlier epoch starts the workers."""
    dataset = dataset_of(list(paths) * (48 * cores // len(paths)))
    loader = VideoLoader(dataset, batch_size=4, num_workers=cores, start_method="spawn", max_failure_fraction=0)
    videos = sum(len(batch) for batch in loader)
    start = time.perf_counter()
    videos = sum(len(batch) for batch in loader)
    return videos / (time.perf_counter() - start)


def synthetic_video(path: Path, num_frames: int, width: int, height: int) -> str:
    """Encode a moving texture with some noise, as H.264 with B-frames."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 120, (height // 8 + 40, width // 8 + 80, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, width=width, height=height, pix_fmt="yuv420p")
        for i in range(num_frames):
            image = texture[i : i + height, 2 * i : 2 * i + width]
            image = image + rng.integers(0, 8, image.shape, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", metavar="VIDEO")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--gpu-rate", type=float, default=48, help="videos per second that a GPU trains on")
    parser.add_argument("--output", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny = synthetic_video(Path(folder, "tiny.mp4"), 1, 64, 48)
        paths = args.videos or [synthetic_video(Path(folder, "made_up.mp4"), 300, 340, 256)]
        load = os.getloadavg()[0]
        seconds, growth = timed(paths, tiny, args.rounds)
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        loaded = all_cores(paths, cores)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "device": cpu_name(),
        "cores": cores,
        "load_before": round(load, 2),
        "versions": versions(),
        "videos": [Path(path).name for path in args.videos] or "made up",
        "rounds": args.rounds,
        **summary(seconds),
        "memory_growth_mb": growth,
        "all_cores_videos_per_second": round(loaded, 2),
        "cores_for_gpu": {f"{args.gpu_rate:g} videos per second": math.ceil(args.gpu_rate / (loaded / cores))},
    }
    show(result)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        file = args.output / "loader_cpu.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(file)
    return 0


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians, rates, and the ratio of each pipeline's CPU time to ours in the same round."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    def times(ours: str) -> dict[str, float]:
        return {
            name: round(statistics.median(v / own for v, own in zip(values, seconds[ours], strict=True)), 2)
            for name, values in seconds.items()
        }

    return {
        "milliseconds_per_video": {name: round(1000 * value, 1) for name, value in medians.items()},
        "videos_per_second_and_core": {name: round(1 / value, 2) for name, value in medians.items()},
        "times_the_cost_of_our_uint8_views": times(OURS),
        "times_the_cost_of_our_float_views": times(OURS_FLOAT),
    }


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", file.read_text()) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {name: version(name) for name in ("torch", "torchvision", "av", "pytorchvideo")}
    found["FFmpeg of av"] = av.ffmpeg_version_info
    if shutil.which("ffmpeg"):
        found["ffmpeg"] = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    return found


def show(result: dict[str, Any]) -> None:
    print(f"{'':34} {'ms':>6} {'videos/s':>9} {'x uint8':>8} {'x float':>8} {'MB':>6}")
    for name, ms in result["milliseconds_per_video"].items():
        rate = result["videos_per_second_and_core"][name]
        ratios = [result[f"times_the_cost_of_our_{kind}_views"][name] for kind in ("uint8", "float")]
        memory = result["memory_growth_mb"].get(name, "")
        print(f"{name:34} {ms:6.1f} {rate:9.2f} {ratios[0]:8.2f} {ratios[1]:8.2f} {memory:>6}")
    rate = result["all_cores_videos_per_second"]
    print(f"all {result['cores']} cores, through the loader: {rate} videos/s, {rate / result['cores']:.2f} per core")
    for demand, cores in result["cores_for_gpu"].items():
        print(f"cores that feed a GPU of {demand}: {cores}")


if __name__ == "__main__":
    sys.exit(main())
