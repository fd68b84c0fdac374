"""The sections of a recipe. Their defaults are the SVT paper's; `--help` of a tool shows their docstrings."""

from dataclasses import dataclass, field
from typing import Any, Literal

Correspondence = Literal["local_to_global", "global_to_global", "global_to_local", "local_to_local"]


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and how they are read.

    Attributes:
        train: list or folder of the training videos, any format `read_list` knows; a path or a URL.
        val: the same of the evaluation videos.
        root: folder that the paths in the lists are relative to; by default that of each list.
        format: the format of the lists; "auto" detects it.
        where_train: rows to take from a table with columns, such as "split=train,set=ucf101".
        where_val: the same of the evaluation videos.
        labels: file of class names.
        validation_fraction: fraction of the training groups of each class to hold out and evaluate on instead of `val`,
            to choose a recipe without looking at the test videos; 0 evaluates on `val`.
        subset: number of training videos to keep, drawn by the seed; null keeps all.
        allow_overlap: train on a list that shares files or groups with the evaluation list all the same.
        frame_rate: frames per second of folders of frames, which do not carry it.
        num_workers: processes that read videos; null is one for each core, at most 8.
        batch_size: videos of a batch in each process.
        max_failure_fraction: fraction of the training list that may be unreadable in an epoch before the run stops.
    """

    train: str = ""
    val: str = ""
    root: str | None = None
    format: str = "auto"
    where_train: str | None = None
    where_val: str | None = None
    labels: str | None = None
    validation_fraction: float = 0.0
    subset: int | None = None
    allow_overlap: bool = False
    frame_rate: float = 30.0
    num_workers: int | None = None
    batch_size: int = 8
    max_failure_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be >= 0 and < 1, got {self.validation_fraction}")


@dataclass(frozen=True)
class ViewsConfig:
    """SVT's views of a video (SVT section 3.2; tables 5 to 7 are the switches).

    Attributes:
        sampling: "paper" draws the views over the whole video; "code" as the authors' release does, which looks at
            one random part of 8.5 seconds and ignores the spans and frame counts below but for `rand_fr`;
            "cvrl" draws two clips with CVRL's interval (table 6).
        global_frames, local_frames: frames of each view; the number of views is their length.
        global_span, local_span: share of the video that a view covers.
        global_size, local_size: pixels of the square views.
        hflip: probability of a horizontal flip; 0 where left and right matter.
        blur_and_solarize: apply both, as the paper says; in the authors' released code, which trained the published
            weights, they are called without effect, and the authors say that they hardly matter.
        spatial_variation, temporal_variation: False gives all views the whole frame, or the same seconds (table 5).
        consistent: False draws the augmentation anew for each frame (table 7).
        rand_fr: of "code": 4 and 8 frames in the globals, 2 to 16 in the locals, instead of 8 everywhere.
        mean, std: normalization on the scale [0, 1].
    """

    sampling: Literal["paper", "code", "cvrl"] = "paper"
    global_frames: tuple[int, int] = (8, 16)
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    global_span: float = 0.9
    local_span: float = 0.125
    global_size: int = 224
    local_size: int = 96
    hflip: float = 0.5
    blur_and_solarize: bool = False
    spatial_variation: bool = True
    temporal_variation: bool = True
    consistent: bool = True
    rand_fr: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.rand_fr and self.sampling != "code":
            raise ValueError(f'rand_fr=true needs sampling="code", got sampling="{self.sampling}"')
        if not self.temporal_variation and self.sampling != "paper":
            raise ValueError(f'temporal_variation=false needs sampling="paper", got sampling="{self.sampling}"')


@dataclass(frozen=True)
class ModelConfig:
    """The network that is trained.

    Attributes:
        name: a registered model, one of `svt_zoo.list_models()`.
        options: keywords of its builder, such as `model.options.drop_path_rate=0.1`, `img_size`, `num_frames`,
            `pos_mode`, `grad_checkpointing`.
    """

    name: str = "svt_vitb"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SVTConfig:
    """SVT's objective (SVT sections 3.2 and 3.3); what the paper leaves open is as in DINO.

    Attributes:
        out_dim: number K of outputs of the projection head.
        hidden_dim, bottleneck_dim: widths inside the projection head.
        use_bn_in_head: batch normalization inside the projection head.
        norm_last_layer: keep the length of the head's prototypes at 1.
        correspondences: which views are compared (SVT table 4), student's view first: any of local_to_global,
            global_to_global, global_to_local, local_to_local.
        student_temp: temperature of the student's softmax.
        teacher_temp: temperature of the teacher's softmax.
        warmup_teacher_temp: temperature of the teacher's softmax at the start.
        warmup_teacher_temp_epochs: epochs over which it goes from `warmup_teacher_temp` to `teacher_temp`.
        center_momentum: share of the running mean of the teacher's outputs that stays in a step.
        momentum: share of the teacher that stays in the first step; a cosine over the run leads to 1.
        freeze_last_layer: epochs at the start in which the head's prototypes do not move.
        teacher_mode: "replica" treats the teacher as the student, drop path included, as paper and released code;
            "eval" switches its drop path off, as DINO does.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    use_bn_in_head: bool = False
    norm_last_layer: bool = True
    correspondences: tuple[Correspondence, ...] = ("local_to_global", "global_to_global")
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    warmup_teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: int = 0
    center_momentum: float = 0.9
    momentum: float = 0.996
    freeze_last_layer: float = 1.0
    teacher_mode: Literal["replica", "eval"] = "replica"


