"""Compares a folder for transformers, used as its users use it, with `svt_zoo.predict(views="1x1")`, file by file.

    python benchmarks/transformers_parity.py VIDEO_FOLDER [--output results.json]

Each family is exported as a small network of random weights. A second process, in which svt_zoo cannot be imported,
runs `pipeline("video-classification")` on every file. For the TimeSformer it also runs transformers' own video
processor: on the frames of our clip, and on the frames that it takes itself. Needs transformers >= 5.11; no network.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLIP = {"num_frames": 8, "sampling_rate": 32.0, "crop_size": 112, "resize_size": 128, "channel_order": "RGB"}
CLIP |= {"mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225]}
SMALL = {"img_size": 112, "num_frames": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # architecture, its options, changes of the clip
    "TimeSformer": ("svt_vitt", SMALL, {}),
    "TimeSformer, 5 frames": ("svt_vitt", SMALL, {"num_frames": 5}),
    "Motionformer": ("motionformer_vitt", SMALL, {"num_frames": 16, "sampling_rate": None}),
    "X-ViT": ("xvit_vitt", SMALL, {"channel_order": "BGR"}),
    "CPC": ("cpc_resnet18", {"embed_dim": 64, "num_heads": 2}, {"num_frames": 12}),
}
TOLERANCE = 1e-3

PIPELINE = """
import json, sys
sys.modules["svt_zoo"] = None  # any import of it fails
from transformers import pipeline
folder, *paths = sys.argv[1:]
classify = pipeline("video-classification", folder, trust_remote_code=True, device="cpu", top_k=10)
for path in paths:
    try:
        print("RESULT", json.dumps({each["label"]: each["score"] for each in classify(path)}), flush=True)
    except Exception as error:
        print("RESULT", json.dumps(type(error).__name__ + ": " + str(error)), flush=True)
