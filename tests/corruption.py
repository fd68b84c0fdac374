"""Damages video files at random and reads them in another process.

Run as a program, it reads file names from standard input and answers each with one line: the number of frames and their
digest, or the reason of the error.
"""

import hashlib
import queue
import random
import subprocess
import sys
import threading
from pathlib import Path

SOURCES = (
    "decord_flipping_a_pancake.mkv",
    "kinetics_clean_and_jerk_340x256.mp4",
    "kth_derived_person22_handclapping_annotated.avi",
    "mmaction2_demo_arm_wrestling.mp4",
    "tc_av1_video.mkv",
    "tc_h264_10bits.mp4",
    "tc_h265_video.mp4",
    "tc_nasa_13013_hdr.mp4",
    "tc_testsrc2_odd_321x241_h264_444.mp4",
    "tc_testsrc2_odd_321x241_vp9.mp4",
    "ucf101_v_ApplyEyeMakeup_g01_c01.avi",
    "ucf101_v_BaseballPitch_g01_c01.avi",
    "ucf11_v_biking_01_01.mpg",
    "videochat_making_cake_portrait.mp4",
)


def damage(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Cuts the file, overwrites a range with noise, or flips bits. Returns the kind of damage and the data."""
    damaged = bytearray(data)
    kind = rng.choice(("cut", "overwritten", "bits flipped"))
    if kind == "cut":
        del damaged[rng.randrange(1, len(damaged)) :]
    elif kind == "overwritten":
        start = rng.randrange(len(damaged))
        size = min(rng.choice((16, 256, 4096, 20_000)), len(damaged) - start)
        damaged[start : start + size] = rng.randbytes(size)
    else:
        for _ in range(rng.choice((1, 10, 200))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return kind, bytes(damaged)


class Reader:
    """A process that reads videos, so that a crash or a hang can be detected."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line.strip())
        self._answers.put("crashed")

    def read(self, path: Path, timeout: float) -> str:
        """Returns the answer for a file: "frames N DIGEST", "refused REASON", "crashed" or "hangs"."""
        assert self._process.stdin
        print(path, file=self._process.stdin, flush=True)
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return "hangs"

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Answers file names from standard input."""
    import torch

    from svt_zoo.video import VideoReadError, open_video

    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            with open_video(line.rstrip("\n")) as video:
                frames = video.frames_at(range(video.num_frames))
            answer = f"frames {len(frames)} {hashlib.sha256(frames.numpy().tobytes()).hexdigest()}"
        except VideoReadError as error:
            answer = f"refused {error.reason}"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
