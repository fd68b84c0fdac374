"""Sections of recipes that belong to no single part: network and run."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..options import bounds


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: a registered model, one of `svt_zoo.list_models()`.
        options: keyword arguments of its builder, such as `model.options.drop_path_rate=0.1`, `img_size`, `num_frames`,
            `pos_mode`, `grad_checkpointing`; `table_std=0.5` for a start from random weights (see `create_model`).
    """

    name: str = "svt_vitb"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """The folder, the device and the seed of a training run.

    Attributes:
        output: the run's folder; a run that exists there resumes from its last checkpoint.
        seed: seed of the initial weights, the views and the order of the videos.
        device: "auto" uses a GPU if there is one.
        precision: "auto" is bf16 on a GPU that supports it, fp16 on other GPUs, fp32 on a CPU.
        parallel: with several processes, "ddp" copies the networks to each, "fsdp" shards them.
        compile: compile the networks with `torch.compile`. (CPC with attention "full" or "frame_causal" calls parts of
            a network, which are not compiled.)
        checkpoint_every_epochs: epochs between checkpoints at the end of an epoch; the last epoch always has one.
        checkpoint_every_minutes: minutes between further checkpoints; null is never.
        checkpoint_every_steps: steps between further checkpoints; null is never.
        log_every_steps: steps between two log lines if the log is not a terminal.
        monitor_every_steps: steps between two measurements of the teacher's entropy and of the variance and rank of the
            features, which show a collapse.
        knn_every_epochs: epochs between two k-nearest-neighbor evaluations of the backbone, which need labels in
            `data.train` and `data.val`; 0 is never.
        tensorboard: also write TensorBoard event files.
    """

    output: str = "runs/run"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    checkpoint_every_epochs: int = 1
    checkpoint_every_minutes: float | None = 30.0
    checkpoint_every_steps: int | None = None
    log_every_steps: int = 20
    monitor_every_steps: int = 50
    knn_every_epochs: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        bounds(self, "checkpoint_every_epochs", "log_every_steps", "monitor_every_steps", low=1)
