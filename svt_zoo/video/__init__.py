"""Exact video reading: a file or a folder of images becomes frames."""

from .errors import Limits, VideoReadError
from .reader import EncodedVideo, VideoPathHandler, open_video

__all__ = ["EncodedVideo", "Limits", "VideoPathHandler", "VideoReadError", "open_video"]
