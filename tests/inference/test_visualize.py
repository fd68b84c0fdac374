import logging
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from bright_model import bright_model, moving_square
from commands import command
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from svt_zoo.data.transforms import EvalTransform
from svt_zoo.inference import visualize
from svt_zoo.inference.visualize import (
    attention_maps,
    contact_sheet,
    load_models,
    overlay,
    scale_maps,
    side_by_side,
    unnormalize,
    visualize_attention,
    write_video,
)
from svt_zoo.models import Backbone, Classifier
from svt_zoo.models.attention import attention_rollout, class_attention
from svt_zoo.models.timesformer import TimeSformer
from svt_zoo.video import open_video

TOOL = Path(__file__).resolve().parents[2] / "tools" / "visualize_attention.py"
PATCH, GRID = 16, (4, 4)
SCALE = 104  # pixels: width of the color bar with its gap
PATH = [(0, 3), (1, 1), (3, 2), (2, 0), (0, 0), (3, 3)]
CLIP = {
    "num_frames": len(PATH),
    "sampling_rate": 30.0,
    "resize_size": 64,
    "crop_size": 64,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "channel_order": "RGB",
}


def bright(**clip: object) -> TimeSformer:
    """A model that attends to bright patches, with a clip specification."""
    model = bright_model(PATCH)
    model.meta["clip"] = {**CLIP, **clip}
    return model


@pytest.fixture(scope="module")
def square_video(tmp_path_factory, make_video) -> Path:
    """White square on black, 64 x 96 pixels, in the central 64 columns; moves each second for six seconds."""
    clip = moving_square(GRID, PATH, PATCH)  # (3, T, 64, 64)
    frames = (clip.permute(1, 2, 3, 0) * 255).byte().numpy().repeat(10, axis=0)  # (60, 64, 64, 3)
    frames = np.pad(frames, ((0, 0), (0, 0), (16, 16), (0, 0)))
    return make_video(tmp_path_factory.mktemp("square") / "square.mp4", frames, fps=10)


def patch_of(image: np.ndarray) -> tuple[int, int]:
    """Row and column of the patch with the brightest center in a picture (64, 64, 3)."""
    middles = image.astype(float).mean(axis=2)[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    row, column = np.unravel_index(middles.argmax(), middles.shape)
    return int(row), int(column)


# Maps


@pytest.mark.parametrize(("method", "look"), [("last", class_attention), ("rollout", attention_rollout)])
def test_methods_are_those_of_the_models(method, look) -> None:
    clip = moving_square(GRID, PATH, PATCH).unsqueeze(0)
    assert_close(attention_maps(bright(), clip, method=method), look(bright(), clip))


def test_maps_of_a_classifier_are_those_of_its_backbone() -> None:
    clip = moving_square(GRID, PATH, PATCH).unsqueeze(0)
    assert_close(attention_maps(Classifier(bright(), 5).eval(), clip), attention_maps(bright(), clip))


def test_maps_refuse_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="method must be one of last, rollout, got 'first'"):
        attention_maps(bright(), torch.zeros(1, 3, 1, 16, 16), method="first")


def test_maps_refuse_a_network_without_attention() -> None:
    with pytest.raises(ValueError, match="need a TimeSformer, got a Backbone"):
        attention_maps(Backbone(), torch.zeros(1, 3, 1, 16, 16))


def test_maps_refuse_training_mode_in_which_paths_are_dropped() -> None:
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        attention_maps(bright().train(), torch.zeros(1, 3, 1, 16, 16))


