"""Measure int8 on a CPU: time beside transformers' float32, features of real videos, nearest neighbors, file size.

    python benchmarks/int8.py time --networks svt_vitb motionformer_vitb xvit_vitb dino_vits16
    python benchmarks/int8.py cosine VIDEOS
    python benchmarks/int8.py neighbors LIST --weights FILE

All contenders run the same weights and clip in turns, on one thread; the ratio is that of median CPU seconds. Cosine
is of a ViT-B with random weights, which has no outliers: trained weights may differ more. Neighbors compares,
for each video of the list, the most similar other video in float32 and in int8.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from backbone import transformers_model
from torch import Tensor, nn

import svt_zoo
from svt_zoo.data.list_formats import find_videos
from svt_zoo.data.lists import read_list
from svt_zoo.evaluation.features import extract
from svt_zoo.hub.publish import save_pretrained
from svt_zoo.models import Features, create_model
from svt_zoo.models.int8 import to_int8

CLIP = {
    "num_frames": 8,
    "sampling_rate": 32,
    "resize_size": 224,
    "crop_size": 224,
    "mean": [0.45] * 3,
    "std": [0.225] * 3,
}


def random_network(name: str) -> Any:
    """A network with random weights, none of them zero."""
    torch.manual_seed(0)
    network = create_model(name).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
    network.meta["clip"] = CLIP
    return network


def feature(output: Any) -> Tensor:
    return output.cls if isinstance(output, Features) else output.last_hidden_state[:, 0]


@torch.inference_mode()
def time_of(name: str, rounds: int) -> dict[str, Any]:
    network = random_network(name)
    clip = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(0))
    converted = to_int8(network)
    steps = {"svt_zoo float32": lambda: network(clip), "svt_zoo int8": lambda: converted(clip)}
    if name.startswith(("svt", "timesformer")):
        theirs = transformers_model(network, 224).eval()
        steps["transformers float32"] = lambda: theirs(clip.transpose(1, 2))
    features = {key: feature(step()) for key, step in steps.items()}  # warms up
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    for number in range(rounds):
        for key in list(steps) if number % 2 else reversed(list(steps)):
            start = time.process_time()
            steps[key]()
            seconds[key].append(time.process_time() - start)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    with tempfile.TemporaryDirectory() as folder:
        size = (save_pretrained(network, folder, dtype="int8") / "model.safetensors").stat().st_size
    return {
        "network": name,
        "median_seconds": {key: round(value, 3) for key, value in medians.items()},
        "int8_times_faster_than": {key: round(value / medians["svt_zoo int8"], 2) for key, value in medians.items()},
        "cosine": round(
            torch.cosine_similarity(*(features[f"svt_zoo {key}"] for key in ("int8", "float32"))).item(), 5
        ),
        "file_mb": round(size / 1e6, 1),
    }


def cosine_of(folder: str, limit: int) -> dict[str, Any]:
    network = random_network("svt_vitb")
    cosines, failed = [], 0
    for name in find_videos(folder)[:limit]:
        try:
            pair = [svt_zoo.embed(f"{folder}/{name}", model=network, dtype=dtype) for dtype in ("float32", "int8")]
        except svt_zoo.VideoReadError:
            failed += 1
            continue
        cosines.append(torch.cosine_similarity(*pair).item())
        print(name, round(cosines[-1], 6), flush=True)
    return {"videos": len(cosines), "failed": failed, "least": min(cosines), "median": statistics.median(cosines)}


def neighbors_of(path: str, weights: str) -> dict[str, Any]:
    network, videos = svt_zoo.load_model(weights), read_list(path)
    nearest, rows = [], []
    for dtype in (torch.float32, torch.int8):
        got = extract(network, videos, dtype=dtype, progress=False)
        unit = nn.functional.normalize(got.features, dim=1)
        rows.append(unit)
        nearest.append((unit @ unit.T).fill_diagonal_(-1).argmax(dim=1))
    cosine = torch.cosine_similarity(*rows)
    same = (nearest[0] == nearest[1]).float().mean().item()
    # How much less similar a changed neighbor is in float32.
    exact = (rows[0] @ rows[0].T).fill_diagonal_(-1)
    loss = exact.amax(dim=1) - exact.gather(1, nearest[1][:, None])[:, 0]
    return {
        "videos": len(cosine),
        "same_nearest_neighbor": round(same, 4),
        "largest_loss_of_similarity": round(loss.max().item(), 6),
        "least_cosine": round(cosine.min().item(), 5),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["time", "cosine", "neighbors"])
    parser.add_argument("videos", nargs="?", help="a folder (cosine), or a list (neighbors)")
    parser.add_argument("--networks", nargs="+", default=["svt_vitb"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--weights", help="a file of trained weights")
    parser.add_argument("--output", type=Path, help="file for the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.kind == "time":
        result: Any = [time_of(name, args.rounds) for name in args.networks]
    elif args.kind == "cosine":
        result = cosine_of(args.videos, args.limit)
    else:
        result = neighbors_of(args.videos, args.weights)
    text = json.dumps(
        {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "result": result}, indent=2
    )
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
