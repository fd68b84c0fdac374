"""Contrastive predictive coding of video: say what the next frames look like, and find them among others.

Van den Oord et al. (2018); for video DPC (Han et al., ICCV workshops 2019) and CPCTR (Liu et al., Neurocomputing 482,
2022), whose code "SSL for Video Understanding" (2025) goes on from.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone
from ..models.conv_gru import ConvGRU, orthogonal_conv
from ..models.cpc import CPCNetwork
from .infonce import Negatives, Scores, info_nce
from .method import Method, check_views

Isolation = Literal["isolated", "frame_causal", "full"]
Target = Literal["transformer", "backbone"]


class CPC(Method):
    """CPC's pre-training: context frames, a recurrent network that goes on without them, a predictor, InfoNCE.

    The first `context_frames` of a clip become tokens and, place by place, the state of a ConvGRU. From the state a
    predictor says the next frame's tokens; its answer is the ConvGRU's next input, and so on. The loss is InfoNCE of
    each predicted token with the token of that frame and place. What is exported is the backbone.

    Prediction needs a future that the past has not seen. In the original, all frames attend to each other before they
    are separated, and share the statistics of batch normalization: `attention="full"` is that.

    Args:
        backbone: a network whose `cls`, which is what evaluations read, is made by what `patches` train. One of CPC's
            own (`cpc_resnet18`, ...) brings its ConvGRU along and keeps it, others get one that is left behind.
        context_frames: frames that are seen.
        pred_frames: frames that are predicted, behind them.
        attention: "isolated" encodes the context by itself and each predicted frame by itself, in two passes, so that
            batch normalization mixes nothing either; "frame_causal" hides later frames from earlier ones, but not the
            context from the targets; "full" hides nothing. The second needs a network of CPC's own.
        target: tokens behind the "transformer", or in front of it ("backbone", as in DPC; for networks of CPC's own).
        negatives: as of `info_nce`.
        normalize: compare directions; the original takes dot products as they are.
        temperature: that scores are divided by; the original has 1.
        dropout: of the ConvGRU of a backbone that brings none.

    Raises:
        ValueError: a choice that does not exist, or not for this backbone; a backbone whose `cls` would stay untrained.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        context_frames: int = 5,
        pred_frames: int = 3,
        attention: Isolation = "isolated",
        target: Target = "transformer",
        negatives: Negatives = "all",
        normalize: bool = True,
        temperature: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("attention", attention, Isolation), ("target", target, Target)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        if min(context_frames, pred_frames) < 1 or not temperature > 0:
            given = f"{context_frames=}, {pred_frames=}, {temperature=}"
            raise ValueError(f"CPC needs frames to see and to predict, and a temperature above 0, got {given}")
        own = isinstance(backbone, CPCNetwork)
        if not own and (attention == "frame_causal" or target == "backbone"):
            raise ValueError(
                f"attention={attention}, target={target}: {type(backbone).__name__} has no transformer that can be "
                "masked or taken off; use attention=isolated or full with target=transformer, or a cpc_* model"
            )
        if untrained := [name for name in only_cls_depends_on(backbone, context_frames) if not name.startswith("gru.")]:
            names = ", ".join(untrained[:3]) + (", ..." if untrained[3:] else "")
            raise ValueError(
                f"the cls of {type(backbone).__name__}, which evaluations read, depends on {names}, but its patches do "
                "not, so CPC would leave that untrained; use an svt_*, timesformer_* or cpc_* model (without final_bn)"
            )
        self.backbone = backbone
        self.context_frames, self.pred_frames = context_frames, pred_frames
        self.attention, self.target, self.negatives = attention, target, negatives
        self.normalize, self.temperature = normalize, temperature
        dim = backbone.embed_dim
        self.own_gru = None if own else ConvGRU(dim, dim, dropout=dropout)
        self.gru.requires_grad_(True)
        self.predictor = nn.Sequential(orthogonal_conv(dim, dim), nn.ReLU(), orthogonal_conv(dim, dim))
        self._metrics: dict[str, float | Tensor] = {}

    @property
    def gru(self) -> ConvGRU:
        """The recurrent network: the backbone's, or this method's own."""
        return self._own.gru if self.own_gru is None else self.own_gru

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a batch whose first view (B, 3, T, H, W) has the context's and the predicted frames."""
        clip = check_views(batch, "CPC", 1)[0]
        context, targets = self.encode(clip)
        scores = self.compare(self.predict(context), targets)
        return {"cpc": scores.loss}

    def encode(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the context (B, context frames, N, D) and of the frames to predict (B, pred frames, N, D).

        Raises:
            ValueError: a clip of another length, or a network that has no tokens of each frame.
        """
        if clip.shape[2] != self.context_frames + self.pred_frames:
            raise ValueError(
                f"CPC needs clips of {self.context_frames} context and {self.pred_frames} predicted frames, got "
                f"{clip.shape[2]}; the recipe's views.context_frames and views.pred_frames make them"
            )
        context, targets = self._encode_apart(clip) if self.attention == "isolated" else self._encode_together(clip)
        if targets.shape[1:3] != (self.pred_frames, context.shape[2]):
            raise ValueError(
                f"CPC needs tokens of each frame by itself: {type(self.backbone).__name__} has {context.shape[2]} in a "
                f"frame of the context, and for {self.pred_frames} predicted frames {tuple(targets.shape[1:3])}"
            )
        return context, targets

    def _encode_apart(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        future = clip[:, :, self.context_frames :]
        context = self.backbone(clip[:, :, : self.context_frames]).patches
        if self.target == "backbone":
            return context, self._own.frame_features(future)
        alone = future.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B*P, 3, 1, H, W): each frame a clip
        targets = self.backbone(alone).patches.flatten(1, 2)  # (B*P, N, D)
        return context, targets.unflatten(0, (len(clip), -1))  # (B, P, N, D)

    def _encode_together(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.backbone, CPCNetwork):
            frames = self.backbone.frame_features(clip)
            causal = self.attention == "frame_causal"
            tokens = self.backbone.tokens(frames, self.backbone.grid(clip), causal=causal)
        else:
            frames = tokens = self.backbone(clip).patches
        targets = tokens if self.target == "transformer" else frames
        return tokens[:, : self.context_frames], targets[:, self.context_frames :]

    @property
    def _own(self) -> CPCNetwork:
        assert isinstance(self.backbone, CPCNetwork)
        return self.backbone

    def predict(self, context: Tensor) -> Tensor:
        """The predicted tokens (B, pred frames, N, D) behind those of the context (B, T, N, D)."""
        maps = F.relu(context).transpose(2, 3).unsqueeze(-1)  # (B, T, D, N, 1): the GRU looks at each place alone
        state = self.gru(maps)[:, -1]
        predicted = [self.predictor(state)]
        for _ in range(self.pred_frames - 1):
            state = self.gru.step(F.relu(predicted[-1]), state)
            predicted.append(self.predictor(state))
        return torch.stack(predicted, dim=1).squeeze(-1).transpose(2, 3)  # (B, P, N, D)

    def compare(self, predicted: Tensor, targets: Tensor) -> Scores:
        """InfoNCE of predicted and true tokens, both (B, P, N, D); takes note of how often the right one is found."""
        _, steps, places, _ = predicted.shape
        with torch.autocast(predicted.device.type, enabled=False):  # a softmax over thousands needs its digits
            dtype = torch.promote_types(predicted.dtype, torch.float32)
            queries, keys = (x.to(dtype).flatten(0, 2) for x in (predicted, targets))  # (B*P*N, D)
            if self.normalize:
                queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
            rows_of_clip = steps * places
            scores = info_nce(queries / self.temperature, keys, rows_of_clip=rows_of_clip, negatives=self.negatives)
        row = torch.arange(len(queries), device=queries.device)
        right_clip = scores.nearest // rows_of_clip == row // rows_of_clip
        right_step = right_clip & (scores.nearest // places % steps == row // places % steps)
        self._metrics = {
            "top1": 100 * (scores.nearest == row).float().mean(),
            "right_clip": 100 * right_clip.float().mean(),
            "right_step": 100 * right_step.float().sum() / right_clip.float().sum().clamp_min(1),
            "feature_std": F.normalize(keys.detach(), dim=-1).std(dim=0, correction=0).mean(),
        }
        return scores

    def chance(self, clips: int, places: int) -> tuple[float, float, float]:
        """`top1`, `right_clip` and `right_step` of who guesses, in percent, of clips with so many places a frame."""
        candidates = {
            "all": clips * self.pred_frames * places,
            "same_clip": self.pred_frames * places,
            "other_clips": (clips - 1) * self.pred_frames * places + 1,
        }[self.negatives]
        right_clip = {"all": 1 / clips, "same_clip": 1.0, "other_clips": 1 / candidates}[self.negatives]
        return 100 / candidates, 100 * right_clip, 100.0 if self.negatives == "other_clips" else 100 / self.pred_frames

    def metrics(self) -> dict[str, float | Tensor]:
        """Of the last batch, in percent: `top1`, `right_clip`, and `right_step` among those of the right clip.

        `chance` says what guessing gives. `feature_std` tells a collapse, at which it is 0.
        """
        return dict(self._metrics)


def only_cls_depends_on(backbone: Backbone, num_frames: int) -> list[str]:
    """Trained parameters that move the `cls` of a small clip and not its `patches`; none on the meta device.

    Some networks' graphs reach a parameter whose gradient is zero all the same (Motionformer's class token), so
    gradients are what is looked at.
    """
    named = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    if not named or any(parameter.is_meta for parameter in named.values()):
        return []
    shape = (1, 3, num_frames, backbone.patch_size, backbone.patch_size)
    was_training = backbone.training
    with torch.enable_grad():
        features = backbone.eval()(_waves(shape).to(next(iter(named.values()))))
        moved = [_moves(named, output) for output in features]
    backbone.train(was_training)
    return [name for name in named if name in moved[0] - moved[1]]


def _moves(named: dict[str, nn.Parameter], output: Tensor) -> set[str]:
    """Names of the parameters by which `output` has a gradient; its plain sum would be blind behind a norm."""
    weighted = (output * _waves(output.shape).to(output)).sum()
    gradients = torch.autograd.grad(weighted, list(named.values()), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(named, gradients, strict=True) if g is not None and g.any()}


def _waves(shape: Sequence[int]) -> Tensor:
    return torch.arange(math.prod(shape)).cos().view(shape)
