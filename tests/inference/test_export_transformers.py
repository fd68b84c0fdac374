"""Folders for transformers give the numbers of `predict`, and are read back."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_video
from torch import nn

import svt_zoo
from svt_zoo.hub.loading import WeightsError
from svt_zoo.inference.export import ExportError
from svt_zoo.inference.export_transformers import _is_timesformer, _write_files, export_transformers
from svt_zoo.models import OURS, Backbone, ZooModel, create_model

TINY = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
CPC = {"num_frames": 3, "img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "svt": ("svt_vitt", TINY),
    "joint": ("timesformer_vitt", {**TINY, "attention": "joint_space_time"}),
    "space": ("timesformer_vitt", {**TINY, "attention": "space_only"}),
    "motionformer": ("motionformer_vitb", TINY),
    "xvit": ("xvit_vitb", TINY),
    "cpc": ("cpc_resnet18", {**CPC, "pool": "context"}),
}
CLIP = {"num_frames": 4, "sampling_rate": 4.0, "crop_size": 32, "resize_size": 40, "channel_order": "BGR"}
CLIP |= {"mean": (0.4, 0.5, 0.45), "std": (0.2, 0.25, 0.225)}


def build(family: str, num_classes: int = 0, **clip: Any) -> ZooModel:
    name, options = NETWORKS[family]
    torch.manual_seed(0)
    model = create_model(name, num_classes=num_classes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    model.meta["clip"] = {**CLIP, "num_frames": options["num_frames"], **clip}
    if num_classes:
        model.meta["categories"] = [f"class {i}" for i in range(num_classes)]
    return model


def write(model: ZooModel, folder: Path) -> Path:
    """The folder, without the comparison that needs transformers."""
    folder.mkdir()
    _write_files(model, folder, own_code=not _is_timesformer(model))
    return folder


@pytest.fixture
def transformers_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that transformers is installed, for errors that occur before its use."""
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (40, 60, 80, 3), dtype=np.uint8)
    return encode_video(tmp_path / "video.mp4", frames)


def test_every_family_of_networks_is_here() -> None:
    assert {name.split("_")[0] for name in OURS} == {name.split("_")[0] for name, _ in NETWORKS.values()}


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("family", NETWORKS)
def test_the_folder_reads_back_with_equal_outputs_labels_and_clip(
    family: str, num_classes: int, tmp_path: Path
) -> None:
    model = build(family, num_classes)
    again = svt_zoo.from_pretrained(write(model, tmp_path / "folder"))
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    clip = torch.randn(1, 3, 5, 32, 40)
    with torch.no_grad():
        assert torch.equal(*(out if isinstance(out, torch.Tensor) else out.cls for out in (again(clip), model(clip))))
    assert vars(again.transforms()) == vars(model.transforms())
    assert again.meta.get("categories") == model.meta.get("categories")


def test_a_folder_that_transformers_saved_again_has_its_new_classes(tmp_path: Path) -> None:
    """Fine-tuning there changes the labels in config.json and the classifier, and keeps the entry svt_zoo."""
    folder = write(build("xvit", 3), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "left", "1": "right"}}))
    tuned = build("xvit", 2)
    svt_zoo.files.write_tensors(folder / "model.safetensors", tuned.state_dict(), {"format": "pt"})
    again = svt_zoo.from_pretrained(folder)
    assert again.meta["categories"] == ["left", "right"]
    assert again.transforms().num_frames == 4
    torch.testing.assert_close(dict(again.state_dict()), dict(tuned.state_dict()), atol=0, rtol=0)


