"""The page: its answers, its refusals, and their display in a browser."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svt_zoo import VideoReadError
from svt_zoo.data.lists import read_list
from svt_zoo.inference.extract import extract_features
from svt_zoo.inference.feature_table import FeatureTable
from svt_zoo.inference.serve import UPLOAD_LIMITS, Answerer, serve
from svt_zoo.models import Backbone, Features, ZooModel, create_model
from svt_zoo.video import EncodedVideo, Limits

CLIP = {"num_frames": 4, "sampling_rate": 5, "resize_size": 72, "crop_size": 64, "channel_order": "RGB"}
CLIP |= {"mean": (0.45,) * 3, "std": (0.2,) * 3}
SMALL = Limits(max_pixels=320 * 240, max_duration=3)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def network(seed: int = 0) -> ZooModel:
    torch.manual_seed(seed)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64, "num_frames": 4}
    model = create_model("svt_vitt", num_classes=3, **options).eval()
    model.meta |= {"clip": CLIP, "categories": ["walking", "diving", "waiting"]}
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    path = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for name in ("first", "second", "third"):
        texture = np.kron(rng.integers(0, 256, (12, 48, 3), dtype=np.uint8), np.ones((12, 8, 1), np.uint8))
        make_video(path / f"{name}.mp4", np.stack([texture[:, 3 * t : 3 * t + 192] for t in range(50)]))
    return path


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    output = tmp_path_factory.mktemp("table") / "features.parquet"
    extract_features(network(), read_list(folder), output, num_workers=0, device="cpu")
    return FeatureTable(output)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> dict[str, Path]:
    """Files that the page must refuse, by the text of the refusal."""
    path = tmp_path_factory.mktemp("refused")
    (path / "broken.mp4").write_bytes(b"\0" * 5000)
    return {
        "invalid data": path / "broken.mp4",
        "more than the 76800 of": make_video(path / "wide.mp4", np.zeros((4, 480, 640, 3), np.uint8)),
        "more than the 3 s of": make_video(path / "long.mp4", np.zeros((100, 48, 64, 3), np.uint8)),
    }


def test_a_video_gets_classes_neighbors_and_attention(table: FeatureTable, folder: Path, tmp_path: Path) -> None:
    answer = Answerer(network(), table, tmp_path)(folder / "second.mp4")
    assert answer.line == "second.mp4: 192x144 pixels, 2.0 s, 50 frames"
    assert answer.classes is not None
    assert set(answer.classes) == {"walking", "diving", "waiting"}
    assert sum(answer.classes.values()) == pytest.approx(1)
    for picture in (answer.neighbors, answer.attention_sheet):
        assert picture is not None
        assert Image.open(picture).height > 100
    assert answer.attention_video is not None
    assert answer.attention_video.suffix == ".mp4"


def test_without_a_table_there_are_no_neighbors(folder: Path, tmp_path: Path) -> None:
    assert Answerer(network(), None, tmp_path)(folder / "first.mp4").neighbors is None


def test_a_file_that_is_not_a_video_or_too_large_is_refused(refused: dict[str, Path], tmp_path: Path) -> None:
    answer = Answerer(network(), None, tmp_path, limits=SMALL)
    for reason, path in refused.items():
        with pytest.raises(VideoReadError, match=f"(?i){reason}"):
            answer(path)
    assert not list(tmp_path.iterdir())


def test_every_reading_of_an_upload_has_the_limits_of_the_page(
    table: FeatureTable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = shutil.copy(folder / "second.mp4", tmp_path / "upload.mp4")
    seen = []
    make = EncodedVideo.__init__

    def noted(self: EncodedVideo, path: str, *args: Any, limits: Limits, **options: Any) -> None:
        seen.append((Path(path).name, limits))
        make(self, path, *args, limits=limits, **options)

    monkeypatch.setattr(EncodedVideo, "__init__", noted)
    (tmp_path / "pictures").mkdir()
    Answerer(network(), table, tmp_path / "pictures")(upload)
    assert [limits for name, limits in seen if name == "upload.mp4"] == 5 * [UPLOAD_LIMITS]
    assert UPLOAD_LIMITS.max_decode_time == 60
    assert {limits for name, limits in seen if name != "upload.mp4"} == {Limits()}  # neighbors may be larger


@pytest.mark.parametrize("states_weights", [True, False])
def test_the_model_is_that_of_the_table_unless_another_is_named(
    states_weights: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(network().save_pretrained(tmp_path / "model") / "model.safetensors")
    table = tmp_path / "features.parquet"
    extract_features(weights if states_weights else network(), read_list(folder), table, num_workers=0, device="cpu")
    named = []

    def no_page(answerer: Answerer, max_bytes: int) -> None:
        named.append(answerer.model.meta["weights"])
        raise KeyboardInterrupt

    monkeypatch.setattr("svt_zoo.inference.serve.build_page", no_page)
    if states_weights:
        with pytest.raises(KeyboardInterrupt), serve(features=table):
            pass
        assert named == [weights]
    else:
        with (
            pytest.raises(ValueError, match="does not state where its weights are; name them by --model"),
            serve(features=table),
        ):
            pass


def test_a_table_of_another_model_is_refused_at_once(table: FeatureTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was made with other weights"):
        Answerer(network(seed=1), table, tmp_path)


def test_a_model_with_nothing_to_show_is_refused(tmp_path: Path) -> None:
    class Plain(Backbone):
        def forward(self, clip: torch.Tensor) -> Features:
            return Features(clip.mean(dim=(2, 3, 4)), clip[:, :, 0, 0])

    with pytest.raises(ValueError, match="neither a classifier nor attention maps"):
        Answerer(Plain(), None, tmp_path)


@pytest.fixture(scope="module")
def address(table: FeatureTable) -> Iterator[str]:
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(network(), features=table.path, port=port, max_bytes=1_000_000, limits=SMALL) as where:
        yield where


@pytest.fixture
def browser(address: str) -> Iterator[Any]:
    """The page in headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1100, "height": 1500})
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_selector("input[type=file]", state="attached")
        yield page
        chromium.close()