"""


def export(name: str, folder: Path, paths: list[Path]) -> Any:
    """Write the folder of a family; returns the network. Its random classifier separates the videos `paths`."""
    import torch

    import svt_zoo
    from svt_zoo.inference.export_transformers import export_transformers
    from svt_zoo.models import create_model

    architecture, options, changes = FAMILIES[name]
    torch.manual_seed(0)
    model = create_model(architecture, num_classes=10, **options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.set_labels([f"class {i}" for i in range(10)])
    model.meta["clip"] = {**CLIP, **changes}
    features = svt_zoo.embed(paths, model=model, dtype="float32", device="cpu")  # (V, D)
    with torch.no_grad():
        model.head.weight.normal_().div_(features.std(dim=0).norm())
        model.head.bias.copy_(-model.head.weight @ features.mean(dim=0))
    export_transformers(model, folder)
    return model


def ours(model: Any, path: Path) -> dict[str, float] | str:
    """The probabilities of `predict`, or its error."""
    import svt_zoo

    try:
        [prediction] = svt_zoo.predict([path], model=model, top=10, views="1x1", dtype="float32", device="cpu")
    except svt_zoo.VideoReadError as error:
        return f"{type(error).__name__}: {error}"
    return dict(zip(prediction.labels, prediction.scores, strict=True))


def theirs(folder: Path, paths: list[Path]) -> list[Any]:
    """The same by transformers' pipeline, in a process of its own."""
    arguments = [sys.executable, "-c", PIPELINE, str(folder), *map(str, paths)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, cwd=folder.parent, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    results = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if len(results) != len(paths):
        raise SystemExit(f"the pipeline ended early:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return results


def _outcome(result: dict[str, float] | str) -> str:
    return f"refuses it ({result})" if isinstance(result, str) else "reads it"


def compare(name: str, expected: list[Any], got: list[Any]) -> dict[str, Any]:
    """One row of the table: files that agree, refusals on both sides, and all others by name."""
    both = [(a, b) for a, b in zip(expected, got, strict=True) if isinstance(a, dict) and isinstance(b, dict)]
    worst = [max(abs(a[label] - b[label]) for label in a) for a, b in both]
    same = [max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in both]
    return {
        "network": name,
        "compared": len(both),
        "same_top_1": sum(same),
        "within_tolerance": sum(each <= TOLERANCE for each in worst),
        "largest_difference": max(worst),
        "classes_on_top": len({max(a, key=a.__getitem__) for a, _ in both}),
        "refused_by_both_alike": sum(isinstance(a, str) and a == b for a, b in zip(expected, got, strict=True)),
    }


def own_processor(model: Any, folder: Path, paths: list[Path]) -> dict[str, Any]:
    """How far transformers' own TimeSformer processor is off, on our frames and on its own."""
    import torch
    from transformers import TimesformerForVideoClassification, TimesformerVideoProcessor

    import svt_zoo

    network = TimesformerForVideoClassification.from_pretrained(folder).eval()
    size = {"shortest_edge": CLIP["resize_size"]}, {"height": CLIP["crop_size"], "width": CLIP["crop_size"]}
    processor = TimesformerVideoProcessor(
        size=size[0], crop_size=size[1], image_mean=CLIP["mean"], image_std=CLIP["std"]
    )
    transform, rows = model.transforms(), []
    for path in paths:
        try:
            with svt_zoo.open_video(path) as video:
                total, length = video.num_frames, transform.num_frames
                clip = transform.clip_indices(total, fps=video.fps)
                spread = [i * total // length for i in range(length)]  # transformers' default_sample_indices_fn
                frames = video.frames_at([*clip, *spread])
        except svt_zoo.VideoReadError:
            continue
        exact = transform(frames[:length])
        row = []
        for taken in (frames[:length], frames[length:]):
            pixels = processor(list(taken.numpy()), return_tensors="pt")["pixel_values"][0].transpose(0, 1)
            with torch.inference_mode():
                a, b = (network(pixel_values=x.transpose(0, 1)[None]).logits[0].softmax(0) for x in (exact, pixels))
            row.append(
                ((pixels - exact).abs().mean().item(), (a - b).abs().max().item(), bool(a.argmax() == b.argmax()))
            )
        rows.append(row)
    names = ("on our frames", "on its own frames")
    return {
        name: {
            "files": len(rows),
            "mean_pixel_difference_in_std": sum(row[i][0] for row in rows) / len(rows),
            "mean_probability_difference": sum(row[i][1] for row in rows) / len(rows),
            "largest_probability_difference": max(row[i][1] for row in rows),
            "same_top_1": sum(row[i][2] for row in rows),
        }
        for i, name in enumerate(names)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="videos")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.resolve().iterdir() if path.suffix not in (".md", ".txt", ".json"))
    import transformers

    results: dict[str, Any] = {"transformers": transformers.__version__, "families": []}
    with tempfile.TemporaryDirectory() as temporary:
        for i, name in enumerate(FAMILIES):
            folder = Path(temporary) / f"net{i}"
            model = export(name, folder, [path for path in paths if path.suffix == ".avi"])
            expected, got = [ours(model, path) for path in paths], theirs(folder, paths)
            results["families"].append(compare(name, expected, got))
            print(json.dumps(results["families"][-1]), flush=True)
            for path, a, b in zip(paths, expected, got, strict=True):
                if isinstance(a, str) or isinstance(b, str):
                    print(f"    {path.name}: svt_zoo {_outcome(a)}; transformers {_outcome(b)}")
            if name == "TimeSformer":
                results["own_processor"] = own_processor(model, folder, paths)
                print(json.dumps(results["own_processor"], indent=2), flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    exact = all(row["compared"] == row["same_top_1"] == row["within_tolerance"] for row in results["families"])
    complete = all(row["compared"] + row["refused_by_both_alike"] == len(paths) for row in results["families"])
    return 0 if exact and complete else 1


if __name__ == "__main__":
    sys.exit(main())