def test_a_timesformer_that_others_made_for_transformers_is_read(tmp_path: Path) -> None:
    model = build("svt", 2)
    folder = write(model, tmp_path / "folder")
    (folder / "video_preprocessor_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for key in ("svt_zoo", "id2label", "label2id"):  # transformers omits the labels of a classifier of two classes
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    again = svt_zoo.from_pretrained(folder)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    with pytest.raises(ValueError, match="no clip specification"):
        again.transforms()
    older = svt_zoo.load_model(folder, model="svt_vitt", num_classes=2)
    torch.testing.assert_close(dict(older.state_dict()), dict(model.state_dict()), atol=0, rtol=0)


@pytest.mark.parametrize("damage", [{"svt_zoo": {"model_kwargs": [], "model": "svt_vitt"}}, {"svt_zoo": {"model": 3}}])
def test_a_damaged_config_is_named(damage: dict[str, Any], tmp_path: Path) -> None:
    folder = write(build("svt"), tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps(damage))
    with pytest.raises(WeightsError, match=r"in its metadata is a (list|int); it is damaged"):
        svt_zoo.from_pretrained(folder)


ALONE = """
import sys
sys.modules["svt_zoo"] = None
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file
from folder.{module} import {name}
from folder.decode import decode_frames
from folder.errors import Limits
from folder.index import scan
from folder.transforms import EvalTransform
network = {name}(**{options}).eval()
state = load_file(sys.argv[1] + "/folder/model.safetensors")
network.load_state_dict({{key.removeprefix("backbone."): value for key, value in state.items()}})
index, source = scan(sys.argv[2], Limits())
transform = EvalTransform(**{clip})
wanted = transform.clip_indices(len(index.pts), fps=index.fps)
frames = dict((number, torch.from_numpy(image.copy())) for number, image in decode_frames(source, index, wanted))
clip = transform(torch.stack([frames[number] for number in wanted]))
with torch.no_grad():
    print(network(clip[None]).cls.double().sum().item())
"""
MODULES = {"space": "timesformer", "motionformer": "Motionformer", "xvit": "XViT", "cpc": "CPCNetwork"}


@pytest.mark.parametrize("family", MODULES)
def test_the_copied_code_runs_without_this_package(family: str, tmp_path: Path, video: Path) -> None:
    model = build(family)
    folder = write(model, tmp_path / "folder")
    (folder / "__init__.py").touch()
    config = json.loads((folder / "config.json").read_text())
    names = {"name": MODULES[family], "module": MODULES[family].lower().removesuffix("network")}
    program = ALONE.format(**names, options=config["network"], clip=vars(model.transforms()))
    arguments = [sys.executable, "-c", program, str(tmp_path), str(video)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert not done.stderr
    expected = svt_zoo.embed([video], model=model, dtype="float32", device="cpu").double().sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)


def test_every_module_that_a_copied_one_imports_is_in_the_folder(tmp_path: Path) -> None:
    """transformers finds them by this pattern, and copies no others."""
    import re

    for family in NETWORKS:
        folder = write(build(family), tmp_path / family)
        for path in folder.glob("*.py"):
            text = path.read_text()
            assert "svt_zoo import" not in text
            assert not re.findall(r"^\s*from \.\.|^\s*from \. import", text, flags=re.MULTILINE)
            for name in re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE):
                assert (folder / f"{name}.py").is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("family", "clip", "own_code"),
    [
        ("svt", {}, False),
        ("joint", {}, False),
        ("space", {}, True),
        ("svt", {"num_frames": 6}, True),
        ("svt", {"crop_size": 40}, True),
        ("xvit", {}, True),
    ],
)
def test_transformers_own_timesformer_is_used_only_where_it_is_the_same_network(
    family: str, clip: dict[str, int], own_code: bool, tmp_path: Path
) -> None:
    folder = write(build(family, **clip), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == ("svt_zoo" if own_code else "timesformer")
    assert (folder / "hf_model.py").exists() == own_code
    assert config["num_frames"] == clip.get("num_frames", 4)


@pytest.mark.usefixtures("transformers_is_there")
def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="exists already; name a new folder"):
        export_transformers(build("svt"), tmp_path)


@pytest.mark.usefixtures("transformers_is_there")
def test_a_network_without_a_clip_or_not_of_the_zoo_leaves_no_folder(tmp_path: Path) -> None:
    model = build("svt")
    model.meta["clip"] = None
    with pytest.raises(ValueError, match="no clip specification"):
        export_transformers(model, tmp_path / "folder")

    class Mean(Backbone):
        embed_dim, num_frames, patch_size = 3, 4, 1

        def forward(self, clip: torch.Tensor) -> Any:
            return svt_zoo.Features(clip.mean(dim=(2, 3, 4)), clip.mean(dim=(3, 4)).transpose(1, 2).unsqueeze(2))

    own = Mean()
    own.meta["clip"] = CLIP
    with pytest.raises(ExportError, match="Mean is not a network of the zoo, so its code cannot be copied"):
        export_transformers(own, tmp_path / "folder")
    assert not any(tmp_path.iterdir())


