from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from svt_zoo.video import VideoReadError
from svt_zoo.video.frames import FrameFolder


def make_folder(path: Path, levels: list[int], *, pattern: str = "img_{}.png", size: tuple[int, int] = (8, 6)) -> Path:
    path.mkdir(parents=True)
    for i, level in enumerate(levels):
        Image.new("RGB", size, (level, 0, 255 - level)).save(path / pattern.format(i + 1))
    return path


def test_frames_come_in_the_requested_order_with_repeats(tmp_path: Path) -> None:
    with FrameFolder(make_folder(tmp_path / "v", [0, 50, 100, 150])) as video:
        frames = video.frames_at([3, 0, 3, 1])
    assert frames.shape == (4, 6, 8, 3)
    assert frames.dtype == torch.uint8
    assert frames[:, 0, 0, 0].tolist() == [150, 0, 150, 50]
    assert frames[:, 0, 0, 2].tolist() == [105, 255, 105, 205]


def test_files_are_sorted_by_number_without_padding(tmp_path: Path) -> None:
    video = FrameFolder(make_folder(tmp_path / "v", list(range(12))))
    assert video.frames_at(range(12))[:, 0, 0, 0].tolist() == list(range(12))


def test_times_follow_from_the_frame_rate(tmp_path: Path) -> None:
    video = FrameFolder(make_folder(tmp_path / "v", [0, 1, 2]), fps=12)
    assert (video.num_frames, video.fps, video.duration) == (3, 12, 0.25)
    assert_close(video.pts, [0.0, 1 / 12, 2 / 12])


def test_jpegs_decode_as_pillow_decodes_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a_00001.JPG", format="jpeg")
    expected = torch.from_numpy(np.array(Image.open(tmp_path / "a_00001.JPG")))
    assert torch.equal(FrameFolder(tmp_path).frames_at([0])[0], expected)


@pytest.mark.parametrize("num_frames", [0, -1])
def test_a_folder_of_which_the_list_takes_no_frame_is_refused(tmp_path: Path, num_frames: int) -> None:
    with pytest.raises(VideoReadError, match=f"num_frames must be >= 1, the list gives it {num_frames}"):
        FrameFolder(make_folder(tmp_path / "v", [0, 1, 2]), num_frames=num_frames)


def test_num_frames_selects_the_first_frames(tmp_path: Path) -> None:
    assert FrameFolder(make_folder(tmp_path / "v", [0, 1, 2]), num_frames=2).num_frames == 2


def test_a_folder_with_fewer_frames_than_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="v: holds 3 of the 5 frames that the list gives it"):
        FrameFolder(make_folder(tmp_path / "v", [0, 1, 2]), num_frames=5)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(VideoReadError, match="a folder without images"):
        FrameFolder(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="nowhere: cannot be listed: No such file"):
        FrameFolder(tmp_path / "nowhere")


def test_the_error_for_a_truncated_image_names_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "v", [0, 1], size=(64, 64))
    data = (folder / "img_2.png").read_bytes()
    (folder / "img_2.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoReadError, match=r"img_2\.png is not a readable image"):
        FrameFolder(folder).frames_at([0, 1])


def test_the_error_for_frames_of_two_sizes_names_a_file(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "v", [0, 1])
    Image.new("RGB", (10, 6)).save(folder / "img_3.png")
    with pytest.raises(VideoReadError, match=r"img_3\.png is 10x6, an earlier frame 8x6"):
        FrameFolder(folder).frames_at([2, 0])


def test_an_index_out_of_range_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="index must be 0 to 2, got 3"):
        FrameFolder(make_folder(tmp_path / "v", [0, 1, 2])).frames_at([3])
