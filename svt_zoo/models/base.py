"""The base classes: `ZooModel`, `Backbone` (clip -> `Features`) and `Classifier` (clip -> logits)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import Block, Features, check_choice

GradCheckpointing = bool | Literal["mlp"]
OutputFormat = Literal["features", "BDTHW"]

if TYPE_CHECKING:
    from ..data.transforms import EvalTransform


class ZooModel(nn.Module):
    """A network with `meta`, which states where it comes from, and `transforms()`, which makes its input.

    `meta` is plain data (what `config.json` holds): `model` and `model_kwargs` rebuild the architecture,
    `clip` is the clip specification, and loaded weights add their origin, license and class names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.meta: dict[str, Any] = {}

    def transforms(self) -> "EvalTransform":
        """The evaluation transform: uint8 frames (T, H, W, 3) or (T, 3, H, W) -> clip (3, T, H, W).

        Raises:
            ValueError: the network was built without a clip specification.
        """
        from ..hub.weights import transforms_of  # here, because it loads torchvision

        return transforms_of(self.meta)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `model.safetensors`, `config.json` and a model card into `folder`; `from_pretrained` reads them."""
        from ..hub.publish import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(
        self, repo: str, *, private: bool = False, message: str = "Upload weights", token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hub repository `repo`; returns the full commit sha."""
        from ..hub.publish import push_to_hub

        return push_to_hub(self, repo, private=private, message=message, token=token)