def test_that_transformers_is_missing_is_said_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExportError, match=r"transformers needs transformers: pip install 'transformers>=5\.11'"):
        export_transformers(build("xvit"), tmp_path / "hf")


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    pytest.importorskip("transformers", "5.11", reason="needs transformers >= 5.11 (the extra transformers)")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import pipeline

    return pipeline


@pytest.mark.parametrize("family", NETWORKS)
def test_the_pipeline_gives_the_probabilities_of_predict(
    family: str, tmp_path: Path, video: Path, pipeline: Any
) -> None:
    model = build(family, 5)
    assert export_transformers(model, tmp_path / family).max_difference <= 1e-4
    classify = pipeline("video-classification", str(tmp_path / family), trust_remote_code=True, device="cpu")
    [expected] = svt_zoo.predict([video], model=model, dtype="float32", device="cpu")
    for got in (classify(str(video)), *classify([str(video)])):
        assert [each["label"] for each in got] == expected.labels
        assert [each["score"] for each in got] == pytest.approx(expected.scores, abs=1e-5)


def test_without_trust_the_pipeline_never_uses_another_processor(tmp_path: Path, pipeline: Any) -> None:
    export_transformers(build("svt", 5), tmp_path / "folder")
    with pytest.raises(ValueError, match=r"video processor|trust_remote_code"):
        pipeline("video-classification", str(tmp_path / "folder"), device="cpu", trust_remote_code=False)


def test_the_processor_takes_paths_frames_and_other_lengths(tmp_path: Path, video: Path, pipeline: Any) -> None:
    from PIL import Image
    from transformers import AutoModel, AutoVideoProcessor

    model = build("xvit")
    export_transformers(model, tmp_path / "folder")
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    with svt_zoo.open_video(video) as reader:
        frames = reader.frames_at(range(reader.num_frames))
        indices = model.transforms().clip_indices(reader.num_frames, fps=reader.fps)
    expected = model.transforms()(frames[indices]).transpose(0, 1)[None]
    for given in (video, str(video), [video], frames, frames.numpy(), frames[None], [frames], list(frames)):
        assert torch.equal(processor(given, video_fps=25.0)["pixel_values"], expected)
    pictures = [Image.fromarray(frames[i].numpy()) for i in indices]
    for given in (pictures, [pictures]):
        assert torch.equal(processor(given)["pixel_values"], expected)
    assert processor([video, video], num_frames=6)["pixel_values"].shape == (2, 6, 3, 32, 32)
    assert processor(frames[:7], do_sample_frames=False)["pixel_values"].shape == (1, 7, 3, 32, 32)
    theirs = AutoModel.from_pretrained(tmp_path / "folder", trust_remote_code=True).eval()
    with torch.no_grad():
        out = theirs(**processor(video))
        assert torch.equal(out.pooler_output, model(expected.transpose(1, 2)).cls)
    processor.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "video_preprocessor_config.json").read_text())["clip"]["num_frames"] == 4
    with pytest.raises(RuntimeError, match="an address; download the file first"):
        processor("https://example.org/video.mp4")
    with pytest.raises(ValueError, match="at least one video, got none"):
        processor([])


def test_a_fixed_length_is_kept(tmp_path: Path, video: Path, pipeline: Any) -> None:
    from transformers import AutoVideoProcessor

    export_transformers(build("svt"), tmp_path / "folder")
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    with pytest.raises(ValueError, match="takes 4 frames, got num_frames=6"):
        processor(video, num_frames=6)


def test_a_network_fine_tuned_in_transformers_is_read_back(tmp_path: Path, pipeline: Any) -> None:
    from transformers import AutoModelForVideoClassification

    export_transformers(build("motionformer"), tmp_path / "folder")
    theirs = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "folder", trust_remote_code=True, num_labels=2, id2label={0: "left", 1: "right"}
    )
    clip = torch.randn(2, 4, 3, 32, 32)
    loss = theirs(pixel_values=clip, labels=torch.tensor([0, 1])).loss
    loss.backward()
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    theirs.eval().save_pretrained(tmp_path / "tuned")
    again = svt_zoo.from_pretrained(tmp_path / "tuned")
    assert again.meta["categories"] == ["left", "right"]
    with torch.no_grad():
        assert torch.equal(again(clip.transpose(1, 2)), theirs(pixel_values=clip).logits)
