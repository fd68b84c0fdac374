"""Contrastive predictive coding (CPC) of video: predict the tokens of future frames, trained with InfoNCE.

Van den Oord et al. (2018); for video DPC (Han et al., ICCV workshops 2019) and CPCTR (Liu et al., Neurocomputing 482,
2022), whose code the project "SSL for Video Understanding" (2025) continues.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone
from ..models.cpc import ConvGRU, CPCNetwork, orthogonal_conv
from ..options import bounds
from .method import Method, Negatives, Scores, check_choices, check_views, info_nce


@dataclass(frozen=True)
class CPCConfig:
    """CPC's objective.

    Attributes:
        attention: "isolated" encodes the context and each predicted frame separately, so that batch statistics are
            separate too; "frame_causal" masks later frames from earlier ones, but not the context from the targets;
            "full" masks nothing, as in the original, where the context sees the future. "frame_causal" needs a cpc_*
            model.
        target: what is predicted: tokens after the "transformer", or before it ("backbone", as in DPC; needs a cpc_*
            model).
        negatives: the candidates besides the correct one: "all" tokens of the batch, those of the "same_clip", or of
            "other_clips".
        normalize: compare by cosine similarity; the original uses dot products.
        temperature: divides the scores; the original has 1.
        dropout: of the ConvGRU of a backbone that has none of its own (cpc_* models have `model.options.dropout`).
    """

    attention: Literal["isolated", "frame_causal", "full"] = "isolated"
    target: Literal["transformer", "backbone"] = "transformer"
    negatives: Negatives = "all"
    normalize: bool = True
    temperature: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        bounds(self, "temperature", above=0)
        bounds(self, "dropout", low=0, high=1)


class CPC(Method):
    """CPC's pre-training: encode the context frames, predict the next frames with a ConvGRU, compare with InfoNCE.

    The tokens of the first `context_frames` are the input of a ConvGRU, at each position separately. A predictor maps
    its state to the tokens of the next frame, which are the next input of the ConvGRU. The loss is InfoNCE of each
    predicted token with the token of that frame and position. The exported network is the backbone.

    `metrics()` has percentages of the last batch: `top1` (the nearest token is the correct one), `right_clip` (it is of
    the correct clip) and `right_step` (of these, it is of the correct frame). `chance` returns their values for a
    random guess. `feature_std` is 0 at a collapse.

    Args:
        backbone: a network whose `cls`, which evaluations read, uses only parameters that train `patches` too. A cpc_*
            model has a ConvGRU and exports it; other networks get one that is not exported.
        config: options of the objective.
        context_frames: frames that are encoded as context.
        pred_frames: frames after the context that are predicted.

    Raises:
        ValueError: an option that does not fit this backbone, or a backbone whose `cls` would stay untrained.
    """

    def __init__(
        self, backbone: Backbone, config: CPCConfig | None = None, *, context_frames: int = 5, pred_frames: int = 3
    ) -> None:
        super().__init__()
        self.config = config = config or CPCConfig()
        if min(context_frames, pred_frames) < 1:
            raise ValueError(f"context_frames and pred_frames must be >= 1, got {context_frames} and {pred_frames}")
        has_gru = isinstance(backbone, CPCNetwork)
        if not has_gru and (config.attention == "frame_causal" or config.target == "backbone"):
            raise ValueError(
                f"attention={config.attention}, target={config.target}: {type(backbone).__name__} has no separate "
                "transformer; use attention=isolated or full with target=transformer, or a cpc_* model"
            )
        if untrained := [name for name in only_cls_depends_on(backbone, context_frames) if not name.startswith("gru.")]:
            names = ", ".join(untrained[:3]) + (", ..." if untrained[3:] else "")
            raise ValueError(
                f"the cls of {type(backbone).__name__}, which evaluations read, depends on {names}, but its patches do "
                "not, so CPC would leave that untrained; use an svt_*, timesformer_* or cpc_* model (without final_bn)"
            )
        self.backbone = backbone
        self.context_frames, self.pred_frames = context_frames, pred_frames
        dim = backbone.embed_dim
        self.own_gru = None if has_gru else ConvGRU(dim, dim, dropout=config.dropout)
        self.gru.requires_grad_(True)
        self.predictor = nn.Sequential(orthogonal_conv(dim, dim), nn.ReLU(), orthogonal_conv(dim, dim))

    @property
    def gru(self) -> ConvGRU:
        """The recurrent network: the backbone's, or this method's own."""
        return self._cpc_network.gru if self.own_gru is None else self.own_gru

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch whose first view (B, 3, T, H, W) holds the context frames and the frames to predict."""
        clip = check_views(batch, "CPC", 1)[0]
        context, targets = self.encode(clip)
        return {"cpc": self.compare(self.predict(context), targets).loss}

    def encode(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the context (B, context_frames, N, D) and of the frames to predict (B, pred_frames, N, D)."""
        if clip.shape[2] != self.context_frames + self.pred_frames:
            raise ValueError(
                f"CPC needs clips of {self.context_frames} context and {self.pred_frames} predicted frames, got "
                f"{clip.shape[2]}; set views.context_frames and views.pred_frames"
            )
        encode = self._encode_isolated if self.config.attention == "isolated" else self._encode_jointly
        context, targets = encode(clip)
        if targets.shape[1:3] != (self.pred_frames, context.shape[2]):
            raise ValueError(
                f"CPC needs the tokens of each frame: {type(self.backbone).__name__} outputs {context.shape[2]} for a "
                f"context frame, and {tuple(targets.shape[1:3])} for {self.pred_frames} predicted frames"
            )
        return context, targets

    def _encode_isolated(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        future = clip[:, :, self.context_frames :]
        context = self.backbone(clip[:, :, : self.context_frames]).patches
        if self.config.target == "backbone":
            return context, self._cpc_network.frame_features(future)
        single = future.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B*P, 3, 1, H, W): each frame a clip
        targets = self.backbone(single).patches.flatten(1, 2)  # (B*P, N, D)
        return context, targets.unflatten(0, (len(clip), -1))  # (B, P, N, D)

    def _encode_jointly(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.backbone, CPCNetwork):
            frames = self.backbone.frame_features(clip)
            causal = self.config.attention == "frame_causal"
            tokens = self.backbone.tokens(frames, self.backbone.grid(clip), causal=causal)
        else:
            frames = tokens = self.backbone(clip).patches
        targets = tokens if self.config.target == "transformer" else frames
        return tokens[:, : self.context_frames], targets[:, self.context_frames :]

    @property
    def _cpc_network(self) -> CPCNetwork:
        assert isinstance(self.backbone, CPCNetwork)
        return self.backbone

    def predict(self, context: Tensor) -> Tensor:
        """The predicted tokens (B, pred_frames, N, D) after those of the context (B, T, N, D)."""
        maps = F.relu(context).transpose(2, 3).unsqueeze(-1)  # (B, T, D, N, 1): positions do not mix in the GRU
        state = self.gru(maps)[:, -1]
        predicted = [self.predictor(state)]
        for _ in range(self.pred_frames - 1):
            state = self.gru.step(F.relu(predicted[-1]), state)
            predicted.append(self.predictor(state))
        return torch.stack(predicted, dim=1).squeeze(-1).transpose(2, 3)  # (B, P, N, D)

    def compare(self, predicted: Tensor, targets: Tensor) -> Scores:
        """InfoNCE of predicted and true tokens, both (B, P, N, D); it also updates `metrics()`."""
        _, steps, positions, _ = predicted.shape
        with torch.autocast(predicted.device.type, enabled=False):  # a softmax over thousands needs more than 16 bits
            dtype = torch.promote_types(predicted.dtype, torch.float32)
            queries, keys = (x.to(dtype).flatten(0, 2) for x in (predicted, targets))  # (B*P*N, D)
            if self.config.normalize:
                queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
            rows_of_clip = steps * positions
            queries = queries / self.config.temperature
            scores = info_nce(queries, keys, rows_of_clip=rows_of_clip, negatives=self.config.negatives)
        row = torch.arange(len(queries), device=queries.device)
        right_clip = scores.nearest // rows_of_clip == row // rows_of_clip
        right_step = right_clip & (scores.nearest // positions % steps == row // positions % steps)
        self._metrics = {
            "top1": 100 * (scores.nearest == row).float().mean(),
            "right_clip": 100 * right_clip.float().mean(),
            "right_step": 100 * right_step.float().sum() / right_clip.float().sum().clamp_min(1),
            "feature_std": F.normalize(keys.detach(), dim=-1).std(dim=0, correction=0).mean(),
        }
        return scores

    def chance(self, clips: int, positions: int) -> tuple[float, float, float]:
        """`top1`, `right_clip` and `right_step` of a random guess, in percent; `positions` is N per frame."""
        negatives = self.config.negatives
        candidates = {
            "all": clips * self.pred_frames * positions,
            "same_clip": self.pred_frames * positions,
            "other_clips": (clips - 1) * self.pred_frames * positions + 1,
        }[negatives]
        right_clip = {"all": 1 / clips, "same_clip": 1.0, "other_clips": 1 / candidates}[negatives]
        return 100 / candidates, 100 * right_clip, 100.0 if negatives == "other_clips" else 100 / self.pred_frames


def only_cls_depends_on(backbone: Backbone, num_frames: int) -> list[str]:
    """Trained parameters with a gradient from the `cls` of a small clip, but not from its `patches`.

    It compares gradients: Motionformer's class token is in the graph of its patches, with a zero gradient. On the meta
    device the list is empty.
    """
    parameters = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    if not parameters or any(parameter.is_meta for parameter in parameters.values()):
        return []
    shape = (1, 3, num_frames, backbone.patch_size, backbone.patch_size)
    was_training = backbone.training
    with torch.enable_grad():
        features = backbone.eval()(_waves(shape).to(next(iter(parameters.values()))))
        by_cls, by_patches = (_with_gradient(parameters, output) for output in features)
    backbone.train(was_training)
    return [name for name in parameters if name in by_cls - by_patches]


def _with_gradient(parameters: dict[str, nn.Parameter], output: Tensor) -> set[str]:
    """Names of the parameters with a gradient from a weighted sum; after a norm the gradient of a plain sum is 0."""
    weighted = (output * _waves(output.shape).to(output)).sum()
    gradients = torch.autograd.grad(weighted, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(parameters, gradients, strict=True) if g is not None and g.any()}


def _waves(shape: Sequence[int]) -> Tensor:
    return torch.arange(math.prod(shape)).cos().view(shape)
