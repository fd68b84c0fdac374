"""Any weight file loads bit-equal or is refused in one line: every architecture, every wrapper, hostile files."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import svt_zoo
from svt_zoo.hub.convert import to_hf_timesformer, to_timesformer
from svt_zoo.hub.download import lock_path
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.publish import config_of, write_weights
from svt_zoo.hub.sources import WeightsError
from svt_zoo.models import Backbone, create_model, list_models

REPORTED = Path(__file__).resolve().parents[3] / "shared" / "reported"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}
CPC = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "img_size": 64, "num_frames": 5}
OURS = [
    name for name in list_models() if name.partition("_")[0] in ("svt", "timesformer", "motionformer", "xvit", "cpc")
]


def sizes(name: str) -> dict[str, Any]:
    return CPC if name.startswith("cpc") else TINY


def assert_equal(model: torch.nn.Module, again: torch.nn.Module) -> None:
    assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as error:
        load_model(path, **{"model": "svt_vitt", **options})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("name", OURS)
def test_every_architecture_loads_bit_equal_from_every_form(name: str, num_classes: int, tmp_path: Path) -> None:
    model = create_model(name, num_classes=num_classes, **sizes(name))
    state = model.state_dict()
    options = sizes(name) | ({"consensus_heads": 2} if name.startswith("xvit") else {})
    for prefix in ("", "module.", "_orig_mod.", "model.", "net."):
        torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "plain.pth")
        assert_equal(model, load_model(tmp_path / "plain.pth", model=name, num_classes=None, **options))
    assert_equal(model, svt_zoo.from_pretrained(model.save_pretrained(tmp_path / "ours")))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("motionformer_vitt", {"attention": "divided", "positions": "joint", "img_size": 224}),
        ("motionformer_vitt", {"tubelet_frames": 2}),
        ("cpc_resnet18", {"relu": True, "pool": "context", "final_bn": True}),
    ],
)
def test_a_classifier_of_another_kind_keeps_its_head(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = create_model(name, num_classes=3, **{**sizes(name), **options})
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    again = load_model(tmp_path / "plain.pth", model=name, num_classes=None, **{**sizes(name), **options})
    assert_equal(model, again)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_the_attention_of_a_timesformer_is_found_from_its_keys(
    attention: str, num_classes: int, tmp_path: Path
) -> None:
    model = create_model("timesformer_vitt", num_classes=num_classes, attention=attention, **TINY)
    files = {
        "plain": model.state_dict(),
        "facebook": {**to_timesformer(model.state_dict()), "cfg": f"TIMESFORMER:\n  ATTENTION_TYPE: {attention}\n"},
        "hugging_face": to_hf_timesformer(model.state_dict()),
    }
    for kind, content in files.items():
        if (kind, attention, num_classes) == ("plain", "space_only", 0):
            continue  # these are the keys of an image network, which becomes a network of divided attention
        torch.save(content, tmp_path / "w.pth")
        assert_equal(model, load_model(tmp_path / "w.pth", model="timesformer_vitt", num_classes=None, **TINY))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_registered_network_loads_from_a_plain_state_dict(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svt_zoo.models, "_BUILDERS", dict(svt_zoo.models._BUILDERS))

    class Small(Backbone):
        embed_dim, num_frames, patch_size = 5, 8, 1

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = torch.nn.Conv3d(3, 4, 3), torch.nn.Linear(4, 5)

    svt_zoo.register_model("small", Small)
    model = create_model("small", num_classes=num_classes)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "plain.pth")
    assert_equal(model, load_model(tmp_path / "plain.pth", model="small", num_classes=None))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return create_model("svt_vitt", **TINY).state_dict()


def test_a_part_that_could_be_read_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The form of Endo-FM's fine-tuned checkpoints."""
    backbone = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": {"linear.weight": torch.zeros(2)}, "backbone_state_dict": backbone}, tmp_path / "w.pth")
    text = refusal(tmp_path / "w.pth", **TINY)
    assert "its part backbone_state_dict is one: load_model(..., prefix='backbone_state_dict.') reads it" in text
    again = load_model(tmp_path / "w.pth", model="svt_vitt", prefix="backbone_state_dict.", **TINY)
    assert_close(dict(again.state_dict()), state, atol=0, rtol=0)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_and_numbers_of_numpy_are_read(
    tmp_path: Path, state: dict[str, Tensor], protocol: int
) -> None:
    extras = {
        "lr": np.float32(1),
        "epoch": np.int64(2),
        "done": np.bool_(True),
        "name": np.str_("é"),
        "acc": np.float64(1),
    }
    torch.save({"state_dict": state, **extras}, tmp_path / "w.pth", pickle_protocol=protocol)
    again = load_model(tmp_path / "w.pth", model="svt_vitt", **TINY)
    assert_close(dict(again.state_dict()), state, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b'{"error": "not found"}', "a JSON file"),
        (b'{"weight_map": {"a": "model-1.safetensors"}}', "model-1.safetensors is not beside it"),
        (b'{"weight_map": {"a": "../w.pth"}}', "../w.pth is not beside it"),
        (b'{"weight_map": 3}', "not a complete index"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert kind in refusal(tmp_path / "w.pth")


def test_a_folder_of_shards_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    names = {key: f"model-{index % 2}.safetensors" for index, key in enumerate(state)}
    for shard in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    again = load_model(tmp_path, model="svt_vitt", **TINY)
    assert_close(dict(again.state_dict()), state, atol=0, rtol=0)


def test_weights_that_are_not_finite_are_refused_unless_asked_for(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["norm.bias"][3] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    assert "NaN or infinite weights in 1 tensors (norm.bias)" in refusal(tmp_path / "w.pth", **TINY)
    again = load_model(tmp_path / "w.pth", model="svt_vitt", allow_nonfinite=True, **TINY)
    assert again.state_dict()["norm.bias"].isnan().any()


def test_sizes_that_fit_a_file_are_named(tmp_path: Path) -> None:
    torch.save(create_model("cpc_resnet18", **{**CPC, "depth": 3}).state_dict(), tmp_path / "w.pth")
    text = refusal(tmp_path / "w.pth", model="cpc_resnet18")
    assert "sizes of the file: depth=3, embed_dim=16, mlp_dim=24 (options of the architecture)" in text


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(50 << 20))
    assert "unpacks to 52428800 bytes" in refusal(tmp_path / "w.pth")


HOSTILE = {
    "depth_10_million": "depth=10000000 is more than",
    "embed_dim_1_million": "does not fit svt_vitt",
    "config_is_a_list": "config in its metadata is a list",
    "config_bad_json": "its metadata cannot be read",
    "format_version_abc": "its metadata cannot be read",
    "num_heads_0": "does not fit",
    "sign_in_page": "an HTML or XML page",
}


@pytest.mark.skipif(not REPORTED.is_dir(), reason="needs ../shared/reported")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(name: str) -> None:
    assert HOSTILE[name] in refusal(REPORTED / f"{name}.safetensors", model=None)


@pytest.mark.parametrize("kwargs", [{"embed_dim": 10**6}, {"depth": 10**7}, {"num_heads": 0}, {"no_such_option": 1}])
def test_a_config_that_the_tensors_do_not_confirm_is_refused(kwargs: dict[str, Any], tmp_path: Path) -> None:
    model = create_model("svt_vitt", **TINY)
    model.meta["model_kwargs"] = {**TINY, **kwargs}
    text = refusal(model.save_pretrained(tmp_path) / "model.safetensors", model=None)
    assert "does not fit svt_vitt" in text


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b"", b"\x1f\x8b\x08\x00", struct.pack("<Q", 9) + b"{"])
def test_of_an_answer_that_is_no_weight_file_no_hash_is_recorded(
    hub_server: HubServer, tmp_path: Path, state: dict[str, Tensor], content: bytes
) -> None:
    hub_server.files["w.safetensors"] = content
    url = f"{hub_server.url}/files/w.safetensors"
    with pytest.raises(WeightsError, match=r"w\.safetensors") as error:
        load_model(url, model="svt_vitt", **TINY)
    assert not lock_path().exists()
    cached = lock_path().parent / "w.safetensors"
    assert str(cached) in str(error.value)
    cached.unlink()
    save_file(state, tmp_path / "right.safetensors")
    hub_server.files["w.safetensors"] = (tmp_path / "right.safetensors").read_bytes()
    assert_close(dict(load_model(url, model="svt_vitt", **TINY).state_dict()), state, atol=0, rtol=0)


