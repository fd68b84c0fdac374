"""Exported networks give the same outputs as the original networks."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command
from torch import nn

from svt_zoo.hub.loading import load_model
from svt_zoo.inference import export
from svt_zoo.inference.export import ExportError, export_program
from svt_zoo.inference.export_weights import export_original
from svt_zoo.models import Backbone, ZooModel, create_model, list_models

ROOT = Path(__file__).resolve().parents[2]
TINY = {"img_size": 16, "patch_size": 4, "num_frames": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
CPC = {"num_frames": 3, "img_size": 64, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
# One network per family (the part of a name before "_").
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "timesformer": ("timesformer_vitt", TINY),
    "svt": ("svt_vitt", TINY),
    "motionformer": ("motionformer_vitb", TINY),
    "xvit": ("xvit_vitb", TINY),
    "cpc": ("cpc_resnet18", CPC),
}
ALL = ("batch", "frames", "height", "width")

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime (the extra export)",
)


def filled(model: ZooModel) -> ZooModel:
    """Fill all parameters with nonzero values, so that the temporal layers affect the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return model.eval()


def build(family: str, num_classes: int = 0, **options: Any) -> ZooModel:
    name, tiny = FAMILIES[family]
    return filled(create_model(name, num_classes=num_classes, **{**tiny, **options}))


def test_every_family_of_networks_is_exported_here() -> None:
    ours = {name.split("_")[0] for name in list_models() if not name.startswith("test")}
    assert ours <= set(FAMILIES), "add the family to FAMILIES"


