"""Loading a network from each kind of source: strictly, or with a one-line error."""

import argparse
import io
import json
import logging
import os
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from iopath.common import file_io
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import svt_zoo
from svt_zoo import models
from svt_zoo.hub import loading, table
from svt_zoo.hub.convert import to_hf_timesformer, to_svt, to_timesformer
from svt_zoo.hub.loading import load_model
from svt_zoo.hub.sources import HubFile, WeightsError
from svt_zoo.hub.table import get_weights
from svt_zoo.hub.weights import ClipSpec, Weights
from svt_zoo.inference.predict import label_names
from svt_zoo.models import Backbone, Classifier, Features, create_model
from svt_zoo.models.timesformer import TimeSformer

WIDTHS = {"embed_dim": 24, "depth": 2, "num_heads": 2}
SMALL = {**WIDTHS, "img_size": 32, "num_frames": 4}


@pytest.fixture
def network() -> TimeSformer:
    torch.manual_seed(0)
    model = create_model("svt_vitt", **SMALL)
    assert isinstance(model, TimeSformer)
    torch.nn.init.normal_(model.time_embed)
    return model.eval()


@pytest.fixture
def clip() -> Tensor:
    return torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def small(path: Path, **options: Any) -> Any:
    return load_model(path, **{"model": "svt_vitt", **WIDTHS, **options})


def released(network: TimeSformer) -> dict[str, Tensor]:
    return to_svt(network.state_dict()) | {"head.mlp.0.weight": torch.zeros(8, 24)}


@pytest.mark.parametrize("kind", ["flat", "training", "safetensors", "facebook"])
def test_an_original_checkpoint_gives_the_same_features(
    tmp_path: Path, network: TimeSformer, clip: Tensor, kind: str
) -> None:
    path = tmp_path / "weights.pth"
    if kind == "flat":
        torch.save(released(network), path)
    elif kind == "training":
        torch.save({"teacher": released(network), "epoch": 1, "args": argparse.Namespace(lr=0.1)}, path)
    elif kind == "facebook":
        torch.save(to_timesformer(network.state_dict()), path)
    else:
        save_file(released(network), path)
    model = small(path)
    assert not model.training
    assert_close(model(clip), network(clip), atol=0, rtol=0)


def test_the_released_vitb_file_loads_through_its_entry_point(tmp_path: Path) -> None:
    """In SVT's own names and sizes, with the projection head's names (fewer than its 65,536 rows)."""
    torch.manual_seed(0)
    state = create_model("svt_vitb").state_dict()
    head = {"head.last_layer.weight_v": torch.zeros(4, 256), "head.last_layer.weight_g": torch.ones(4, 1)}
    path = tmp_path / "kinetics400_vitb_ssl.pth"
    torch.save(to_svt(state) | head, path)
    model = svt_zoo.svt_vitb_k400(weights=str(path), num_frames=16, img_size=112)
    assert_close(model.state_dict(), state, atol=0, rtol=0)
    assert model.time_embed.shape == (1, 8, 768)  # the clip changes, the stored table does not
    transform = model.transforms()
    assert (transform.num_frames, transform.crop_size) == (16, (112, 112))