def test_a_missing_revision_of_a_repository_is_named(hub_server: HubServer) -> None:
    create_model("svt_vitt", **TINY).push_to_hub("org/tiny")
    with pytest.raises(WeightsError, match="org/tiny has no revision 'nosuch'"):
        svt_zoo.from_pretrained("org/tiny", revision="nosuch")


def test_xvits_number_of_consensus_heads_is_taken_from_the_files_options(tmp_path: Path) -> None:
    options = {**TINY, "embed_dim": 24, "num_heads": 4}
    model = create_model("xvit_vitt", **options, consensus_heads=3)
    cfg = "TEMPORAL_HEAD:\n  HIDDEN_DIM: 24\n  NUM_ATTENTION_HEADS: 3\n"
    torch.save({"model_state": model.state_dict(), "cfg": cfg}, tmp_path / "w.pyth")
    again = load_model(tmp_path / "w.pyth", model="xvit_vitt", **options)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(again(clip).cls, model(clip).cls, atol=0, rtol=0)


def test_an_xvit_file_that_does_not_state_its_consensus_heads_is_refused(tmp_path: Path) -> None:
    model = create_model("xvit_vitt", **TINY, consensus_heads=3)
    torch.save(model.state_dict(), tmp_path / "w.pyth")
    assert "load_model(..., consensus_heads=12)" in refusal(tmp_path / "w.pyth", model="xvit_vitt", **TINY)
    again = load_model(tmp_path / "w.pyth", model="xvit_vitt", **TINY, consensus_heads=3)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(again(clip).cls, model(clip).cls, atol=0, rtol=0)


@pytest.mark.parametrize("clip", [{"num_frames": 0}, {"std": [0, 1, 1]}, {"crop_size": "224"}, {"unknown": 1}])
def test_a_clip_specification_that_cannot_be_is_refused(clip: dict[str, Any], tmp_path: Path) -> None:
    model = create_model("svt_vitt", **TINY)
    model.meta["clip"] = {**svt_zoo.get_weights("svt_vitb_k400").meta["clip"], **clip}
    path = tmp_path / "w.safetensors"
    write_weights(path, model.state_dict(), config_of(model))
    assert "its clip specification cannot be read" in refusal(path, model=None)
