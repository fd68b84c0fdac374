"""Runs that an earlier version stopped half-way end in this version with the weights that it gave.

`tests/data_before/*.tar.xz` were written by commit 3384bce: a small run's folder after 4 of 6 steps (config.yaml and
its newest checkpoint), and `end.safetensors`, the weights of the same run without a stop.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from svt_zoo.config import FinetuneRecipe, load_recipe, read_recipe
from svt_zoo.hub.loading import load_model
from svt_zoo.training.run import finetune, pretrain

BEFORE = Path(__file__).parents[1] / "data_before"


@pytest.fixture(scope="module")
def frame_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 8 frame folders with 2 classes: the videos of the stored runs, the same on every machine."""
    folder = tmp_path_factory.mktemp("frames")
    rows = []
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 255, (1, 36, 48, 3), dtype=np.uint8)[0]
        (folder / f"v{i}").mkdir()
        for t in range(6):
            Image.fromarray(np.roll(image, t * (i + 1), axis=1)).save(folder / f"v{i}" / f"{t:02d}.png")
        rows.append(f"v{i} {i % 2}\n")
    (folder / "list.txt").write_text("".join(rows))
    return folder / "list.txt"


def unpack(name: str, folder: Path) -> Path:
    shutil.unpack_archive(BEFORE / f"{name}.tar.xz", folder, filter="data")
    return folder / name


@pytest.mark.parametrize("name", ["svt", "cpc", "time"])
def test_a_run_of_an_earlier_version_resumes_and_ends_with_the_same_weights(name, frame_folders, tmp_path) -> None:
    output = unpack(name, tmp_path)
    keys = [f"data.train={frame_folders}", f"run.output={output}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its config.yaml has option names of that version
        if name == "time":
            recipe = read_recipe(FinetuneRecipe, output / "config.yaml", [*keys, f"report.folder={tmp_path}"])
            assert finetune(recipe)
        else:
            assert pretrain(load_recipe(output / "config.yaml", keys))
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 6]  # it did not start from step 1
    weights, expected = load_file(output / "final.safetensors"), load_file(output / "end.safetensors")
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["svt", "cpc", "time"])
def test_weights_of_an_earlier_version_load(name, tmp_path) -> None:
    network = load_model(unpack(name, tmp_path) / "end.safetensors", num_classes=None if name == "time" else 0)
    assert network.meta["recipe"]