class Backbone(ZooModel):
    """A network that maps a clip (B, C, T, H, W) to `Features`, without a classifier or a method's head.

    A transformer implements `embed_clip`, `split` and `blocks`, and inherits the rest. Any other network overrides
    `forward`; it then has no `forward_intermediates` and no gradient checkpointing.

    Attributes:
        embed_dim: width D of the features.
        num_frames: frames of the clips that the network was made for (other numbers work too).
        patch_size: pixels per patch, along either side.
        num_classes: always 0; a `Classifier` has classes.
        blocks: the transformer blocks, in order; called as `block(x, context)`.
        grad_checkpointing: whether each block is recomputed in the backward pass, to save memory.
        new_parts: globs of state-dict entries that weights may lack, because only a classifier trains them; they are
            initialized.
    """

    embed_dim: int
    num_frames: int
    patch_size: int
    num_classes = 0
    blocks: nn.ModuleList
    grad_checkpointing: bool = False
    new_parts: tuple[str, ...] = ()

    @property
    def cls_dim(self) -> int:
        """Width of the class feature: embed_dim, unless a network overrides it."""
        return self.embed_dim

    def embed_clip(self, clip: Tensor) -> tuple[Tensor, Any]:
        """The input of the first block for clip (B, C, T, H, W), and `context`, the second argument of every block."""
        raise NotImplementedError(f"{type(self).__name__} has neither forward(clip) nor embed_clip(clip)")

    def split(self, x: Tensor, clip: Tensor, *, norm: bool) -> Features:
        """The output x of a block as `Features`, after the final norm if `norm`; `clip` gives the shape."""
        raise NotImplementedError(f"{type(self).__name__} does not implement split(x, clip, norm=...)")

    def run_block(self, block: nn.Module, x: Tensor, context: Any) -> Tensor:
        """`block(x, context)`; with gradient checkpointing, the backward pass computes it again."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, x, context, use_reentrant=False))
        return cast(Tensor, block(x, context))

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, C, T, H, W), H and W in pixels; class feature and patches after the final norm."""
        x, context = self.embed_clip(clip)
        for block in self.blocks:
            x = self.run_block(block, x, context)
        return self.split(x, clip, norm=True)

    def forward_features(self, clip: Tensor) -> Features:
        """The same as `forward`, under timm's name."""
        return cast(Features, self(clip))

    def forward_intermediates(
        self,
        clip: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        output_fmt: OutputFormat = "features",
    ) -> list[Any]:
        """The outputs of some blocks, in the order of the blocks; blocks after the last one do not run.

        This is timm's `forward_intermediates(..., intermediates_only=True)`.

        Args:
            clip: (B, C, T, H, W).
            indices: None takes every block, n the last n, a list those blocks; negative numbers count from the end.
            norm: apply the network's final norm to each output.
            output_fmt: "features" gives `Features`; "BDTHW" gives the patches alone, as a grid (B, D, T, rows, columns)
                for heads that segment or detect.

        Raises:
            ValueError: no such block, or a network without blocks.
        """
        check_choice("output_fmt", output_fmt, OutputFormat)
        depth = len(self._known_blocks("forward_intermediates"))
        wanted = _block_numbers(depth, indices)
        x, context = self.embed_clip(clip)
        outputs = []
        for number in range(max(wanted) + 1):
            x = self.run_block(self.blocks[number], x, context)
            if number in wanted:
                outputs.append(self.split(x, clip, norm=norm))
        if output_fmt == "features":
            return outputs
        (height, width), patch = clip.shape[3:], self.patch_size
        is_floor = (height // patch) * (width // patch) == outputs[0].patches.shape[2]
        rows = height // patch if is_floor else -(-height // patch)  # CPC's convolutions round up
        return [
            one.patches.unflatten(2, (rows, -1)).permute(0, 4, 1, 2, 3) for one in outputs
        ]  # (B, D, T, rows, columns)

    def set_grad_checkpointing(self, enable: GradCheckpointing = True) -> None:
        """Compute parts again in the backward pass: less memory, more time, the same gradients.

        Args:
            enable: True for each block; "mlp" for the MLPs of the blocks and the norms before attention, with less
                effect on both.

        Raises:
            ValueError: another value, or a network without (such) blocks.
        """
        if enable not in (True, False, "mlp"):
            raise ValueError(f"grad_checkpointing must be true, false or mlp, got {enable!r}")
        blocks = self._known_blocks("gradient checkpointing") if enable else getattr(self, "blocks", ())
        self.grad_checkpointing = enable is True
        with_mlp = [block for block in blocks if isinstance(block, Block)]
        if enable == "mlp" and not with_mlp:
            raise ValueError(f"grad_checkpointing=mlp is not possible for {type(self).__name__}; use true")
        for block in with_mlp:
            block.recompute_mlp = enable == "mlp"

    def reset_classifier(self, num_classes: int) -> None:
        """A backbone has no classifier, so this takes 0 only; `Classifier.reset_classifier` replaces one.

        Raises:
            ValueError: another number.
        """
        if num_classes:
            raise ValueError(
                f"a backbone has no classifier to reset to {num_classes} classes; "
                f"use svt_zoo.Classifier(backbone, {num_classes})"
            )

    def _known_blocks(self, purpose: str) -> nn.ModuleList:
        blocks = getattr(self, "blocks", None)
        if blocks is None or type(self).embed_clip is Backbone.embed_clip:
            raise ValueError(f"{purpose} needs blocks, embed_clip and split, which {type(self).__name__} does not have")
        return cast(nn.ModuleList, blocks)


def _block_numbers(depth: int, indices: int | Sequence[int] | None) -> set[int]:
    """The blocks that `indices` of `forward_intermediates` names, of `depth` blocks."""
    if indices is None:
        indices = depth
    if isinstance(indices, int):
        if not 1 <= indices <= depth:
            raise ValueError(f"indices must be 1 to {depth} for the last blocks, got {indices}")
        return set(range(depth - indices, depth))
    wrong = [index for index in indices if not -depth <= index < depth]
    if wrong or not indices:
        raise ValueError(f"indices must name blocks {-depth} to {depth - 1}, got {list(indices)}")
    return {index % depth for index in indices}


class Classifier(ZooModel):
    """A backbone and one linear layer on its class feature: clip (B, C, T, H, W) -> logits (B, K).

    `meta` starts as a copy of the backbone's.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.meta = dict(backbone.meta)
        self._add_head(num_classes)

    def _add_head(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"a classifier needs num_classes >= 1, got {num_classes}; its backbone is model.backbone")
        like = next(self.backbone.parameters(), torch.empty(0))
        self.head = nn.Linear(self.backbone.cls_dim, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.meta["num_classes"] = num_classes

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return self.head.out_features

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer by a new one, with random weights, for other classes; class names are dropped.

        Raises:
            ValueError: num_classes below 1.
        """
        self._add_head(num_classes)
        self.head.train(self.training)
        self.meta |= {"labels": None, "categories": None}

    def set_labels(self, labels: Sequence[str]) -> None:
        """Name the classes, in the order of the logits: `predict` returns these names, saved files keep them.

        Raises:
            ValueError: not one name per class, a name twice, or a name that is not a string.
        """
        self.meta |= {"labels": None, "categories": check_labels(labels, self.num_classes)}

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, K) of the clips."""
        features: Features = self.backbone(clip)
        return self.head(features.cls)

    def forward_features(self, clip: Tensor) -> Features:
        """The backbone's features of the clips."""
        return cast(Features, self.backbone(clip))

    def forward_intermediates(
        self, clip: Tensor, indices: int | Sequence[int] | None = None, **options: Any
    ) -> list[Any]:
        """As `Backbone.forward_intermediates`."""
        return self.backbone.forward_intermediates(clip, indices, **options)

    def set_grad_checkpointing(self, enable: GradCheckpointing = True) -> None:
        """As `Backbone.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)


def check_labels(labels: Sequence[str], num_classes: int) -> list[str]:
    """The names of `num_classes` classes, as a list.

    Raises:
        ValueError: not one name per class, a name twice, or a name that is not a string.
    """
    names = [labels] if isinstance(labels, str) else list(labels)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"class names must be strings, got {wrong[0]!r}")
    if len(names) != num_classes:
        raise ValueError(f"labels must name each of the {num_classes} classes once, got {len(names)} names")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"class names must differ, got {twice!r} twice")
    return names


def backbone_of(model: nn.Module) -> Any:
    """The backbone of a classifier; any other network itself.

    A function and no property `Backbone.backbone`, because a user's network may hold a module of this name.
    """
    return model.backbone if isinstance(model, Classifier) else model
