"""`embed` and `predict`: from videos to features and classes."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command
from small_models import CLIP_SPEC
from torch.testing import assert_close

import svt_zoo
from svt_zoo import embed, predict
from svt_zoo.evaluation.views import load_views, parse_views
from svt_zoo.models import Classifier, ZooModel, create_model

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 4}


def network(num_classes: int = 0) -> ZooModel:
    torch.manual_seed(0)
    model = create_model("svt_vitt", num_classes=num_classes, **SMALL).eval()
    model.meta["clip"] = CLIP_SPEC
    return model


def with_clip(model: ZooModel) -> ZooModel:
    model.meta = {"clip": CLIP_SPEC}
    return model


@pytest.fixture(scope="module")
def videos(gray_video: Callable[..., Path]) -> list[Path]:
    return [gray_video(30), gray_video(45)]


def test_videos_become_one_row_each_in_the_order_given(videos: list[Path]) -> None:
    model = network()
    features = embed(videos, model=model, dtype="float32")
    assert features.shape == (2, 24)
    assert features.dtype == torch.float32
    assert_close(embed(videos[::-1], model=model, dtype="float32"), features.flip(0))
    assert_close(embed(videos[1], model=model, dtype="float32"), features[1:])
    by_hand = model(torch.stack(load_views(videos[1], parse_views("1x1", model.transforms())))).cls
    assert_close(features[1:], by_hand)


def test_the_features_of_several_views_are_averaged(videos: list[Path]) -> None:
    model = network()
    views = torch.stack(load_views(videos[1], parse_views("3x2", model.transforms())))
    mean = model(views).cls.mean(dim=0, keepdim=True)
    assert_close(embed(videos[1], model=model, views="3x2", dtype="float32", batch_size=4), mean)


def test_slow_and_fast_clips_are_averaged(videos: list[Path]) -> None:
    model = network()
    slow, fast = load_views(videos[1], parse_views("slow-fast 1x1", model.transforms()))
    assert fast.shape[1] > slow.shape[1]
    mean = torch.stack([model(view[None]).cls for view in (slow, fast)]).mean(dim=0)
    assert_close(embed(videos[1], model=model, views="slow-fast 1x1", dtype="float32"), mean)


def test_a_classifier_gives_its_backbones_features(videos: list[Path]) -> None:
    model = network(num_classes=3)
    assert isinstance(model, Classifier)
    assert_close(
        embed(videos, model=model, dtype="float32"), embed(videos, model=with_clip(model.backbone), dtype="float32")
    )


def test_the_callers_model_is_not_changed(videos: list[Path]) -> None:
    model = network().train()
    embed(videos[:1], model=model, dtype="bfloat16")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_features_point_the_same_way(videos: list[Path]) -> None:
    model = network()
    single, half = (embed(videos, model=model, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(single, half).min() > 0.999


def test_a_broken_video_is_not_left_out_silently(videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(svt_zoo.VideoReadError, match=r"broken\.mp4"):
        embed([*videos, tmp_path / "broken.mp4"], model=network())
    with pytest.raises(ValueError, match="at least one video"):
        embed([], model=network())


def test_probabilities_are_averaged_over_views(videos: list[Path]) -> None:
    model = network(num_classes=3)
    model.set_labels(["run", "jump", "sit"])
    [prediction] = predict(videos[:1], model=model, top=3, views="3x1", dtype="float32")
    views = torch.stack(load_views(videos[0], parse_views("3x1", model.transforms())))
    expected = model(views).softmax(-1).mean(0)
    assert prediction.path == videos[0]
    assert sum(prediction.scores) == pytest.approx(1)
    assert prediction.scores == sorted(prediction.scores, reverse=True)
    assert dict(zip(prediction.labels, prediction.scores, strict=True))["jump"] == pytest.approx(expected[1].item())


def test_class_names_are_kept_by_files_and_used_by_predict(videos: list[Path], tmp_path: Path) -> None:
    model = network(num_classes=2)
    assert set(predict(videos[:1], model=model)[0].labels) == {"0", "1"}
    model.set_labels(["zero", "one"])
    again = svt_zoo.from_pretrained(model.save_pretrained(tmp_path / "model"))
    for named in (model, again):
        assert set(predict(videos[:1], model=named)[0].labels) == {"zero", "one"}


def test_class_names_come_from_the_file_that_the_weights_name(videos: list[Path], tmp_path: Path) -> None:
    model = network(num_classes=2)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "zero", "1": "one"}}))
    model.meta["labels"] = str(tmp_path / "config.json")
    assert set(predict(videos[:1], model=model)[0].labels) == {"zero", "one"}


@pytest.mark.parametrize("key", ["labels", "categories"])
def test_class_names_written_into_meta_are_used_if_they_fit(videos: list[Path], tmp_path: Path, key: str) -> None:
    model = network(num_classes=2)
    model.meta[key] = ["a", "b"]
    assert set(predict(videos[:1], model=model)[0].labels) == {"a", "b"}
    model.meta[key] = ["a", "b", "c"]
    for call in (lambda: predict(videos[:1], model=model), lambda: model.save_pretrained(tmp_path / "model")):
        with pytest.raises(ValueError, match="labels must name each of the 2 classes once, got 3 names"):
            call()


def test_a_folder_gives_all_its_videos(videos: list[Path], tmp_path: Path) -> None:
    model = network()
    for name, video in zip(("b.mp4", "a.mp4"), videos, strict=True):
        (tmp_path / name).symlink_to(video)
    assert_close(embed(tmp_path, model=model), embed(videos[::-1], model=model))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no video in this folder"):
        embed(tmp_path / "empty", model=model)


def test_frames_are_taken_as_a_video_of_30_frames_per_second(gray_video: Callable[..., Path]) -> None:
    model, file = network(), gray_video(45, fps=30)
    with svt_zoo.open_video(file) as video:
        frames = video.frames_at(range(video.num_frames))
    expected = embed(file, model=model, views="3x2")
    for given in (frames, frames.numpy(), frames.permute(0, 3, 1, 2)):
        assert_close(embed(given, model=model, views="3x2"), expected, atol=0, rtol=0)
    assert_close(embed([file, frames], model=model, views="3x2"), expected.expand(2, -1), atol=0, rtol=0)


def test_a_float_tensor_is_clips_that_are_normalized_already() -> None:
    model = create_model("svt_vitt", **SMALL)  # without a clip specification
    clips = torch.randn(3, 3, 4, 32, 32)
    assert_close(embed(clips, model=model, dtype="float32"), model(clips).cls)
    assert_close(embed(clips[0], model=model, dtype="float32"), model(clips[:1]).cls)
    classifier = network(num_classes=2)
    assert [found.path for found in predict(clips, model=classifier)] == [None] * 3


@pytest.mark.parametrize(
    "given",
    [torch.zeros(4, 32, 32, 3), torch.zeros(3, 4, 32, 32, dtype=torch.uint8), np.zeros((32, 32, 3), np.uint8)],
    ids=["float frames", "uint8 clip", "one frame"],
)
def test_an_array_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 frames \(T, H, W, 3\) or .*, got "):
        embed(given, model=network())


def test_a_backbone_predicts_no_label(videos: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"has no classifier; embed\(\) gives its features"):
        predict(videos[:1], model=network())


def test_the_tool_prints_features_or_labels(
    videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = command("predict")
    model = network(num_classes=2)
    model.meta["categories"] = ["clean", "jerk"]
    file = str(model.save_pretrained(tmp_path / "mine") / "model.safetensors")
    assert tool([str(videos[0]), "--model", file, "--views", "3x1"]) == 0
    out = capsys.readouterr().out
    assert "clean" in out
    assert "%" in out
    embed_command = command("embed")
    assert embed_command([str(videos[0]), "--weights", file, "--model", "svt_vitt"]) == 0
    assert ": 24 numbers: " in capsys.readouterr().out
    assert tool(["no/such.mp4", "--model", file]) == 1
    assert "error: no/such.mp4" in capsys.readouterr().err
    assert tool([str(videos[0]), "--model", "svt_vitb_k40"]) == 2
    assert "did you mean svt_vitb_k400" in capsys.readouterr().err
    assert tool([str(videos[0]), "--model", file, "--device", "gpu"]) == 2
    assert "error: device='gpu' is not a device of torch" in capsys.readouterr().err


def test_a_file_predicts_with_the_classifier_in_it(videos: list[Path], tmp_path: Path) -> None:
    model = network(num_classes=3)
    file = str(model.save_pretrained(tmp_path / "mine") / "model.safetensors")
    assert predict(videos[:1], model=file, dtype="float32") == predict(videos[:1], model=model, dtype="float32")


def test_a_row_without_a_classifier_is_refused_before_it_is_downloaded(videos: list[Path]) -> None:
    with pytest.raises(ValueError, match="svt_vitb_k400 has no classifier"):
        predict(videos[:1], model="svt_vitb_k400")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half"}, "dtype must be (one of )?auto, bfloat16, float16, float32, int8, got 'half'"),
        ({"device": "gpu"}, "device='gpu' is not a device of torch"),
        ({"views": "0x1"}, 'views must be "CROPSxCLIPS" with 1 or 3 crops'),
        ({"batch_size": -1}, "batch_size must be >= 1, got -1"),
        ({"top": 0}, "top must be >= 1, got 0"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_with_its_value(videos: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(videos[:1], model=network(num_classes=2), **options)


def test_a_model_of_torch_hub_embeds_a_real_clip(shared: Path) -> None:
    model = torch.hub.load(str(ROOT), "svt_vitb_k400", source="local", pretrained=False)
    feature = embed(shared / "clips" / "kinetics_clean_and_jerk_340x256.mp4", model=model)
    assert feature.shape == (1, 768)
    assert feature.isfinite().all()
    assert feature.std() > 0.1  # after the last norm


def test_predict_prints_the_sound_videos_and_names_the_broken_one(
    videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, broken = network(3).save_pretrained(tmp_path / "model"), tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    main = command("predict")
    options = ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]
    assert main([str(videos[0]), str(broken), str(videos[1]), *options]) == 1
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if line[0] != " "] == [str(video) for video in videos]
    [error] = printed.err.splitlines()
    assert error.startswith(f"error: {broken}: ")
    assert main([str(videos[0]), *options]) == 0
    assert main([str(videos[0]), *options, "--views", "0x1"]) == 2


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_embed_writes_a_row_per_video_and_nan_for_a_broken_one(
    suffix: str, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = network(), tmp_path / "videos"
    folder.mkdir()
    (folder / "b.mp4").write_bytes(b"not a video")
    shutil.copy(videos[0], folder / "a.mp4")
    output = tmp_path / f"features{suffix}"
    options = ["--model", str(model.save_pretrained(tmp_path / "model")), "--device", "cpu", "--dtype", "float32"]
    assert command("embed")([str(folder), str(videos[1]), *options, "-o", str(output)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {folder / 'b.mp4'}: ")
    assert printed.out == f"{output}: 3 features of 24 numbers, 1 failed\n"
    if suffix == ".npy":
        found = np.load(output)
    else:
        with output.open(newline="") as file:
            head, *rows = csv.reader(file)
        assert [head[0], *(row[0] for row in rows)] == [
            "video",
            *map(str, (folder / "a.mp4", folder / "b.mp4")),
            str(videos[1]),
        ]
        found = np.array([row[1:] for row in rows], np.float32)
    assert np.isnan(found[1]).all()
    assert_close(torch.from_numpy(found[[0, 2]]), embed(videos, model=model, dtype="float32", device="cpu"))


def test_embed_prints_the_start_of_each_feature(
    videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = network().save_pretrained(tmp_path / "model")
    assert command("embed")([*map(str, videos), "--model", str(folder), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": 24 numbers: ")[0] for line in printed] == [str(video) for video in videos]


def test_a_model_without_a_clip_works_once_it_has_one_in_either_way_that_the_error_names(
    videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command("embed")
    options = ["--device", "cpu", "--dtype", "float32"]
    model = create_model("svt_vitb", depth=1)
    folder = str(model.save_pretrained(tmp_path / "model"))
    assert main([str(videos[0]), "--model", folder, *options]) == 2
    printed = capsys.readouterr().err
    assert "no clip specification" in printed
    assert "--weights FILE --model ROW" in printed
    assert "model.meta['clip'] = get_weights(ROW).meta['clip']" in printed
    assert main([str(videos[0]), "--weights", folder, "--model", "svt_vitb_k400", *options]) == 0
    model.meta["clip"] = svt_zoo.get_weights("svt_vitb_k400").meta["clip"]
    assert main([str(videos[0]), "--model", str(model.save_pretrained(tmp_path / "again")), *options]) == 0


def test_videos_of_many_shapes_share_batches_and_keep_their_order(videos: list[Path]) -> None:
    model = network()
    torch.manual_seed(1)
    clips = [torch.randn(3, frames, 32, 32) for frames in (4, 2, 4, 4, 2)]
    seen = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    features = embed([clips[0], videos[0], *clips[1:]], model=model, dtype="float32", batch_size=3)
    handle.remove()
    assert seen == [(2, 3, 4, 32, 32), (1, 3, 2, 32, 32)] * 2
    assert_close(features[0], model(clips[0][None]).cls[0])
    assert_close(features[2], model(clips[1][None]).cls[0])
    assert_close(features[1], embed(videos[0], model=model, dtype="float32")[0])
    assert_close(features[5], model(clips[4][None]).cls[0])


def test_out_of_memory_names_the_batch_and_what_to_lower() -> None:
    model = network()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8")

    model.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError, match=r"with 2 clips \(3, 4, 32, 32\): lower batch_size \(CUDA out"):
        embed(torch.randn(2, 3, 4, 32, 32), model=model, dtype="float32")