def wait_for_text(page: Any, text: str) -> None:
    """Wait until the line under the upload shows `text`."""
    page.wait_for_function(
        "text => [...document.querySelectorAll('textarea, input')].some(box => box.value.includes(text))", arg=text
    )


def screenshot(page: Any, path: Path) -> None:
    page.wait_for_timeout(1000)  # pictures fade in
    page.screenshot(path=path, full_page=True)


@pytest.mark.slow
def test_a_browser_shows_the_answer(browser: Any, folder: Path, tmp_path: Path) -> None:
    requests: list[str] = []
    browser.on("request", lambda request: requests.append(request.url))
    browser.set_input_files("input[type=file]", folder / "second.mp4")
    wait_for_text(browser, "second.mp4: 192x144 pixels, 2.0 s, 50 frames")
    browser.wait_for_selector("text=diving")
    browser.wait_for_function(
        "[...document.querySelectorAll('img')].filter(image => image.naturalHeight > 150).length >= 2"
    )
    browser.wait_for_function("[...document.querySelectorAll('video')].some(video => video.videoHeight > 50)")
    screenshot(browser, tmp_path / "answer.png")
    elsewhere = [url for url in requests if not url.startswith(("http://127.0.0.1", "data:", "blob:"))]
    assert not elsewhere


@pytest.mark.slow
def test_a_browser_shows_why_a_file_is_refused(browser: Any, refused: dict[str, Path], tmp_path: Path) -> None:
    for i, path in enumerate(refused.values()):
        if i:
            browser.click("[aria-label*=lear], [aria-label*=emove]")
            browser.wait_for_selector("input[type=file]", state="attached")
        browser.set_input_files("input[type=file]", path)
        wait_for_text(browser, f"refused: {path.name}: ")
        screenshot(browser, tmp_path / f"{path.stem}.png")


@pytest.mark.slow
def test_a_browser_shows_that_a_file_is_too_large(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "huge.mp4").write_bytes(b"\0" * 3_000_000)
    browser.set_input_files("input[type=file]", tmp_path / "huge.mp4")
    browser.wait_for_selector("text=/exceeds|maximum|too large/i")
    screenshot(browser, tmp_path / "huge.png")
