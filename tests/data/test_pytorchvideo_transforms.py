"""PyTorchVideo's own datasets and transforms work with our videos."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose
from video_files import encode, moving_square

from svt_zoo.data import enable_pytorchvideo_transforms
from svt_zoo.video import VideoPathHandler


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("augmentation", ["default", "randaug", "augmix"])
def test_pytorchvideos_dataset_and_transforms_train_one_step_on_our_videos(tmp_path: Path, augmentation: str) -> None:
    enable_pytorchvideo_transforms()
    from pytorchvideo.transforms import ApplyTransformToKey, Div255, create_video_transform

    train = create_video_transform(
        "train", num_samples=4, convert_to_float=False, min_size=32, max_size=40, crop_size=32, aug_type=augmentation
    )
    dataset = LabeledVideoDataset(
        [(str(encode(tmp_path / f"{i}.mp4", moving_square(20))), {"label": i}) for i in range(2)],
        make_clip_sampler("random", 0.4),
        transform=ApplyTransformToKey("video", Compose([Div255(), train])),
        decode_audio=False,
    )
    dataset.video_path_handler = VideoPathHandler()
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 32 * 32, 2))
    before = model[1].weight.detach().clone()
    nn.functional.cross_entropy(model(batch["video"]), batch["label"]).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model[1].weight.isfinite().all()
    assert not torch.equal(model[1].weight, before)


def test_nothing_is_installed_unless_asked() -> None:
    assert run("import sys, svt_zoo.data; print('functional_tensor' in ' '.join(sys.modules))") == "False\n"


def test_a_module_that_exists_is_left_alone() -> None:
    program = """
import sys, types
theirs = sys.modules["torchvision.transforms.functional_tensor"] = types.ModuleType("theirs")
from svt_zoo.data import enable_pytorchvideo_transforms
enable_pytorchvideo_transforms()
print(sys.modules["torchvision.transforms.functional_tensor"] is theirs)
"""
    assert run(program) == "True\n"


def test_the_old_import_path_warns_and_gives_pytorchvideos_own_transforms() -> None:
    program = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from svt_zoo.data.pytorchvideo_transforms import create_video_transform
warned = [w.category.__name__ for w in caught if "is deprecated; import" in str(w.message)]
print(create_video_transform.__module__, warned)
"""
    assert run(program) == "pytorchvideo.transforms.transforms_factory ['DeprecationWarning']\n"
