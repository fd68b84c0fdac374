"""The video processor of a folder for transformers: it decodes, samples, resizes and crops as svt_zoo does.

`export_transformers` copies this file into the folder, beside copies of the modules that it uses.
"""

import os
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from ..data.transforms import EvalTransform
from ..video.decode import decode_frames, open_source
from ..video.errors import Limits, VideoReadError
from ..video.index import scan


class SvtZooVideoProcessor(BaseVideoProcessor):  # type: ignore[misc]
    """Videos -> `pixel_values` (B, T, 3, H, W): one clip per video, the center crop of the center clip.

    Args:
        clip: keywords of `EvalTransform`.
        any_length: whether the network takes other numbers of frames than that of `clip`.
    """

    model_input_names = ("pixel_values",)
    do_sample_frames = True

    def __init__(self, clip: dict[str, Any] | None = None, any_length: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tuple(map(int, av.__version__.split(".")[:2])) < (17, 1):
            raise ImportError(f"this video processor needs PyAV 17.1 or later, got {av.__version__}: pip install -U av")
        if not clip:
            raise ValueError("the video processor needs `clip`, which video_preprocessor_config.json of the folder has")
        self.clip, self.any_length = clip, any_length

    def preprocess(
        self,
        videos: Any,
        *,
        num_frames: int | None = None,
        do_sample_frames: bool | None = None,
        video_fps: float = 30.0,
        return_tensors: str | None = "pt",
    ) -> Any:
        """The clips of videos.

        Args:
            videos: one or several: the path of a file, or frames uint8 (T, H, W, 3) or (T, 3, H, W), also as a list
                of pictures.
            num_frames: of the clip, which lasts as long as otherwise.
            do_sample_frames: False takes all frames.
            video_fps: frame rate of videos that are given as frames.
            return_tensors: as of transformers; tensors by default.

        Raises:
            VideoReadError: a file cannot be read, or not exactly.
            ValueError: frames of another shape or type, or a number of frames that the network does not take.
        """
        transform = self._transform(num_frames)
        sampled = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        clips = []
        for video in _videos(videos):
            if isinstance(video, str):
                video = read_clip(video, transform if sampled else None)
            elif sampled:
                video = video[transform.clip_indices(len(video), fps=video_fps)]
            clips.append(transform(video).transpose(0, 1))  # (T, 3, H, W)
        return BatchFeature({"pixel_values": torch.stack(clips)}, tensor_type=return_tensors)

    def _transform(self, num_frames: int | None) -> EvalTransform:
        own, rate = self.clip["num_frames"], self.clip["sampling_rate"]
        if num_frames in (None, own):
            return EvalTransform(**self.clip)
        if not self.any_length:
            raise ValueError(f"this network takes {own} frames, got num_frames={num_frames}; export one of that length")
        return EvalTransform(
            **{**self.clip, "num_frames": num_frames, "sampling_rate": rate and rate * own / num_frames}
        )


def read_clip(path: str, transform: EvalTransform | None) -> NDArray[np.uint8]:
    """The frames of the center clip of a file (all frames without a transform), RGB uint8 (T, H, W, 3)."""
    if path.startswith(("http://", "https://")):
        raise VideoReadError(path, "an address; download the file first")
    limits = Limits()
    index, source = scan(path, limits)
    total = len(index.pts)
    indices = list(range(total)) if transform is None else transform.clip_indices(total, fps=index.fps)
    source = source or open_source(path, limits, index.stream)
    frames = {number: image.copy() for number, image in decode_frames(source, index, sorted(set(indices)))}
    return np.stack([frames[number] for number in indices])


def _videos(videos: Any) -> list[str | NDArray[np.uint8]]:
    """Each video of the input: a path, or frames (T, H, W, 3) or (T, 3, H, W)."""
    if isinstance(videos, str | os.PathLike):
        return [os.fspath(videos)]
    if not isinstance(videos, Sequence):
        array = np.asarray(videos)
        return list(array) if array.ndim == 5 else [array]
    if not videos:
        raise ValueError("the video processor needs at least one video, got none")
    if isinstance(videos[0], str | os.PathLike | Sequence) or np.ndim(videos[0]) >= 4:
        return [each for video in videos for each in _videos(video)]
    return [np.stack([np.asarray(picture) for picture in videos])]