@dataclass(frozen=True)
class OptimConfig:
    """How the weights move, and for how long (SVT section 4.1; DINO where the paper is silent).

    Attributes:
        name: the optimizer; "adam" adds the decay to the gradient, "adamw" to the weights.
        lr: peak learning rate.
        lr_end: learning rate that the cosine runs to; not scaled.
        scale_lr: True takes `lr` for a batch of 256 videos and scales it with the batch (processes x batch_size x
            accumulation).
        epochs: length of the training.
        warmup_epochs: epochs in which the learning rate rises from 0, linearly.
        weight_decay: decay at the start; biases and norms have none.
        weight_decay_end: decay that a cosine leads to.
        betas: of AdamW and Adam.
        amsgrad: of AdamW and Adam: divide by the largest second moment so far.
        momentum: of SGD.
        clip_grad: largest norm of a gradient; null clips nothing.
        clip_mode: "per_parameter" shortens each tensor's gradient by itself, as DINO does, "global" all by one
            factor.
        accumulation: batches whose gradients make one step.
        schedule: of the learning rate: "cosine" runs to `lr_end`; "steps" multiplies it by `factor` at each of the
            `milestones`.
        milestones: epochs at which `schedule=steps` lowers the learning rate; an empty list keeps it constant.
        factor: of the learning rate, at a milestone.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 5e-4
    lr_end: float = 1e-6
    scale_lr: bool = True
    epochs: int = 20
    warmup_epochs: int = 5
    weight_decay: float = 0.04
    weight_decay_end: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = False
    momentum: float = 0.9
    clip_grad: float | None = 3.0
    clip_mode: Literal["per_parameter", "global"] = "per_parameter"
    accumulation: int = 1
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs must be 0 to epochs={self.epochs}, got {self.warmup_epochs}; lower it with epochs"
            )


@dataclass(frozen=True)
class RunConfig:
    """Where a run writes, on what it runs, and the seed of everything it draws.

    Attributes:
        output: the run's folder; a run that is there already goes on from its last checkpoint.
        seed: of the weights' start, of the views and of the order of the videos.
        device: "auto" takes a GPU if there is one.
        precision: "auto" is bf16 on a GPU that has it, fp16 on another, fp32 on a CPU.
        parallel: with several processes, "ddp" keeps a whole copy of the networks in each, "fsdp" a part.
        compile: compile the networks with `torch.compile`. (CPC with attention full or frame_causal calls a network
            part by part, which stays as it is.)
        checkpoint_every_epochs: checkpoint at the end of every so many epochs; the last epoch always has one.
        checkpoint_every_minutes: and when the last one is older; null is never.
        checkpoint_every_steps: and every so many steps; null is never.
        log_every_steps: steps between two lines of the log, when it is not a terminal.
        monitor_every_steps: steps between two looks at what shows a collapse: the teacher's entropy, the variance
            and the rank of the features.
        knn_every_epochs: epochs between two k-nearest-neighbor evaluations of the backbone, which need labels in
            `data.train` and `data.val`; 0 is never.
        tensorboard: also write TensorBoard's event files.
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
        for name in ("checkpoint_every_epochs", "log_every_steps", "monitor_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
