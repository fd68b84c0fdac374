"""The initial network of a run, and the errors if it does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.hub import initial
from svt_zoo.hub.initial import INITIAL_WEIGHTS, load_initial
from svt_zoo.hub.sources import UnfitWeightsError, WeightsError
from svt_zoo.hub.table import get_weights
from svt_zoo.models import create_model

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}
OPTIONS = {**TINY, "num_frames": 6}


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = create_model("timesformer_vitt", **TINY, img_size=32).state_dict()
    state = {key: value for key, value in state.items() if "temporal" not in key and key != "time_embed"}
    torch.save(state, tmp_path / "image.pth")
    return tmp_path / "image.pth"


def test_every_word_names_rows_of_networks_of_that_width() -> None:
    for rows in INITIAL_WEIGHTS.values():
        for width, name in rows.items():
            with torch.device("meta"):
                assert create_model(get_weights(name).model).embed_dim == width


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("timesformer_vitt", {}),
        ("motionformer_vitt", {"tubelet_frames": 2}),
        ("motionformer_vitt", {"attention": "divided", "positions": "joint"}),
        ("xvit_vitt", {}),
    ],
)
def test_an_image_network_starts_every_transformer(
    model: str, options: dict[str, object], image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(initial.INITIAL_WEIGHTS, "dino", {24: str(image_file)})
    network = load_initial("dino", model=model, options={**OPTIONS, **options})
    image: dict[str, Tensor] = torch.load(image_file, weights_only=True)
    state = {key.removeprefix("base_model."): value for key, value in network.state_dict().items()}
    for key in ("blocks.1.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "norm.weight", "cls_token"):
        assert_close(state[key], image[key], atol=0, rtol=0)
    assert network.num_frames == 6  # the table of frames is new and fits the recipe's clip
    assert network.meta["model"] == model
    assert network(torch.zeros(1, 3, 6, 32, 32)).cls.shape == (1, 24)


def test_a_file_of_another_shape_is_not_blamed_on_the_network(image_file: Path) -> None:
    for options in ({**OPTIONS, "depth": 3}, {**OPTIONS, "mlp_ratio": 2}, {**OPTIONS, "no_such_option": 1}):
        with pytest.raises(UnfitWeightsError) as error:
            load_initial(str(image_file), model="svt_vitt", options=options)
        assert str(error.value).startswith(f"init={image_file} does not fit ")
        assert "no network" not in str(error.value)
    with pytest.raises(WeightsError, match=r"init=nowhere\.pth cannot be loaded: no such file \(.*init=random"):
        load_initial("nowhere.pth", model="svt_vitt", options=OPTIONS)
    with pytest.raises(WeightsError, match=r"init=/no/where\.pth cannot be loaded: no such file; check the path"):
        load_initial("/no/where.pth", model="svt_vitt", options=OPTIONS)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(create_model("motionformer_vitt", **TINY).state_dict(), tmp_path / "motionformer.pth")
    with pytest.raises(UnfitWeightsError, match=r"does not fit svt_vitt: attention must be .*, got 'trajectory'"):
        load_initial(str(tmp_path / "motionformer.pth"), model="svt_vitt", options=TINY)


def test_pretrained_weights_start_a_network_whose_classifier_trains_more(tmp_path: Path) -> None:
    small = {"embed_dim": 12, "depth": 1, "num_heads": 2, "mlp_dim": 24, "img_size": 64}
    pretrained = create_model("cpc_resnet18", **small)
    pretrained.save_pretrained(tmp_path)
    tuned = load_initial(
        str(tmp_path), model="cpc_resnet18", options={"pool": "context", "relu": True, "final_bn": True}
    )
    state = tuned.state_dict()
    for name, value in pretrained.state_dict().items():
        assert_close(state[name], value, rtol=0, atol=0)
    assert_close(state["final_bn.weight"], torch.ones(12))
    assert_close(state["final_bn.running_var"], torch.ones(12))
    with pytest.raises(UnfitWeightsError, match=r"keys missing \(norm"):
        load_initial(str(lacking(tmp_path)), model="cpc_resnet18", options={})


def lacking(folder: Path) -> Path:
    """The same weights in another file, without their last norm."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if not key.startswith("norm.")}  # noqa: SIM118
        save_file(tensors, folder / "lacking.safetensors", metadata=file.metadata())
    return folder / "lacking.safetensors"
