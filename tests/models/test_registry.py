"""The contract that every registered model keeps, and the registry itself."""

import copy
import math
from pathlib import Path

import pytest
import torch
from small_models import SMALL, small
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import svt_zoo
from svt_zoo import models
from svt_zoo.models import Backbone, Features, create_model, list_models


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(4, 32, 32), (1, 16, 48), (9, 40, 16), (64, 16, 16)])
def test_any_clip_gives_features_of_the_promised_shape(name: str, size: tuple[int, int, int]) -> None:
    model, (frames, height, width) = small(name), size
    features = model(torch.randn(2, 3, frames, height, width))
    assert isinstance(features, Features)
    assert features.cls.shape == (2, model.cls_dim)
    # A transformer ignores pixels that do not fill a patch; a convolution pads them.
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
    # That bias shifts all scores of a trajectory equally, and softmax ignores such a shift.
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


@pytest.mark.parametrize("name", list_models())
def test_a_created_model_is_in_eval_mode(name: str) -> None:
    for num_classes in (0, 3):
        model = create_model(name, num_classes=num_classes, **SMALL)
        assert not [module for module in model.modules() if module.training]


@pytest.mark.parametrize("name", list_models())
def test_forward_features_is_forward(name: str) -> None:
    model, clip = small(name), torch.randn(1, 3, 4, 32, 32)
    assert_close(model.forward_features(clip), model(clip), atol=0, rtol=0)


@pytest.mark.parametrize("name", list_models())
def test_the_last_intermediate_with_norm_is_what_forward_returns(name: str) -> None:
    model, clip = small(name), torch.randn(2, 3, 4, 32, 32)
    [last] = model.forward_intermediates(clip, 1, norm=True)
    patches = model.pre_logits(last.patches) if hasattr(model, "pre_logits") else last.patches
    assert_close(patches, model(clip).patches)
    assert last.cls.shape == (2, model.embed_dim)


