"""int8 as users ask for it: embed, predict, extract, saved files and ONNX."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import CLIP_SPEC, SMALL
from torch.testing import assert_close

import svt_zoo
from svt_zoo import embed, predict
from svt_zoo.cli import main
from svt_zoo.data.lists import Row, VideoList
from svt_zoo.device import choose_dtype
from svt_zoo.evaluation.features import extract
from svt_zoo.hub.sources import WeightsError
from svt_zoo.inference.export import export_program
from svt_zoo.models import ZooModel, create_model
from svt_zoo.models.int8 import to_int8

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="int8 needs a torch with oneDNN")

CLIPS = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name: str = "svt_vitt", num_classes: int = 0, **options: Any) -> ZooModel:
    torch.manual_seed(0)
    model = create_model(name, num_classes=num_classes, **{**SMALL, **options})
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.meta["clip"] = CLIP_SPEC
    return model.eval()


def least_cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a, b).min().item()


def test_embed_and_extract_give_the_int8_features(gray_video: Callable[..., Path]) -> None:
    model, paths = network(), [gray_video(30), gray_video(45)]
    features = embed(paths, model=model, dtype="int8")
    expected = embed(paths, model=model, dtype="float32")
    assert features.dtype == torch.float32
    assert not torch.equal(features, expected)
    assert least_cosine(features, expected) > 0.999
    videos = VideoList(tuple(Row(str(path)) for path in paths))
    assert_close(extract(model, videos, dtype=torch.int8).features, features)
    assert_close(embed(paths, model=to_int8(model), dtype="int8"), features)


def test_predict_computes_in_int8_with_a_classifier_in_float32() -> None:
    model = network(num_classes=3)
    scores = torch.tensor([one.scores for one in predict(CLIPS, model=model, dtype="int8")])
    assert_close(
        scores, torch.tensor([one.scores for one in predict(CLIPS, model=model, dtype="float32")]), atol=0.01, rtol=0
    )
    assert isinstance(to_int8(model).head, torch.nn.Linear)


def test_a_gpu_is_refused_and_so_is_another_type_for_an_int8_network() -> None:
    with pytest.raises(ValueError, match="dtype=int8 needs device=cpu, the device is cuda; use bfloat16 there"):
        choose_dtype("int8", torch.device("cuda"))
    with pytest.raises(
        ValueError, match=r"computes in int8, got dtype=torch.float32; use the network that it was made"
    ):
        embed(CLIPS, model=to_int8(network()), dtype="float32")


@pytest.mark.parametrize("num_classes", [0, 3])
def test_export_writes_a_quarter_of_the_bytes_that_loads_back_with_the_same_numbers(
    num_classes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(num_classes=num_classes, embed_dim=192)
    plain = model.save_pretrained(tmp_path / "plain") / "model.safetensors"
    main(["export", "--model", str(plain), "--format", "svt_zoo", "--dtype", "int8", "--output", str(tmp_path / "q")])
    file = tmp_path / "q" / "model.safetensors"
    assert f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in capsys.readouterr().out
    assert file.stat().st_size < 0.4 * plain.stat().st_size  # tables and patches of a small network are float32
    again = svt_zoo.from_pretrained(tmp_path / "q", num_classes=num_classes)
    run = predict if num_classes else embed
    outputs = [run(CLIPS, model=one, dtype="int8") for one in (model, again)]
    if num_classes:
        outputs = [torch.tensor([one.scores for one in output]) for output in outputs]
    assert_close(*outputs, atol=1e-5, rtol=1e-5)
    card = (tmp_path / "q" / "README.md").read_text()
    assert "- weights: 8 bits and one scale per output channel" in card
    assert str(svt_zoo.hub.publish.golden_output(again)) in card


def test_a_file_whose_scales_do_not_fit_is_refused(tmp_path: Path) -> None:
    from svt_zoo.hub.publish import config_of, save_pretrained, write_weights

    model = network()
    file = save_pretrained(model, tmp_path, dtype="int8") / "model.safetensors"
    state = load_file(file)
    state["blocks.0.attn.qkv.weight_scale"] = torch.ones(3)
    write_weights(file, state, config_of(model))
    with pytest.raises(WeightsError, match=r"qkv.weight has shape \(144, 48\), .*scale \(3,\); it is damaged"):
        svt_zoo.from_pretrained(tmp_path)


def test_int8_is_refused_for_other_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--format", "original", "--dtype", "int8", "--output", str(tmp_path / "x.pth")]) != 0
    assert "--dtype int8 is for --format onnx and svt_zoo, got --format original" in capsys.readouterr().err
    with pytest.raises(ValueError, match="dtype of format torch_export must be float32, got 'int8'"):
        export_program(network(), tmp_path / "x.pt2", "torch_export", dtype="int8")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime (the extra export)")
@pytest.mark.parametrize("name", ["timesformer_vitt", "motionformer_vitt", "xvit_vitt"])
def test_onnx_in_int8_is_smaller_and_close_at_every_size(name: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model = network(name, embed_dim=192)
    plain = export_program(model, tmp_path / "plain.onnx")
    exported = export_program(model, tmp_path / "int8.onnx", dtype="int8")
    assert exported.free == plain.free
    assert 0.98 < exported.cosine < 1
    assert exported.path.stat().st_size < 0.6 * plain.path.stat().st_size
    tensors = map(onnx.numpy_helper.to_array, onnx.load(exported.path).graph.initializer)
    largest = max(int(abs(value.astype(int)).max()) for value in tensors if value.dtype == "int8" and value.ndim == 2)
    assert 2 * 255 * largest < 2**15, "two products must fit 16 bits on processors without VNNI"
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(CLIPS).cls
    assert least_cosine(torch.from_numpy(session.run(None, {"clip": CLIPS.numpy()})[0]), expected) > 0.98
    assert "svt_zoo" in session.get_modelmeta().custom_metadata_map