# Frames


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_unnormalize_gives_back_the_frames_that_the_transform_took(order) -> None:
    transform = EvalTransform(
        **{**CLIP, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channel_order": order}
    )
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert_close(unnormalize(transform(frames), transform), frames, atol=0, rtol=0)


def test_unnormalize_shows_the_crop_of_the_network() -> None:
    transform = EvalTransform(**CLIP)
    frames = torch.arange(96, dtype=torch.uint8).view(1, 1, 96, 1).expand(2, 64, 96, 3)
    assert_close(unnormalize(transform(frames), transform), frames[:, :, 16:80], atol=0, rtol=0)


# Colors


def test_maps_are_scaled_alike_in_all_frames() -> None:
    maps = torch.linspace(0, 1, 200).view(2, 10, 10)  # higher everywhere in the second frame
    scaled = scale_maps(maps)
    assert scaled[0].max() < scaled[1].min()
    assert scaled.min() == 0
    assert scaled.max() == 1


def test_one_extreme_patch_does_not_hide_the_others() -> None:
    maps = torch.linspace(0, 1, 400).view(1, 20, 20).clone()
    maps[0, 5, 5] = 1000
    assert scale_maps(maps)[0, 10, 10] > 0.4


def test_an_even_map_stays_flat_instead_of_showing_its_noise() -> None:
    noise = 0.01 * torch.rand(4, 14, 14, generator=torch.Generator().manual_seed(0))
    scaled = scale_maps((1 + noise) / 197)
    assert scaled.max() < 0.02


def test_a_map_of_zeros_can_be_shown() -> None:
    assert_close(scale_maps(torch.zeros(2, 3, 3)), torch.zeros(2, 3, 3))


@pytest.mark.parametrize(("t", "row", "column"), [(0, 0, 0), (0, 2, 1), (1, 1, 4)])
def test_the_hottest_pixel_lies_in_the_patch_where_the_map_peaks(t, row, column) -> None:
    maps = torch.full((2, 3, 5), 0.01)
    maps[t, row, column] = 0.9
    heat = overlay(torch.full((2, 30, 50, 3), 100, dtype=torch.uint8), maps).float().sum(dim=-1)  # (T, H, W)
    frame, y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (frame, y // 10, x // 10) == (t, row, column)
    cold = torch.ones(2, 30, 50, dtype=torch.bool)
    cold[t, max(0, 10 * row - 10) : 10 * row + 20, max(0, 10 * column - 10) : 10 * column + 20] = False
    assert heat[cold].max() < heat.max() / 2


def test_the_overlay_keeps_the_content_and_the_size_of_the_frame() -> None:
    frames = torch.randint(0, 256, (2, 31, 45, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = overlay(frames, torch.full((2, 3, 4), 0.05))
    assert shown.shape == frames.shape
    assert shown.dtype == torch.uint8
    grey = frames.float().mean(dim=-1).flatten()
    assert np.corrcoef(grey, shown.float().mean(dim=-1).flatten())[0, 1] > 0.99


# The sheet


def numbered(num_frames: int) -> Tensor:
    """Frames of 64 x 80 pixels; frame t has the gray level 10 t."""
    return (10 * torch.arange(num_frames, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, 64, 80, 3)


def tile(sheet: Image.Image, line: int, column: int, *, lines: int, columns: int) -> np.ndarray:
    """One picture of a sheet, counted from the scale and the bottom edge."""
    right = sheet.width - SCALE - 8 - (columns - 1 - column) * 88
    bottom = sheet.height - 8 - (lines - 1 - line) * 72
    return np.array(sheet)[bottom - 64 : bottom, right - 80 : right]


@pytest.mark.parametrize(
    ("num_frames", "shown"), [(8, [1, 3, 5, 7]), (16, [2, 6, 10, 14]), (4, [0, 1, 2, 3]), (3, [0, 1, 2]), (1, [0])]
)
def test_the_sheet_shows_uniform_frames_above_their_maps(num_frames, shown) -> None:
    frames = numbered(num_frames)
    maps = torch.rand(num_frames, 4, 5, generator=torch.Generator().manual_seed(0))
    sheet = contact_sheet(frames, {"model": maps})
    heat = overlay(frames, maps)
    for column, t in enumerate(shown):
        assert_close(tile(sheet, 0, column, lines=2, columns=len(shown)), frames[t].numpy())
        assert_close(tile(sheet, 1, column, lines=2, columns=len(shown)), heat[t].numpy())


def test_the_sheet_has_a_labelled_row_for_each_model_and_a_margin_all_around() -> None:
    maps = torch.rand(4, 4, 5)
    one = contact_sheet(numbered(4), {"first": maps})
    two = contact_sheet(numbered(4), {"first": maps, "second\n(random weights)": maps})
    assert two.height == one.height + 64 + 8
    assert two.width > one.width  # the longer label gets more space
    pixels = np.asarray(two.convert("L"))
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()
    labels = pixels[:, : two.width - 4 * 88 - SCALE]
    for line in range(3):
        assert labels[8 + 72 * line : 72 + 72 * line].min() < 100
    assert (labels[:, -8:] == 255).all()  # no letter touches a picture


def test_the_sheet_has_a_scale_for_each_model() -> None:
    maps = torch.rand(4, 4, 5)
    pixels = np.asarray(contact_sheet(numbered(4), {"model": maps}))[:, -SCALE:-8]
    assert (pixels[:72] == 255).all()  # beside the frames
    bar = pixels[80 + 16 : 80 + 48, :24].astype(int)
    assert (bar == bar[:, :1]).all()
    brightness = bar.sum(axis=(1, 2))
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] > 2 * brightness[-1]  # the highest attention is at the top
    for numbers in (pixels[80:96], pixels[128:144]):
        assert numbers.min() < 100


def test_times_are_above_the_columns() -> None:
    maps = torch.rand(4, 4, 5)
    without = contact_sheet(numbered(4), {"m": maps})
    with_times = contact_sheet(numbered(4), {"m": maps}, seconds=[0.0, 1.0, 2.0, 3.0])
    assert with_times.height == without.height + 24 + 8
    header = np.asarray(with_times.convert("L"))[8:32]
    for column in range(4):
        right = with_times.width - SCALE - 8 - (3 - column) * 88
        assert header[:, right - 80 : right].min() < 100


# The video


def test_the_overlay_is_to_the_right_of_the_original() -> None:
    frames, maps = numbered(3), torch.rand(3, 4, 5)
    panels = side_by_side(frames, {"a": maps, "b": 1 - maps})
    assert panels.shape[0] == 3
    assert_close(panels[:, -72:-8, 8:88], frames)
    assert_close(panels[:, -72:-8, 96:176], overlay(frames, maps))
    assert_close(panels[:, -72:-8, 184:264], overlay(frames, 1 - maps))
    assert panels[0, :-72, 96:176].min() < 100  # a caption


@pytest.mark.parametrize("fps", [0.8227, 2.5, 29.97])
def test_a_written_video_has_its_frames_rate_and_duration(tmp_path, fps) -> None:
    frames = numbered(9)
    write_video(tmp_path / "out.mp4", frames, fps)
    with open_video(tmp_path / "out.mp4") as video:
        assert video.num_frames == 9
        assert video.fps == pytest.approx(fps, rel=1e-3)
        assert video.duration == pytest.approx(9 / fps, rel=1e-3)
        assert_close(video.frames_at(range(9)).float(), frames.float(), atol=4, rtol=0)


def test_a_written_video_is_what_every_player_shows_and_odd_sizes_become_even(tmp_path) -> None:
    write_video(tmp_path / "out.mp4", torch.full((3, 33, 47, 3), 90, dtype=torch.uint8), 5)
    with av.open(tmp_path / "out.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.width, stream.height) == ("h264", "yuv420p", 48, 34)
        assert stream.average_rate == Fraction(5)
        assert min(frame.to_ndarray(format="gray").min() for frame in container.decode(stream)) > 80  # no black edge


# All together


@pytest.mark.parametrize("method", ["last", "rollout"])
def test_a_moving_square_glows_in_the_video_and_on_the_sheet(square_video, tmp_path, method) -> None:
    mp4, png = visualize_attention(square_video, {"bright": bright()}, tmp_path / "out", method=method)
    with open_video(mp4) as video:
        shown = video.frames_at(range(video.num_frames)).numpy()
    assert len(shown) == len(PATH)
    assert [patch_of(image) for image in shown[:, -72:-8, 8:72]] == PATH  # the frames
    assert [patch_of(image) for image in shown[:, -72:-8, 80:144]] == PATH  # the attention
    sheet = np.asarray(Image.open(png))
    right = sheet.shape[1] - SCALE
    tiles = [sheet[-72:-8, right - 72 * i : right - 72 * i + 64] for i in (4, 3, 2, 1)]
    assert [patch_of(image) for image in tiles] == [PATH[i] for i in (0, 2, 3, 5)]


def test_compared_models_get_the_same_crop_in_their_own_normalisation(make_video, tmp_path) -> None:
    seen = {}
    frames = np.full((6, 64, 96, 3), (200, 100, 30), np.uint8)
    frames[:, :, 40:] = (10, 120, 220)
    path = make_video(tmp_path / "colours.mp4", frames, fps=1)

    class Watched(TimeSformer):
        def forward(self, clip: Tensor):
            seen[self.name] = clip[0].clone()
            return super().forward(clip)

    models = {"rgb": bright(), "bgr": bright(channel_order="BGR", mean=(0.1, 0.2, 0.3), crop_size=32, num_frames=2)}
    for name, model in models.items():
        model.__class__, model.name = Watched, name
    visualize_attention(path, models, tmp_path / "out")
    expected = seen["rgb"].flip(0) - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)
    assert_close(seen["bgr"], expected)


def test_pixels_that_no_patch_covers_are_not_shown(square_video, tmp_path) -> None:
    _, png = visualize_attention(square_video, {"m": bright(crop_size=60)}, tmp_path / "out")
    _, whole = visualize_attention(square_video, {"m": bright(crop_size=48)}, tmp_path / "whole")
    assert Image.open(png).size == Image.open(whole).size  # 60 pixels hold three patches of 16


def test_a_video_of_one_frame_can_be_shown(make_video, tmp_path) -> None:
    path = make_video(tmp_path / "one.mp4", np.full((1, 64, 64, 3), 80, np.uint8))
    mp4, _ = visualize_attention(path, {"m": bright()}, tmp_path / "out")
    with open_video(mp4) as video:
        assert video.num_frames == len(PATH)  # a short video repeats its frames
        assert video.duration == pytest.approx(1 / 25, rel=0.01)


@pytest.mark.parametrize(("rate", "seconds"), [(15.0, 3.0), (30.0, 6.0), (90.0, 6.0), (None, 6.0)])
def test_the_video_plays_as_long_as_the_clip_lasts(square_video, tmp_path, rate, seconds) -> None:
    mp4, _ = visualize_attention(square_video, {"m": bright(sampling_rate=rate)}, tmp_path / "out")
    with open_video(mp4) as video:
        assert video.duration == pytest.approx(seconds, rel=0.01)


def test_a_long_label_shrinks_to_the_width_of_its_picture() -> None:
    panels = side_by_side(numbered(1), {"a_model_with_a_very_long_name_indeed": torch.rand(1, 4, 5)})
    title = panels[0, :-72, 96:176]  # (H, W, 3)
    assert title.min() < 200
    assert (title[:, [0, -1]] == 255).all()


@pytest.mark.parametrize("folder", ["", "new/"])
def test_in_a_folder_the_files_are_named_after_the_video(square_video, tmp_path, folder) -> None:
    files = visualize_attention(square_video, {"m": bright()}, f"{tmp_path}/{folder}")
    assert files == tuple(tmp_path / folder / f"square_attention{suffix}" for suffix in (".mp4", ".png"))
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize(("output", "stem"), [("new/x", "x"), ("x.mp4", "x"), ("x.png", "x"), ("clip.v2", "clip.v2")])
def test_the_output_is_a_stem_with_or_without_suffix(square_video, tmp_path, output, stem) -> None:
    mp4, png = visualize_attention(square_video, {"m": bright()}, tmp_path / output)
    assert (mp4.name, png.name) == (f"{stem}.mp4", f"{stem}.png")
    assert png.is_file()


def test_the_video_itself_is_never_overwritten(square_video) -> None:
    before = square_video.read_bytes()
    with pytest.raises(ValueError, match="is the video itself"):
        visualize_attention(square_video, {"m": bright()}, square_video)
    assert square_video.read_bytes() == before


def test_a_model_without_clip_specification_is_refused(square_video, tmp_path) -> None:
    with pytest.raises(ValueError, match="no clip specification"):
        visualize_attention(square_video, {"m": bright_model(PATCH)}, tmp_path / "out")


# Models by name


@pytest.mark.parametrize(
    ("name", "size", "full"),
    [
        ("dino", "vitb", "dino_vitb16"),
        ("dino", "vits", "dino_vits16"),
        ("svt", "vitb", "svt_vitb_k400"),
        ("timesformer", "vitb", "timesformer"),  # five rows: the user must choose one
        ("dino_vits16", "vitb", "dino_vits16"),
        ("weights/dino.pth", "vitb", "weights/dino.pth"),
    ],
)
def test_the_name_of_a_family_means_its_only_row_of_the_same_size(name, size, full) -> None:
    assert visualize._full_name(name, size) == full


def test_random_weights_are_named_in_the_label_and_in_the_log(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        models = load_models("dino_vits16", pretrained=False, num_frames=5, img_size=112)
    (label,) = models
    assert label == "dino_vits16\n(random weights)"
    assert "dino_vits16 has random weights" in caplog.text
    assert not models[label].training
    assert models[label].meta["clip"]["num_frames"] == 5
    assert models[label].meta["clip"]["crop_size"] == 112


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A saved model that attends to bright patches."""
    return bright().save_pretrained(tmp_path_factory.mktemp("saved") / "bright") / "model.safetensors"


def test_a_path_is_labelled_by_folder_and_name(saved) -> None:
    assert list(load_models(str(saved))) == ["bright/\nmodel.safetensors"]


def test_the_same_model_twice_is_refused(saved) -> None:
    with pytest.raises(ValueError, match="asked for twice"):
        load_models(str(saved), compare=[str(saved)])


def test_other_weights_are_loaded_into_an_architecture_by_name(saved) -> None:
    models = load_models("svt_vitt", weights=str(saved))
    assert_close(dict(models["svt_vitt"].state_dict()), dict(bright().state_dict()))


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(ValueError, match="did you mean svt_vitb_k400"):
        load_models("svt_vitb_k40")


# The tool


def test_the_tool_prints_the_files_it_wrote(saved, square_video, tmp_path) -> None:
    command = [sys.executable, TOOL, square_video, "--model", saved, "--num-frames", "3", "--output", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / f"square_attention{suffix}") for suffix in (".mp4", ".png")]
    assert done.stderr == ""
    with open_video(tmp_path / "square_attention.mp4") as video:
        assert video.num_frames == 3
        assert video.duration == pytest.approx(6, rel=0.01)


def test_the_tool_compares_models(saved, square_video, tmp_path, capsys) -> None:
    other = bright().save_pretrained(tmp_path / "other") / "model.safetensors"
    arguments = [str(square_video), "--model", str(saved), "--compare", str(other), "--method", "rollout"]
    command("visualize")([*arguments, "--output", str(tmp_path / "both")])
    command("visualize")([str(square_video), "--model", str(saved), "--output", str(tmp_path / "alone")])
    assert capsys.readouterr().out.count("\n") == 4
    assert Image.open(tmp_path / "both.png").height == Image.open(tmp_path / "alone.png").height + 64 + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "--model", "SAVED"], "nowhere.mp4: no such file"),
        (["VIDEO", "--model", "nowhere.pth"], "nowhere.pth: no such file"),
        (["VIDEO", "--model", "SAVED", "--weights", "SAVED"], "no model is named"),
        (["VIDEO", "--model", "svt_vitb_k40"], "did you mean svt_vitb_k400"),
        (["VIDEO", "--model", "SAVED", "--img-size", "8"], "at least 1 frame of 16 x 16 pixels"),
        (["VIDEO", "--model", "SAVED", "--output", "VIDEO/x"], "File exists"),
    ],
)
def test_the_tool_answers_a_mistake_in_one_line(saved, square_video, capsys, arguments, message) -> None:
    known = {"SAVED": saved, "VIDEO": square_video}
    arguments = [str(known.get(a, a)).replace("VIDEO", str(square_video)) for a in arguments]
    assert command("visualize")(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--num-frames", "0"], ["--img-size", "-3"], ["--method", "first"]], ids=str)
def test_the_tool_refuses_arguments_out_of_range(capsys, arguments) -> None:
    with pytest.raises(SystemExit) as stop:
        command("visualize")(["video.mp4", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err