def test_what_a_backbone_does_not_use_is_said_once(
    tmp_path: Path, network: TimeSformer, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(released(network), tmp_path / "weights.pth")
    with caplog.at_level(logging.WARNING):
        small(tmp_path / "weights.pth")
    assert len(caplog.records) == 1
    assert "weights.pth: left out, as the network does not use it: head.mlp.0" in caplog.text


def test_a_training_checkpoint_is_reported_in_one_line(
    tmp_path: Path, network: TimeSformer, caplog: pytest.LogCaptureFixture
) -> None:
    head = {"head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7), "temp_head.weight": torch.zeros(2)}
    torch.save({"model_state": network.state_dict() | head, "optimizer_state": {"state": {}}}, tmp_path / "t.pyth")
    small(tmp_path / "t.pyth")
    assert [record.getMessage().partition("use it: ")[2] for record in caplog.records] == [
        "head, optimizer_state, temp_head"
    ]


def test_missing_extra_and_misshapen_keys_are_refused_in_one_line(tmp_path: Path, network: TimeSformer) -> None:
    state = released(network)
    del state["backbone.norm.weight"]
    state["backbone.blocks.0.surprise"] = torch.zeros(1)
    state["backbone.norm.bias"] = torch.zeros(25)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as error:
        small(tmp_path / "weights.pth")
    assert "weights.pth does not fit TimeSformer" in str(error.value)
    assert "1 keys missing (norm.weight)" in str(error.value)
    assert "1 unknown keys (blocks.0.surprise)" in str(error.value)
    assert "norm.bias is (25,), not (24,)" in str(error.value)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch bomb_went_off",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any, Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"teacher": Bomb()}, tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError,
        match=r"weights\.pth: refused, it holds more than .*(GLOBAL posix.system|Unsupported operand)",
    ):
        small(tmp_path / "weights.pth")
    assert not (tmp_path / "bomb_went_off").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, network: TimeSformer, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(released(network), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=f"weights{suffix}: (not a complete|refused)"):
        small(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"12345678{"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth: "):
        small(path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth: not a checkpoint format of the zoo \(it holds conv1"):
        small(tmp_path / "resnet.pth")


def test_a_classifier_takes_the_files_head_if_it_fits(
    tmp_path: Path, network: TimeSformer, clip: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = Classifier(network, 7).eval()
    head = {f"head.{key}": value for key, value in classifier.head.state_dict().items()}
    torch.save(to_timesformer(network.state_dict() | head), tmp_path / "w.pyth")
    assert_close(small(tmp_path / "w.pyth", num_classes=7)(clip), classifier(clip), atol=0, rtol=0)
    assert not caplog.records
    assert small(tmp_path / "w.pyth", num_classes=5)(clip).shape == (1, 5)
    assert "the classifier of 5 classes is new and untrained; the file has one of 7 classes" in caplog.text


def test_a_file_without_an_architecture_asks_for_one(tmp_path: Path, network: TimeSformer) -> None:
    torch.save(released(network), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"not state its architecture; load it by load_model\(\.\.\., model=NAME\)"):
        load_model(tmp_path / "w.pth")


def test_half_precision_files_give_float32_networks(tmp_path: Path, network: TimeSformer) -> None:
    torch.save({key: value.half() for key, value in released(network).items()}, tmp_path / "w.pth")
    assert {p.dtype for p in small(tmp_path / "w.pth").parameters()} == {torch.float32}


def test_a_misspelled_row_is_not_taken_for_a_path() -> None:
    with pytest.raises(ValueError, match="did you mean svt_vitb_k400"):
        load_model("svt_vitb_k4000")
    with pytest.raises(WeightsError, match="no such file"):
        load_model("nowhere/w.pth", model="svt_vitt")


def test_a_saved_folder_rebuilds_itself(tmp_path: Path, network: TimeSformer, clip: Tensor) -> None:
    folder = network.save_pretrained(tmp_path / "mine")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = svt_zoo.from_pretrained(folder)
    assert_close(again(clip), network(clip), atol=0, rtol=0)
    assert load_model(folder / "model.safetensors").meta["model_kwargs"] == SMALL  # one file is enough, too
    assert load_model(str(folder)).meta["model_kwargs"] == SMALL
    assert_close(load_file(folder / "model.safetensors"), network.state_dict(), atol=0, rtol=0)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"mine holds neither final\.safetensors nor model\.safetensors"):
        load_model(folder)


def test_a_saved_classifier_comes_back_as_one(tmp_path: Path, clip: Tensor) -> None:
    model = create_model("svt_vitt", num_classes=3, attention="joint_space_time", **SMALL).eval()
    model.meta["categories"] = ["a", "b", "c"]
    again = svt_zoo.from_pretrained(model.save_pretrained(tmp_path / "mine"))
    assert_close(again(clip), model(clip), atol=0, rtol=0)
    assert again.meta["categories"] == ["a", "b", "c"]
    assert svt_zoo.from_pretrained(tmp_path / "mine", num_classes=0)(clip).cls.shape == (1, 24)


def test_a_newer_format_is_refused(tmp_path: Path, network: TimeSformer) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors", metadata={"format_version": "99", "config": "{}"})
    with pytest.raises(WeightsError, match="its format_version is 99, this version of svt_zoo reads up to 1"):
        small(tmp_path / "w.safetensors")


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        svt_zoo.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vivit"}))
    with pytest.raises(WeightsError, match=r"config\.json was written neither by svt_zoo nor for"):
        svt_zoo.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a folder, which has no revision='main'"):
        svt_zoo.from_pretrained(tmp_path, revision="main")
    (tmp_path / "config.json").write_text("{half a")
    with pytest.raises(WeightsError, match=r"config\.json was written neither by svt_zoo nor for"):
        svt_zoo.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["svt_vitb_k400", "./nowhere", "org/name/model.safetensors", ""])
def test_what_is_neither_a_folder_nor_a_repository_is_refused_without_a_request(
    hub_server: HubServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        (ValueError, WeightsError), match=r"neither a folder nor a Hub repository|holds no config\.json"
    ):
        svt_zoo.from_pretrained(name)
    assert hub_server.requests == []


def test_a_network_the_zoo_did_not_build_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TimeSformer has no meta\['model'\]"):
        TimeSformer(**SMALL).save_pretrained(tmp_path / "x")


def test_a_row_brings_its_license_and_its_clip_along(
    tmp_path: Path, network: TimeSformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(released(network), path)
    row = Weights(
        name="small",
        model="svt_vitt",
        source=HubFile("org/small", "model.safetensors", "0" * 40),
        clip=ClipSpec(4, 8, 36, 32, (0.5,) * 3, (0.5,) * 3),
        title="a small one",
        paper="",
        license="CC0",
        pretrained_on="noise",
    )
    monkeypatch.setattr(loading, "fetched", lambda source, **_: nullcontext(path))
    model = load_model(row, **WIDTHS)
    assert model.meta["license"] == "CC0"
    assert model.meta["weights"] == "small"
    assert model.transforms().crop_size == (32, 32)


@pytest.fixture
def recorded(oracle: Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]) -> dict[str, Any]:
    """SVT's own small network: a weight file in its format, a clip, and the recorded feature."""
    state, cases = oracle("svt/tiny_model_weights")[0], oracle("svt/tiny_model_cases")[0]
    buffer = io.BytesIO()
    torch.save(to_svt(state) | {"head.mlp.0.weight": torch.zeros(2, 48)}, buffer)
    return {"file": buffer.getvalue(), "clip": cases["native/input"].float(), "cls": cases["native/cls"].float()}


class Shelf(file_io.PathHandler):  # type: ignore[misc]
    """A custom iopath handler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["shelf://"]

    def _get_local_path(self, path: str, force: bool = False, **_: object) -> str:
        return str(self.folder / path.removeprefix("shelf://"))


@pytest.mark.parametrize("way", ["path", "text", "web", "hub", "iopath", "row", "row's name"])
def test_svts_own_file_gives_svts_own_features_by_every_way(
    recorded: dict[str, Any], hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "svt.pth"
    path.write_bytes(recorded["file"])
    hub_server.files["svt.pth"] = recorded["file"]
    sha = hub_server.add_repo("org/svt", {"sub/svt.pth": recorded["file"]})
    manager = file_io.PathManager()
    manager.register_handler(Shelf(tmp_path))
    monkeypatch.setattr(file_io, "g_pathmgr", manager)
    row = replace(get_weights("svt_vitb_k400"), name="tiny", source=HubFile("org/svt", "sub/svt.pth", sha))
    monkeypatch.setitem(table.TABLE, "tiny", row)
    ways = {
        "path": path,
        "text": str(path),
        "web": f"{hub_server.url}/files/svt.pth",
        "hub": f"hf://org/svt/sub/svt.pth@{sha}",
        "iopath": "shelf://svt.pth",
        "row": row,
        "row's name": "tiny",
    }
    model = load_model(ways[way], model="svt_vitb_k400", embed_dim=48, depth=3, num_heads=4)
    assert_close(model(recorded["clip"]).cls, recorded["cls"], atol=1e-4, rtol=0)
    assert model.transforms().sampling_rate == 32  # the row's clip, which the file shares


def test_what_a_foreign_file_taught_about_the_architecture_is_remembered(tmp_path: Path, network: TimeSformer) -> None:
    torch.save(released(network), tmp_path / "w.pth")
    model = small(tmp_path / "w.pth")
    assert model.meta["model_kwargs"] == {**SMALL, "patch_size": 16}
    again = create_model(model.meta["model"], **model.meta["model_kwargs"])
    assert again.state_dict()["time_embed"].shape == (1, 4, 24)


def test_without_a_number_of_classes_the_file_says_it(tmp_path: Path, network: TimeSformer, clip: Tensor) -> None:
    torch.save(released(network), tmp_path / "backbone.pth")
    assert small(tmp_path / "backbone.pth", num_classes=None)(clip).cls.shape == (1, 24)
    head = {"head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7)}
    torch.save(to_hf_timesformer(network.state_dict() | head), tmp_path / "pytorch_model.bin")
    model = small(tmp_path / "pytorch_model.bin", num_classes=None)
    assert model(clip).shape == (1, 7)
    assert (model.meta["num_classes"], model.backbone.meta["num_classes"]) == (7, 0)


def test_a_new_classifier_does_not_take_the_old_ones_labels(tmp_path: Path, network: TimeSformer) -> None:
    old = Classifier(network, 3)
    old.meta["categories"] = ["run", "jump", "sit"]
    file = old.save_pretrained(tmp_path) / "model.safetensors"
    assert load_model(file, num_classes=3).meta["categories"] == ["run", "jump", "sit"]
    assert load_model(file, num_classes=2).meta["categories"] is None


@pytest.fixture
def labeled(hub_server: HubServer, network: TimeSformer) -> Callable[[dict[str, bytes]], Weights]:
    """`labeled(more)`: the row of a classifier of two classes, in a repository with `more` files."""

    def publish(more: dict[str, bytes]) -> Weights:
        buffer = io.BytesIO()
        torch.save(to_hf_timesformer(Classifier(network, 2).state_dict()), buffer)
        sha = hub_server.add_repo("org/tiny", {"pytorch_model.bin": buffer.getvalue(), **more})
        files = [HubFile("org/tiny", name, sha) for name in ("pytorch_model.bin", "config.json")]
        return replace(get_weights("timesformer_vitb_k400"), source=files[0], labels=files[1])

    return publish


def test_a_row_loaded_once_knows_the_names_of_its_classes_without_a_network(
    labeled: Callable[[dict[str, bytes]], Weights],
    hub_server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = labeled({"config.json": b'{"id2label": {"0": "run", "1": "sit"}}'})
    load_model(row, **WIDTHS)
    load_model(row, num_classes=3, **WIDTHS)
    assert not any("config.json" in request.path for request in hub_server.requests)  # no classifier of the row's
    load_model(row, num_classes=2, **WIDTHS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    caplog.clear()
    model = load_model(row, num_classes=None, **WIDTHS)
    assert isinstance(model, Classifier)
    assert label_names(model) == ["run", "sit"]
    assert not caplog.records


def test_names_that_cannot_be_had_are_one_warning_and_no_error(
    labeled: Callable[[dict[str, bytes]], Weights], caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(load_model(labeled({}), num_classes=2, **WIDTHS), Classifier)
    assert len(caplog.records) == 1
    assert "the classes stay without names: hf://org/tiny/config.json@" in caplog.text


def test_of_a_students_checkpoint_the_teacher_is_read_and_the_log_says_why(
    tmp_path: Path, network: TimeSformer, clip: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    student = {key: torch.zeros_like(value) for key, value in released(network).items()}
    torch.save({"student": student, "teacher": released(network)}, tmp_path / "checkpoint.pth")
    assert_close(small(tmp_path / "checkpoint.pth")(clip), network(clip), atol=0, rtol=0)
    assert "student (read is the teacher, which its method evaluates)" in caplog.text


def test_a_misspelled_model_is_refused_before_anything_is_fetched(hub_server: HubServer) -> None:
    with pytest.raises(ValueError, match="no model is named 'svt_vit_b'; did you mean svt_vitb"):
        load_model("hf://org/svt/weights.pth@main", model="svt_vit_b")
    assert hub_server.requests == []


def test_of_a_branch_the_commit_is_recorded(
    recorded: dict[str, Any], hub_server: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    sha = hub_server.add_repo("org/svt", {"svt.pth": recorded["file"]})
    row = replace(
        get_weights("svt_vitb_k400"), name="tiny", source=HubFile("org/svt", "svt.pth", "0" * 40), sha256="0" * 64
    )
    model = load_model(row, revision="main", embed_dim=48, depth=3, num_heads=4)
    assert model.meta["file"] == f"hf://org/svt/svt.pth@{sha}"  # main may move
    assert f"hf://org/svt/svt.pth@main may change: load commit {sha}" in caplog.text


def test_a_network_of_ones_own_with_a_backbone_inside_comes_back(
    tmp_path: Path, clip: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUILDERS", dict(models._BUILDERS))

    class Convolutional(Backbone):
        embed_dim, num_frames, patch_size = 5, 8, 1

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = torch.nn.Conv3d(3, 4, 3), torch.nn.Linear(4, 5)

        def forward(self, clip: Tensor) -> Features:
            tokens = self.head(self.backbone(clip).permute(0, 2, 3, 4, 1))  # (B, T, H, W, 5)
            return Features(tokens.mean(dim=(1, 2, 3)), tokens.flatten(2, 3))

    svt_zoo.register_model("convolutional", Convolutional)
    for num_classes in (0, 6):
        model = create_model("convolutional", num_classes=num_classes).eval()
        again = svt_zoo.from_pretrained(model.save_pretrained(tmp_path / str(num_classes)))
        assert_close(again(clip), model(clip), atol=0, rtol=0)


def test_metadata_of_somebody_else_is_not_taken_for_ours(tmp_path: Path, network: TimeSformer) -> None:
    save_file(released(network), tmp_path / "w.safetensors", metadata={"format_version": "1.0"})
    assert_close(dict(small(tmp_path / "w.safetensors").state_dict()), dict(network.state_dict()))


def test_an_architectures_name_in_place_of_weights_names_the_right_call() -> None:
    message = r"'svt_vitb' names an architecture, not weights; svt_zoo\.create_model\('svt_vitb'\) .* svt_vitb_k400"
    with pytest.raises(ValueError, match=message):
        load_model("svt_vitb")
