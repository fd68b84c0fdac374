"""Small videos for the tests of training."""

from pathlib import Path

import pytest
from training_runs import make_training_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of nine small videos each."""
    return make_training_videos(tmp_path_factory.mktemp("videos"))
