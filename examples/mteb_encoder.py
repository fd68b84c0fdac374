"""Run a model of the zoo on mteb's video tasks: `pip install mteb datasets`, then

    python examples/mteb_encoder.py svt_vitb_k400 --benchmark "MVEB(video, v1)"

Tasks that compare videos with text or sound are left out, as the zoo's models see frames alone. Videos are read by
svt_zoo, so an embedding is what `svt-zoo extract` writes, and torchcodec is not needed.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import mteb
import torch
from datasets import Video
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

import svt_zoo


class VideoEncoder(AbsEncoder):
    """One embedding per video: the class feature, averaged over the views."""

    def __init__(
        self,
        model_name: str | svt_zoo.Backbone,
        revision: str | None = None,
        *,
        device: str | None = None,
        views: str = "1x1",
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        self.model = svt_zoo.load_model(model_name) if isinstance(model_name, str) else model_name
        self.options = {"device": device, "views": views, "dtype": dtype}
        name = model_name if isinstance(model_name, str) else str(self.model.meta.get("model"))
        facts = {"name": f"svt_zoo/{Path(name).stem}", "revision": revision or "local", "modalities": ["video"]}
        facts |= {
            "embed_dim": self.model.cls_dim,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE,
        }
        self.mteb_model_meta = ModelMeta.create_empty(facts)

    def encode(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        """Embeddings float32 (N, D) of the videos of mteb's loader, in its order."""
        rows = []
        for item in inputs.dataset.select_columns(["video"]).cast_column("video", Video(decode=False)):
            video = item["video"]
            if video["bytes"] is None:
                rows.append(svt_zoo.embed(video["path"], model=self.model, **self.options))
                continue
            with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                file.write(video["bytes"])
                file.flush()
                rows.append(svt_zoo.embed(file.name, model=self.model, **self.options))
        return torch.cat(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name that svt-zoo weights lists, or a path")
    parser.add_argument("--benchmark", default="MVEB(video, v1)", help="(%(default)s)")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of mteb, instead of a benchmark")
    parser.add_argument("--views", default="1x1", help="crops x clips (%(default)s)")
    args = parser.parse_args()
    tasks = mteb.get_tasks(tasks=args.tasks) if args.tasks else mteb.get_benchmark(args.benchmark).tasks
    tasks = [task for task in tasks if task.metadata.modalities == ["video"]]
    if not tasks:
        parser.error("none of these tasks is about videos alone")
    for result in mteb.evaluate(VideoEncoder(args.model, views=args.views), tasks).task_results:
        print(f"{result.task_name}: {result.get_score():.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