@pytest.mark.parametrize("name", list_models())
def test_intermediates_are_chosen_as_in_timm(name: str) -> None:
    model, clip = small(name), torch.randn(1, 3, 4, 32, 32)
    every = model.forward_intermediates(clip)
    assert len(every) == 2
    assert not torch.equal(every[0].patches, every[1].patches)
    for indices, expected in ((2, every), ([0, -1], every), ([-2], every[:1]), ([1], every[1:]), (1, every[1:])):
        assert_close(model.forward_intermediates(clip, indices), expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", list_models())
def test_the_grid_of_an_intermediate_lies_as_the_frame_does(name: str) -> None:
    model, size = small(name), max(32, 2 * small(name).patch_size)
    clip = torch.randn(2, 3, 4, size, size + size // 2 + 5)
    [features] = model.forward_intermediates(clip, 1)
    [grid] = model.forward_intermediates(clip, 1, output_fmt="BDTHW")
    assert grid.shape[1:3] == (model.embed_dim, features.patches.shape[1])
    rows, columns = grid.shape[3:]
    assert rows < columns
    assert_close(grid[:, :, 0, 1, 2], features.patches[:, 0, columns + 2])
    with pytest.raises(ValueError, match="output_fmt must be one of features, BDTHW, got 'NCHW'"):
        model.forward_intermediates(clip, 1, output_fmt="NCHW")


@pytest.mark.parametrize("indices", [0, 3, [2], [-3], []])
def test_blocks_that_do_not_exist_are_refused(indices: int | list[int]) -> None:
    model, clip = small("svt_vitt"), torch.randn(1, 3, 4, 32, 32)
    with pytest.raises(ValueError, match=r"indices must .* got \[?-?\d?\]?$"):
        model.forward_intermediates(clip, indices)


def test_blocks_after_the_last_intermediate_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("svt_vitt")
    monkeypatch.setattr(model.blocks[1], "forward", lambda *inputs: pytest.fail("the block ran"))
    assert len(model.forward_intermediates(torch.randn(1, 3, 4, 32, 32), [0])) == 1


@pytest.mark.parametrize("name", list_models())
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    model, clip = small(name), torch.randn(2, 3, 4, 32, 32)
    weight = next(parameter for name, parameter in model.named_parameters() if "blocks.0.mlp" in name)
    expected = torch.autograd.grad(model(clip).patches.square().sum(), weight)
    runs: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    model.set_grad_checkpointing()
    assert_close(torch.autograd.grad(model(clip).patches.square().sum(), weight), expected)
    assert len(runs) == 2  # forward, and again in the backward pass


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_vitt")])
def test_the_mlps_alone_can_be_computed_again(name: str) -> None:
    model, clip = small(name), torch.randn(2, 3, 4, 32, 32)
    expected = torch.autograd.grad(model(clip).patches.square().sum(), list(model.blocks.parameters()))
    runs: list[str] = []
    model.blocks[0].register_forward_pre_hook(lambda *_: runs.append("block"))
    model.blocks[0].mlp.fc1.register_forward_pre_hook(lambda *_: runs.append("mlp"))
    model.set_grad_checkpointing("mlp")
    gradients = torch.autograd.grad(model(clip).patches.square().sum(), list(model.blocks.parameters()))
    assert all(map(torch.equal, gradients, expected))
    assert runs == ["block", "mlp", "mlp"]
    model.set_grad_checkpointing(False)
    model(clip).patches.sum().backward()
    assert runs == ["block", "mlp", "mlp", "block", "mlp"]


def test_of_all_products_only_those_of_the_first_layer_of_each_mlp_are_computed_again() -> None:
    """The norms before attention are computed again too, without the products after them."""
    flops = []
    for enable in (False, "mlp"):
        model = small("svt_vitt")
        model.set_grad_checkpointing(enable)
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(2, 3, 4, 32, 32)).patches.square().sum().backward()
        flops.append(counter.get_total_flops())
    tokens, first = 2 * (1 + 4 * 4), model.blocks[0].mlp.fc1
    assert flops[1] - flops[0] == 2 * tokens * first.in_features * first.out_features * len(model.blocks)


def test_another_gradient_checkpointing_is_refused() -> None:
    with pytest.raises(ValueError, match="grad_checkpointing must be true, false or mlp, got 'some'"):
        create_model("svt_vitt", grad_checkpointing="some")
    with pytest.raises(ValueError, match="grad_checkpointing=mlp is not possible for CPCNetwork; use true"):
        create_model("cpc_resnet18", grad_checkpointing="mlp")


@pytest.mark.parametrize("name", list_models())
def test_a_classifier_can_be_reset_to_other_classes(name: str) -> None:
    model = create_model(name, num_classes=3, **SMALL)
    model.set_labels(["a", "b", "c"])
    model.reset_classifier(5)
    assert model.num_classes == model.meta["num_classes"] == 5
    assert model.meta["categories"] is None
    assert model(torch.randn(2, 3, 4, 32, 32)).shape == (2, 5)


def test_a_backbone_has_no_classifier_to_reset() -> None:
    model = small("svt_vitt")
    assert model.num_classes == 0
    model.reset_classifier(0)
    with pytest.raises(
        ValueError, match=r"no classifier to reset to 5 classes; use svt_zoo\.Classifier\(backbone, 5\)"
    ):
        model.reset_classifier(5)


def test_a_classifier_gives_logits() -> None:
    model = create_model("svt_vitt", num_classes=5, **SMALL)
    clip = torch.randn(2, 3, 4, 32, 32)
    assert model(clip).shape == (2, 5)
    assert_close(model.forward_features(clip), model.backbone(clip))
    assert_close(model.forward_intermediates(clip, 1), model.backbone.forward_intermediates(clip, 1))
    with pytest.raises(ValueError, match="num_classes >= 1, got -1"):
        create_model("svt_vitt", num_classes=-1, **SMALL)


@pytest.mark.parametrize("name", [*list_models("*_vitt"), "cpc_resnet18"])
@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(1, 4, 3, 32, 32), r"looks like \(B, T, C, H, W\): clip\.transpose\(1, 2\)"),
        (torch.zeros(3, 4, 32, 32), r"add the batch dimension: clip\.unsqueeze\(0\)"),
        (torch.zeros(1, 4, 32, 32, 3), r"become a clip by model\.transforms\(\)\(frames\)"),
        (
            torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8),
            r"must be floating-point.* got torch\.uint8; model\.transforms",
        ),
    ],
)
def test_a_clip_of_another_layout_or_type_is_refused_with_the_way_out(name: str, clip: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name)(clip)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "each of the 3 classes once, got 2 names"),
        (["a", "b", "a"], "must differ, got 'a' twice"),
        (["a", "b", 3], "must be strings, got 3"),
        ("abc", "got 1 names"),
    ],
)
def test_wrong_class_names_are_refused_when_set(labels: list[str], message: str) -> None:
    model = create_model("svt_vitt", num_classes=3, **SMALL)
    with pytest.raises(ValueError, match=message):
        model.set_labels(labels)


