"""The table: what every row must contain, and what no row may contain."""

from dataclasses import replace

import pytest
import torch

from svt_zoo.hub import entrypoints
from svt_zoo.hub.sources import ByHand, HubFile, PackageFile, UrlFile
from svt_zoo.hub.table import SVT_ViTB_Weights, get_weights, list_weights
from svt_zoo.hub.weights import ClipSpec, Weights
from svt_zoo.models import create_model, list_models

ROWS = [get_weights(name) for name in list_weights()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_its_origin_its_license_and_its_clip(row: Weights) -> None:
    assert row.title
    assert row.license or "license" in row.notes
    assert row.pretrained_on
    assert row.paper.startswith("https://")
    assert isinstance(row.source, HubFile | UrlFile | ByHand | PackageFile)
    assert row.clip.num_frames > 0
    assert row.clip.resize_size >= row.clip.crop_size
    assert row.sha256 is None or len(row.sha256) == 64
    assert get_weights(row.name) is row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_address_is_a_developers_machine(row: Weights) -> None:
    if isinstance(row.source, UrlFile):
        assert row.source.url.startswith("https://")
        assert "localhost" not in row.source.url
        assert "127.0.0.1" not in row.source.url
    elif isinstance(row.source, HubFile):
        pinned = len(row.source.revision) == 40
        assert pinned or "Not pinned" in row.notes
    elif isinstance(row.source, PackageFile):
        assert row.source.path.is_file()
    else:
        assert str(row.source).startswith("https://drive.google.com/file/d/")


@pytest.mark.parametrize(("name", "last"), [("cpc_resnet18_ucf101", 12), ("cpc_resnet18_ucf101_finetuned", 18)])
def test_cpcs_clip_is_every_third_frame_of_ucf101(name: str, last: int) -> None:
    indices = get_weights(name).transforms().clip_indices(100, fps=25)
    assert [i - indices[0] for i in indices] == list(range(0, last + 1, 3))


def test_what_facebooks_timesformers_are_is_what_is_known_of_them() -> None:
    assert get_weights("timesformer_vitb_k600").license == ""
    for name, commit in (("timesformer_vitb_k600", "3da1913"), ("timesformer_vitb_hr_k400", "4448334")):
        assert commit in get_weights(name).notes
    for data in ("k400", "ssv2"):
        row = get_weights(f"timesformer_vitb_hr_{data}")
        assert (row.clip.num_frames, row.clip.crop_size) == (16, 448)
        with torch.device("meta"):
            network = create_model(row.model, num_classes=row.num_classes, **row.model_kwargs)
        megabytes = sum(parameter.numel() for parameter in network.parameters()) * 4 / 1e6
        assert 487 < megabytes < 488.5  # the size of their files
        numbers = {"k400": [79.6, 94.0], "ssv2": [61.8, 86.9]}
        assert [number.value for number in row.published] == numbers[data]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_number_has_a_source(row: Weights) -> None:
    for result in row.published + row.measured:
        assert result.source
        assert 0 < result.value <= 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_has_a_model_and_an_entry_point(row: Weights) -> None:
    assert row.model in list_models()
    assert row.name in entrypoints.__all__


def test_a_copy_on_the_hub_is_preferred_to_the_authors_address() -> None:
    row = SVT_ViTB_Weights.K400
    assert row.file is row.source
    copy = HubFile("org/svt", "model.safetensors", "0" * 40)
    published = replace(row, hub_copy=copy)
    assert published.file is copy
    assert published.meta["source"] == str(row.source)
    assert published.meta["hub_copy"] == str(copy)


def test_rows_are_in_torchvisions_words() -> None:
    row = SVT_ViTB_Weights.DEFAULT
    assert row is SVT_ViTB_Weights.K400
    assert row.meta["license"].startswith("unclear")
    assert row.meta["source"] == "https://github.com/kahnchana/svt/releases/download/v1.0/kinetics400_vitb_ssl.pth"
    assert row.meta["clip"]["mean"] == (0.45, 0.45, 0.45)
    assert row.meta["pretrain_mean_std"][0] == (0.485, 0.456, 0.406)
    assert row.transforms().num_frames == 8


def test_weights_are_listed_by_pattern_and_missed_by_near_names() -> None:
    assert list_weights("dino_*") == ["dino_vitb16", "dino_vits16"]
    with pytest.raises(ValueError, match="no weights are named 'svt_vitb_k40'; did you mean svt_vitb_k400"):
        get_weights("svt_vitb_k40")
    with pytest.raises(ValueError, match=r"no weights are named 'zzz'; list_weights\(\) names all"):
        get_weights("zzz")


def test_another_clip_covers_the_same_seconds_and_the_same_part_of_the_picture() -> None:
    clip = SVT_ViTB_Weights.K400.clip.resized(16, 112)
    assert (clip.num_frames, clip.sampling_rate) == (16, 16)
    assert (clip.crop_size, clip.resize_size) == (112, 128)
    with pytest.raises(ValueError, match="must be >= 1, got 0 and 224"):
        clip.resized(0, 224)
    segments = ClipSpec(8, None, 224, 224, (0.5,) * 3, (0.5,) * 3).resized(16, 224)
    assert segments.sampling_rate is None