def test_an_exported_program_is_the_network_at_every_batch_length_and_size(tmp_path: Path) -> None:
    model = build("svt")
    exported = export_program(model, tmp_path / "net.pt2", "torch_export")
    assert exported.free == ALL
    assert exported.max_difference <= 1e-4
    assert len(set(exported.shapes)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    files = {"svt_zoo": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=files).module()
    assert json.loads(files["svt_zoo"])["model"] == "svt_vitt"
    assert type(program(torch.randn(2, 3, 5, 16, 20))) is tuple  # not a type of this package


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_of_every_family_is_the_network_at_every_shape(family: str, tmp_path: Path) -> None:
    assert export_program(build(family), tmp_path / "net.pt2", "torch_export").free == ALL


@needs_onnx
@pytest.mark.parametrize("family", ["timesformer", "motionformer", "xvit", "cpc"])  # svt uses timesformer
def test_onnx_gives_the_networks_numbers_at_every_batch_length_and_size(family: str, tmp_path: Path) -> None:
    import onnxruntime

    model = build(family)
    assert export_program(model, tmp_path / "net.onnx", "onnx").free == ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    assert [put.name for put in session.get_inputs()] == ["clip"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["svt_zoo"])["model"] == model.meta["model"]
    clip = torch.randn(1, 3, 5, 70, 49)  # a shape that the exporter neither traces nor tests
    cls, patches = session.run(["cls", "patches"], {"clip": clip.numpy()})
    with torch.no_grad():
        expected = model(clip)
    torch.testing.assert_close(torch.from_numpy(cls), expected.cls, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(patches), expected.patches, atol=1e-4, rtol=0)


@needs_onnx
@pytest.mark.skipif(not hasattr(torch.onnx.ONNXProgram, "rename_axes"), reason="this torch cannot rename axes")
def test_onnx_names_its_axes(tmp_path: Path) -> None:
    import onnxruntime

    export_program(build("timesformer"), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    [clip], [cls, patches] = session.get_inputs(), session.get_outputs()
    assert clip.shape == ["batch", 3, "frames", "height", "width"]
    assert cls.shape[0] == "batch"
    assert patches.shape[:2] == ["batch", "frames"]


@needs_onnx
def test_onnx_takes_the_same_places_of_the_position_tables_at_every_size(tmp_path: Path) -> None:
    import onnxruntime

    model = build("timesformer", img_size=56, num_frames=8)  # a 14 x 14 grid, as in the released weights
    export_program(model, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for frames, rows, columns in ((2, 4, 4), (3, 12, 13), (5, 6, 7), (6, 9, 11), (7, 5, 10), (1, 2, 3), (12, 16, 28)):
        clip = torch.randn(1, 3, frames, 4 * rows, 4 * columns)
        (cls,) = session.run(["cls"], {"clip": clip.numpy()})
        torch.testing.assert_close(torch.from_numpy(cls), model(clip).cls.detach(), atol=1e-4, rtol=0)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("attention", ["joint_space_time", "space_only"])
def test_onnx_knows_all_of_timesformers_attentions(attention: str, tmp_path: Path) -> None:
    assert export_program(build("timesformer", attention=attention), tmp_path / "net.onnx").free == ALL


@needs_onnx
def test_onnx_of_a_classifier_gives_logits_of_a_single_frame_too(tmp_path: Path) -> None:
    import onnxruntime

    model = build("timesformer", num_classes=5)
    export_program(model, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    clip = torch.randn(2, 3, 1, 16, 16)
    (logits,) = session.run(["logits"], {"clip": clip.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(clip).detach(), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_frames_that_a_loop_counts_stay_fixed_and_the_result_says_so(tmp_path: Path) -> None:
    model = build("cpc", pool="context")
    exported = export_program(model, tmp_path / "net.pt2", "torch_export")
    assert exported.free == ("batch", "height", "width")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (g++)")
def test_a_compiled_program_is_the_network(tmp_path: Path) -> None:
    assert export_program(build("timesformer"), tmp_path / "net.pt2", "aotinductor").free == ALL


def test_without_a_compiler_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match=r"no C\+\+ compiler is found; install g\+\+"):
        export_program(build("timesformer"), tmp_path / "net.pt2", "aotinductor")


class Unsteady(Backbone):
    """Adds a different number in each call, so no program can reproduce it."""

    embed_dim, num_frames, patch_size = 4, 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, clip: torch.Tensor) -> Any:
        self.calls += 1
        return clip.mean(dim=(2, 3, 4)) + self.calls, clip.mean(dim=(3, 4)).transpose(1, 2).unsqueeze(2)


def test_a_file_with_other_numbers_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_text("what was there before")
    with pytest.raises(ExportError, match=r"Unsteady cannot be exported as torch_export: differs by \S+"):
        export_program(Unsteady(), tmp_path / "net.pt2", "torch_export")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_a_wrong_suffix_or_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.pt: a file of format onnx ends in \.onnx"):
        export_program(build("timesformer"), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="format must be one of torch_export, aotinductor, onnx, got 'tflite'"):
        export_program(build("timesformer"), tmp_path / "net.pt", "tflite")  # type: ignore[arg-type]


# The original's keys of a backbone, and of a classifier beside it.
ORIGINAL_KEYS = {
    "svt": ("backbone.blocks.0.temporal_fc.weight", "model_state/model.head.weight"),
    "timesformer": ("model_state/model.blocks.0.temporal_fc.weight", "model_state/model.head.weight"),
    "motionformer": ("model_state/blocks.0.attn.proj_q.weight", "model_state/head.weight"),
    "xvit": ("model_state/base_model.blocks.0.attn.qkv.weight", "model_state/consensus.mlp_head.4.weight"),
    "cpc": ("state_dict/agg.ConvGRUCell_00.reset_gate.weight", "state_dict/final_fc.1.weight"),
}


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("family", ORIGINAL_KEYS)
def test_the_original_format_has_the_originals_names_and_loads_back_bit_equal(
    family: str, num_classes: int, tmp_path: Path
) -> None:
    model = build(family, num_classes)
    path = export_original(model, tmp_path / "original.pth")
    file: Any = torch.load(path, weights_only=True)
    container, _, key = ORIGINAL_KEYS[family][bool(num_classes)].rpartition("/")
    assert key in (file[container] if container else file)
    options = dict(model.meta["model_kwargs"])
    if family == "xvit":
        options["consensus_heads"] = options["num_heads"]  # no tensor of the file determines it
    again = load_model(path, model=model.meta["model"], num_classes=num_classes, **options)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def test_a_network_without_an_original_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no original code has a Unsteady"):
        export_original(Unsteady(), tmp_path / "x.pth")
    assert not any(tmp_path.iterdir())


def test_the_tool_says_what_is_free_and_how_far_it_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build("timesformer", num_classes=3).save_pretrained(tmp_path / "mine")
    arguments = ["--model", str(tmp_path / "mine" / "model.safetensors"), "--format", "torch_export"]
    tool = command("export")
    assert tool([*arguments, "--output", str(tmp_path / "net.pt2")]) == 0
    output = capsys.readouterr().out
    assert "free are batch, frames, height, width" in output
    assert "largest difference" in output
    assert tool([*arguments, "--output", str(tmp_path / "net.onnx")]) == 2
    assert "ends in .pt2" in capsys.readouterr().err
    assert tool([*arguments[:2], "--format", "original", "--output", str(tmp_path / "net.pth")]) == 0
    assert "net.pth: the names of the original code" in capsys.readouterr().out
    assert "svt_zoo" in sys.modules