def test_habits_of_timm_get_the_name_of_the_right_call() -> None:
    with pytest.raises(ValueError, match=r"svt_zoo\.load_model\(NAME\), NAME being one of .*svt_vitb_k400"):
        create_model("svt_vitb", pretrained=True)
    with pytest.raises(ValueError, match=r"forward_intermediates\(clip, indices\)"):
        create_model("svt_vitb", features_only=True)
    with pytest.raises(ValueError, match=r"'svt_vitb_k400' names trained weights.*load_model\('svt_vitb_k400'\)"):
        create_model("svt_vitb_k400")
    assert isinstance(create_model("svt_vitt", pretrained=False, **SMALL), Backbone)


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
    model = create_model("mean_colour")
    assert_close(model(clip).cls, clip.mean(dim=(2, 3, 4)))
    with pytest.raises(ValueError, match="forward_intermediates needs blocks, embed_clip and split, which MeanColour"):
        model.forward_intermediates(clip)
    with pytest.raises(ValueError, match="gradient checkpointing needs blocks"):
        model.set_grad_checkpointing()
    assert create_model("mean_colour", num_classes=7)(clip).shape == (2, 7)
    with pytest.raises(ValueError, match="'mean_colour' is registered already"):
        svt_zoo.register_model("mean_colour", build)
    svt_zoo.register_model("no_backbone", lambda: torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"returned a Linear; wrap it in a svt_zoo\.Backbone"):
        create_model("no_backbone")


@pytest.mark.parametrize("name", list_models())
def test_a_model_of_the_zoo_can_be_built_empty_and_filled_by_its_state_dict(name: str) -> None:
    model = small(name)
    with torch.device("meta"):
        empty = create_model(name, **SMALL)
    empty.to_empty(device="cpu")
    assert {key for key, _ in empty.named_buffers()} <= set(empty.state_dict())
    empty.load_state_dict(model.state_dict(), strict=True)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(empty.eval()(clip), model(clip), atol=0, rtol=0)
    assert empty.meta == model.meta


def test_a_registered_builder_is_run_as_it_is_though_its_numbers_will_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUILDERS", dict(models._BUILDERS))

    class WithTable(svt_zoo.Backbone):
        embed_dim, num_frames, patch_size = 3, 8, 1

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.table = torch.arange(3.0)  # in no state dict

        def forward(self, clip: Tensor) -> Features:
            cls = clip.mean(dim=(2, 3, 4)) * self.scale + self.table
            return Features(cls, cls[:, None, None])

    svt_zoo.register_model("with_table", WithTable)
    loaded = svt_zoo.from_pretrained(create_model("with_table").save_pretrained(tmp_path))
    assert_close(loaded.table, torch.arange(3.0))


@pytest.mark.parametrize("name", ["timesformer_vitt", "motionformer_vitt", "xvit_vitt"])
def test_table_std_scales_the_position_tables_of_a_random_network_and_lets_time_matter(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, **SMALL, table_std=0.5)
    tables = [p for key, p in network.named_parameters() if key.endswith(("pos_embed", "time_embed", "temp_embed"))]
    assert len(tables) == 2
    assert all(0.4 < float(table.detach().std()) < 0.6 for table in tables)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        change = (network(clip).cls - network(clip.flip(2)).cls).norm() / network(clip).cls.norm()
    assert change > 1e-4  # without table_std: 1e-7 for TimeSformer
    assert network.meta["model_kwargs"]["table_std"] == 0.5


def test_table_std_is_refused_for_a_network_without_tables() -> None:
    with pytest.raises(ValueError, match="needs a network with position tables"):
        create_model("cpc_resnet18", table_std=0.5)
    with pytest.raises(ValueError, match="must be > 0"):
        create_model("timesformer_vitt", table_std=0.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_heads", 0),
        ("num_heads", 2.0),
        ("embed_dim", 0),
        ("embed_dim", 10**6),
        ("embed_dim", "wide"),
        ("depth", -1),
        ("depth", 10**7),
        ("num_frames", 0),
        ("img_size", -32),
    ],
)
@pytest.mark.parametrize("name", ["timesformer_vitt", "motionformer_vitt", "xvit_vitt", "cpc_resnet18"])
def test_a_size_outside_its_bounds_is_refused_by_name(name: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option} must be an integer from . to [0-9]+, got "), torch.device("meta"):
        create_model(name, **{**SMALL, option: value})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("timesformer_vitt", "patch_size", 0),
        ("timesformer_vitt", "drop_path_rate", 1.0),
        ("motionformer_vitt", "mlp_ratio", 0.0),
        ("motionformer_vitt", "num_landmarks", 0),
        ("xvit_vitt", "consensus_heads", 0),
        ("xvit_vitt", "consensus_dim", 0),
        ("cpc_resnet18", "mlp_dim", 0),
        ("cpc_resnet18", "dropout", -0.1),
    ],
)
def test_an_option_of_one_network_outside_its_bounds_is_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option.removeprefix('consensus_')} must be"):
        create_model(name, **{**SMALL, option: value})
