"""What an installed svt_zoo must do by itself: turn a video into a feature. Run outside the checkout.

With `--commands` it also runs `svt-zoo recipes`, `svt-zoo doctor` and `svt-zoo demo --quick`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

import svt_zoo


def encode(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for level in range(0, 250, 10):
            frame = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


model = svt_zoo.create_model("svt_vitt", img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2)
statistics = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
model.meta["clip"] = {"num_frames": 8, "sampling_rate": 2, "resize_size": 32, "crop_size": 32, **statistics}
with tempfile.TemporaryDirectory() as folder:
    encode(Path(folder) / "grey.mp4")
    feature = svt_zoo.embed(Path(folder) / "grey.mp4", model=model, dtype="float32", device="cpu")
assert feature.shape == (1, 32)
assert feature.isfinite().all()
place = f"svt_zoo {svt_zoo.__version__} in {Path(svt_zoo.__file__).parent}"
print(f"{place}: feature of {feature.shape[1]} numbers", flush=True)
if "--commands" in sys.argv:
    for arguments in (["recipes"], ["doctor"], ["demo", "--quick"]):
        program = Path(sys.executable).with_name("svt-zoo")
        subprocess.run([program, *arguments], check=True)
