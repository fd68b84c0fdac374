"""The contract that every registered model keeps, and the registry itself."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import svt_zoo
from svt_zoo import models
from svt_zoo.models import Backbone, Features, create_model, list_models

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}


def small(name: str) -> Backbone:
    torch.manual_seed(0)
    model = create_model(name, **SMALL)
    assert isinstance(model, Backbone)
    for parameter in model.parameters():  # so that what starts at zero has a say
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(4, 32, 32), (1, 16, 48), (9, 40, 16), (64, 16, 16)])
def test_any_clip_gives_features_of_the_promised_shape(name: str, size: tuple[int, int, int]) -> None:
    model, (frames, height, width) = small(name), size
    features = model(torch.randn(2, 3, frames, height, width))
    assert isinstance(features, Features)
    assert features.cls.shape == (2, model.cls_dim)
    # A transformer leaves out what fills no patch; a convolution pads it.
    rows, columns = (side / model.patch_size for side in (height, width))
    cut = math.ceil if name.startswith("cpc") else math.floor
    assert features.patches.shape == (2, frames, cut(rows) * cut(columns), model.embed_dim)


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = small(name)
    features = model(torch.randn(2, 3, 4, 32, 32))
    (features.cls.square().sum() + features.patches.square().sum()).backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert not [key for key, grad in grads.items() if grad is None]
    # That bias shifts all points of a trajectory alike, to which softmax is blind.
    assert not [key for key, grad in grads.items() if not grad.abs().max() > 0 and not key.endswith("proj_kv.bias")]


@pytest.mark.parametrize("name", list_models())
def test_a_clips_feature_does_not_depend_on_its_batch(name: str) -> None:
    model, clips = small(name).double(), torch.randn(3, 3, 4, 32, 32, dtype=torch.float64)
    together = model(clips)
    assert_close(model(clips[[2, 0, 1]]).cls, together.cls[[2, 0, 1]])
    assert_close(model(clips[1:2]).patches, together.patches[1:2])


@pytest.mark.parametrize("name", list_models())
def test_a_state_dict_round_trip_gives_equal_outputs(name: str) -> None:
    model, clip = small(name), torch.randn(1, 3, 4, 32, 32)
    other = create_model(name, **SMALL).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    assert_close(other(clip), model(clip), atol=0, rtol=0)


@pytest.mark.parametrize("name", list_models())
def test_a_copy_carries_its_own_story(name: str) -> None:
    model = create_model(name, **SMALL)
    twin = copy.deepcopy(model)
    twin.meta["model"] = "changed"
    assert model.meta["model"] == name


def test_a_classifier_gives_logits() -> None:
    model = create_model("svt_vitt", num_classes=5, **SMALL)
    assert model(torch.randn(2, 3, 4, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="num_classes >= 1, got -1"):
        create_model("svt_vitt", num_classes=-1, **SMALL)


def test_models_are_listed_by_pattern() -> None:
    assert list_models("svt_*") == ["svt_vitb", "svt_vitl", "svt_vits", "svt_vitt"]
    assert list_models("nothing*") == []


def test_an_unknown_model_suggests_near_names() -> None:
    with pytest.raises(ValueError, match="no model is named 'svt_vit_b'; did you mean svt_vitb"):
        create_model("svt_vit_b")


def test_a_model_of_ones_own_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_BUILDERS", dict(models._BUILDERS))

    class MeanColour(svt_zoo.Backbone):
        embed_dim, num_frames, patch_size = 3, 8, 1

        def forward(self, clip: Tensor) -> Features:
            return Features(clip.mean(dim=(2, 3, 4)), clip.flatten(3).permute(0, 2, 3, 1))

    @svt_zoo.register_model("mean_colour")
    def build() -> MeanColour:
        return MeanColour()

    clip = torch.rand(2, 3, 4, 5, 6)
    assert_close(create_model("mean_colour")(clip).cls, clip.mean(dim=(2, 3, 4)))
    assert create_model("mean_colour", num_classes=7)(clip).shape == (2, 7)
    with pytest.raises(ValueError, match="'mean_colour' is registered already"):
        svt_zoo.register_model("mean_colour", build)
    svt_zoo.register_model("no_backbone", lambda: torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"returned a Linear; wrap it in a svt_zoo\.Backbone"):
        create_model("no_backbone")


@pytest.mark.parametrize("name", list_models())
def test_a_model_of_the_zoo_can_be_built_empty_and_filled_by_its_state_dict(name: str) -> None:
    model, empty = small(name), models.create_empty(name, **SMALL)
    assert {key for key, _ in empty.named_buffers()} <= set(empty.state_dict())
    empty.load_state_dict(model.state_dict(), strict=True)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(empty.eval()(clip), model(clip), atol=0, rtol=0)
    assert empty.meta == model.meta


def test_building_empty_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    models.create_empty("svt_vitt", **SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_registered_builder_is_run_as_it_is_though_its_numbers_will_be_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "_BUILDERS", dict(models._BUILDERS))

    class WithTable(svt_zoo.Backbone):
        embed_dim, num_frames, patch_size = 3, 8, 1

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(3.0)  # in no state dict

    svt_zoo.register_model("with_table", WithTable)
    empty = models.create_empty("with_table")
    assert_close(empty.table, torch.arange(3.0))
