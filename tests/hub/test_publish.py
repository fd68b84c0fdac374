"""Weights uploaded to the Hub and downloaded again are the same; the Hub is a server on loopback."""

import json
from pathlib import Path

import pytest
import torch
from commands import command
from hub_server import HubServer
from huggingface_hub import HfApi
from safetensors.torch import load_file
from torch.testing import assert_close

import svt_zoo
from svt_zoo.hub.download import fetch
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.publish import golden_output, model_card, publish
from svt_zoo.hub.sources import HubFile, WeightsError
from svt_zoo.inference.export_transformers import _write_files
from svt_zoo.models import create_model

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
CLIP_SPEC = {
    "num_frames": 4,
    "sampling_rate": 8,
    "resize_size": 36,
    "crop_size": 32,
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "channel_order": "RGB",
}


@pytest.fixture
def model() -> svt_zoo.Backbone:
    torch.manual_seed(0)
    network = create_model("svt_vitt", **SMALL).eval()
    network.meta["clip"] = CLIP_SPEC
    network.meta["license"] = "CC0"
    return network


def test_a_model_comes_back_from_the_hub_bit_for_bit(hub_server: HubServer, model: svt_zoo.Backbone) -> None:
    sha = model.push_to_hub("org/tiny")
    assert len(sha) == 40
    again = svt_zoo.from_pretrained("org/tiny", revision=sha)
    clip = torch.randn(2, 3, 4, 32, 32)
    assert_close(again(clip), model(clip), atol=0, rtol=0)
    assert again.meta["license"] == "CC0"
    assert again.transforms().crop_size == (32, 32)
    by_address = load_model(f"hf://org/tiny/model.safetensors@{sha}")
    assert_close(by_address(clip), model(clip), atol=0, rtol=0)


def test_a_folder_for_transformers_is_read_from_the_hub(
    hub_server: HubServer, model: svt_zoo.Backbone, tmp_path: Path
) -> None:
    _write_files(model, tmp_path, own_code=False)
    api = HfApi()
    api.create_repo("org/tiny")
    sha = api.upload_folder(repo_id="org/tiny", folder_path=tmp_path).oid
    again = svt_zoo.from_pretrained("org/tiny", revision=sha)
    assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    assert again.transforms().crop_size == (32, 32)
    assert again.meta["license"] == "CC0"


def test_a_pinned_model_is_loaded_again_without_a_request(hub_server: HubServer, model: svt_zoo.Backbone) -> None:
    sha = model.push_to_hub("org/tiny")
    svt_zoo.from_pretrained("org/tiny", revision=sha)
    before = len(hub_server.requests)
    svt_zoo.from_pretrained("org/tiny", revision=sha)
    assert len(hub_server.requests) == before


def test_each_push_is_a_revision_of_its_own(hub_server: HubServer, model: svt_zoo.Backbone) -> None:
    first = model.push_to_hub("org/tiny")
    with torch.no_grad():
        model.norm.bias.add_(1)
    second = model.push_to_hub("org/tiny")
    assert first != second
    old, new = (svt_zoo.from_pretrained("org/tiny", revision=sha) for sha in (first, second))
    assert_close(new.norm.bias - old.norm.bias, torch.ones(24))


def test_publishing_checks_what_arrived(
    hub_server: HubServer, model: svt_zoo.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sha256 = publish(model, "org/tiny", progress=False)
    assert file == HubFile("org/tiny", "model.safetensors", file.revision)
    assert len(sha256) == 64
    other = create_model("svt_vitt", **SMALL).eval()
    monkeypatch.setattr("svt_zoo.hub.publish.from_pretrained", lambda *_, **__: other)
    with pytest.raises(WeightsError, match="its golden output is"):
        publish(model, "org/tiny", progress=False)


def test_a_byte_flipped_on_the_way_is_noticed(hub_server: HubServer, model: svt_zoo.Backbone) -> None:
    sha = model.push_to_hub("org/tiny")
    hub_server.break_down("flip", path="model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        svt_zoo.from_pretrained("org/tiny", revision=sha)


def test_the_publishing_tool_prints_the_row(
    hub_server: HubServer, model: svt_zoo.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = command("publish")
    folder = model.save_pretrained(tmp_path / "mine")
    assert tool(["--repo", "org/tool", "--weights", str(folder / "model.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "uploaded, loaded back and equal: hf://org/tool/model.safetensors@" in out
    assert "hub_copy=HubFile(repo='org/tool'" in out
    assert tool(["--repo", "org/tool", "--weights", "no/such/file.pth"]) == 2
    assert "error: no/such/file.pth: no such file" in capsys.readouterr().err


def test_the_golden_output_tells_networks_apart_and_leaves_no_trace(model: svt_zoo.Backbone) -> None:
    model.train()
    state = torch.get_rng_state()
    first = golden_output(model)
    assert first == golden_output(model)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        model.norm.bias[0] += 1e-3
    assert golden_output(model) != first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_saved_as_it_is(
    model: svt_zoo.Backbone, tmp_path: Path, dtype: torch.dtype
) -> None:
    """A model on a GPU is, too: its golden output is computed by a copy in float32 on the CPU."""
    folder = model.to(dtype).save_pretrained(tmp_path / "half")
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {dtype}
    assert json.dumps(golden_output(svt_zoo.from_pretrained(folder))) in (folder / "README.md").read_text()
    assert {value.dtype for value in model.parameters()} == {dtype}


def test_a_refused_upload_is_one_line_that_says_how_to_log_in(
    hub_server: HubServer, model: svt_zoo.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(WeightsError, match=r"^org/tiny: the upload to http://.* failed .*`hf auth login`.*$") as error:
        model.push_to_hub("org/tiny")
    assert "\n" not in str(error.value)


def test_the_card_on_the_hub_says_how_to_load_it(hub_server: HubServer, model: svt_zoo.Backbone) -> None:
    sha = model.push_to_hub("org/tiny")
    card = fetch(HubFile("org/tiny", "README.md", sha)).read_text()
    assert 'svt_zoo.from_pretrained("org/tiny")' in card
    assert json.dumps(golden_output(model)) in card


def test_the_card_states_what_is_known_and_what_is_not(model: svt_zoo.Backbone) -> None:
    card = model_card({**model.meta, **svt_zoo.get_weights("svt_vitb_k400").meta}, [0.5])
    assert "license of the weights: unclear" in card
    assert "the data it was trained on has terms of its own" in card
    assert "| published | UCF-101 | linear | top-1 | 90.8 |" in card
    assert "note: The published evaluation normalizes with 0.45 / 0.225" in card
    assert "\nlicense: other\n" in card
    assert "\nlicense: apache-2.0\n" in model_card(svt_zoo.get_weights("dino_vits16").meta, [0.5])
    assert json.dumps([0.5]) in card


def test_a_card_prints_names_as_plain_text() -> None:
    number = {"dataset": "a|b", "protocol": "x", "metric": "y", "value": 1, "source": "[me](http://x)\n# title"}
    title = "# a\n<script>alert(1)</script> `b`"
    card = model_card({"model": "svt_vitt", "title": title, "measured": [number]}, [0.5], 'org/n"ame')
    assert r"# # a \<script\>alert(1)\</script\> \`b\`" in card
    assert r"| measured | a\|b | x | y | 1 | \[me\](http://x) # title |" in card
    assert r'from_pretrained("org/n\"ame")' in card
