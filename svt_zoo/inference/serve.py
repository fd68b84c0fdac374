"""A web page for uploaded videos: shows the predicted classes, similar videos, and the attention of the model.

Uploads are not trusted: a file above the limits (bytes, length, frame size), or one that the reader cannot open, is
refused with the reason. Needs Gradio, the extra `serve`.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation.views import faults_as_read_errors
from ..hub.loading import load_model
from ..models import Classifier, ZooModel
from ..models.base import backbone_of
from ..models.timesformer import TimeSformer
from ..video import Limits, VideoReadError, open_video
from .feature_table import FeatureTable
from .pictures import neighbor_sheet
from .predict import predict
from .search import check_weights, query_feature, search, weights_of
from .visualize import visualize_attention

_log = logging.getLogger(__name__)

UPLOAD_LIMITS = Limits(max_pixels=4096 * 2304, max_duration=300, max_bytes=1 << 30, max_decode_time=60)
DEFAULT_MODEL = "timesformer_vitb_k400"
_KEPT = 3600.0  # seconds until the pictures for an upload are deleted


class Answer(NamedTuple):
    """Answer for a video: a line of text, the classes, and the picture files; None for absent parts."""

    line: str
    classes: dict[str, float] | None = None
    neighbors: Path | None = None
    attention_video: Path | None = None
    attention_sheet: Path | None = None


class Answerer:
    """Answers for uploaded videos: classes by a classifier, attention by a TimeSformer, neighbors by a table.

    Args:
        model: the network.
        table: features of videos for the neighbor search, made by this model.
        folder: where pictures are written.
        limits: maximum size of a video.
        top: how many classes and neighbors to show.

    Raises:
        ValueError: the model and the table give nothing to show.
    """

    def __init__(
        self,
        model: ZooModel,
        table: FeatureTable | None,
        folder: Path,
        *,
        limits: Limits = UPLOAD_LIMITS,
        top: int = 5,
    ) -> None:
        self.model = model
        self.table = table
        self.folder = folder
        self.limits = limits
        self.top = top
        self.classifies = isinstance(model, Classifier)
        self.has_attention = isinstance(backbone_of(model), TimeSformer)
        if not (self.classifies or self.has_attention or table):
            raise ValueError("this model has neither a classifier nor attention maps; give a table of its features")
        if table is not None:
            check_weights(table, model)

    def __call__(self, path: str | os.PathLike[str]) -> Answer:
        """Computes the answer for a video.

        Raises:
            VideoReadError: the file is not a video, is above the limits, or cannot be shown for any other reason.
        """
        with faults_as_read_errors(path):
            with open_video(path, limits=self.limits) as video:
                size = f"{video.width}x{video.height} pixels, {video.duration:.1f} s, {video.num_frames} frames"
            for old in self.folder.iterdir():
                if time.time() - old.stat().st_mtime > _KEPT:
                    shutil.rmtree(old, ignore_errors=True)
            out = Path(tempfile.mkdtemp(dir=self.folder))
            classes = neighbors = movie = sheet = None
            if self.classifies:
                [prediction] = predict(path, model=self.model, top=self.top, dtype="float32", limits=self.limits)
                classes = dict(zip(prediction.labels, prediction.scores, strict=True))
            if self.table is not None:
                feature = query_feature(self.table, path, model=self.model, limits=self.limits)
                neighbors = out / "neighbors.png"
                rows = search(self.table, feature, top=self.top)
                neighbor_sheet(self.table, path, rows, limits=self.limits).save(neighbors)
            if self.has_attention:
                models = {"attention": self.model}
                movie, sheet = visualize_attention(path, models, out / "attention", limits=self.limits)
            return Answer(f"{Path(path).name}: {size}", classes, neighbors, movie, sheet)


def build_page(answer: Answerer, max_bytes: int) -> Any:
    """Builds the page as Gradio Blocks.

    Raises:
        ImportError: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install gradio pyarrow") from error

    def show(path: str | None) -> tuple[Any, ...]:
        shown = Answer("")
        if path is not None:
            try:
                shown = answer(path)
            except VideoReadError as error:
                _log.info("refused: %s", error, exc_info=error)
                shown = Answer(f"refused: {Path(path).name}: {error.reason}")
        return shown.line, shown.classes, *(str(file) if file else None for file in shown[2:])

    limits = answer.limits
    with gradio.Blocks(title="svt_zoo", analytics_enabled=False, delete_cache=(600, int(_KEPT))) as page:
        gradio.Markdown(
            f"# svt_zoo\nA video of at most {max_bytes / 1e6:.0f} MB, {limits.max_duration:.0f} seconds and "
            f"{limits.max_pixels / 1e6:.1f} megapixels a frame."
        )
        upload = gradio.File(label="video", file_types=["video"], height=120)
        line = gradio.Textbox(label="uploaded file", interactive=False)
        classes = gradio.Label(label="predicted classes", visible=answer.classifies)
        plain = {"show_label": False, "buttons": ["download"]}
        with gradio.Column(visible=answer.has_attention):
            gradio.Markdown("### Attention of the model")
            movie = gradio.Video(autoplay=True, loop=True, height=320, **plain)
            sheet = gradio.Image(**plain)
        with gradio.Column(visible=answer.table is not None):
            gradio.Markdown("### Similar videos")
            neighbors = gradio.Image(**plain)
        upload.change(show, upload, [line, classes, neighbors, movie, sheet], api_visibility="private")
    return page.queue(max_size=20)


@contextmanager
def serve(
    model: str | ZooModel | None = None,
    *,
    features: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_bytes: int = 100_000_000,
    limits: Limits = UPLOAD_LIMITS,
) -> Iterator[str]:
    """Context manager that serves the page; its value is the address of the page.

    Args:
        model: a name for `load_model`, or a model; by default the weights that the table names, or `DEFAULT_MODEL`
            without a table.
        features: a table of features made by this model, for the neighbor search.
        host, port: address to listen on; a host other than 127.0.0.1 allows access from other machines.
        max_bytes: maximum size of an upload.
        limits: of a video.

    Raises:
        ImportError: Gradio is not installed.
        OSError: the port is in use.
        ValueError: there is nothing to show, or another model made the table.
    """
    table = None if features is None else FeatureTable(features)
    if model is None:
        model = DEFAULT_MODEL if table is None else weights_of(table)
    network = model if isinstance(model, ZooModel) else load_model(model, num_classes=None)
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(Answerer(network.eval(), table, Path(folder), limits=limits), max_bytes)
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_bytes,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            theme=_theme(),
        )
        try:
            yield f"http://{host}:{port}"
        finally:
            page.close()


def _theme() -> Any:
    """Gradio's default theme without its fonts, which need a download."""
    import gradio

    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
