"""What every network of the zoo carries besides its parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .layers import Features

if TYPE_CHECKING:
    from ..data.transforms import EvalTransform


class ZooModel(nn.Module):
    """A network with its story: `meta` says where it comes from, `transforms()` how its input is made.

    `meta` is plain data (what `config.json` holds): `model` and `model_kwargs` rebuild the architecture,
    `clip` is the clip specification, and loaded weights add their origin, licence and label names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.meta: dict[str, Any] = {}

    def transforms(self) -> "EvalTransform":
        """The evaluation transform of this network's clips: uint8 frames (T, H, W, 3) -> clip (3, T, H, W).

        Raises:
            ValueError: the network was built without a clip specification.
        """
        from ..hub.weights import transforms_of  # asked for, so torchvision may be loaded

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
    """A network that turns a clip (B, C, T, H, W) into `Features`; no classifier and no method's head inside.

    Attributes:
        embed_dim: width D of the features.
        num_frames: frames of the clips it was made for (others work too).
        patch_size: pixels a patch token stands for, along either side.
        new_parts: globs of state-dict entries that weights may lack, because only a classifier trains them; they start
            anew.
    """

    embed_dim: int
    num_frames: int
    patch_size: int
    new_parts: tuple[str, ...] = ()

    @property
    def cls_dim(self) -> int:
        """Width of the class feature: embed_dim, unless a network says otherwise."""
        return self.embed_dim

    def forward(self, clip: Tensor) -> Features:
        """Features of clip (B, C, T, H, W), H and W in pixels."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(clip) -> Features")


class Classifier(ZooModel):
    """A backbone and one linear layer on its class feature: clip (B, C, T, H, W) -> logits (B, K).

    Its story is that of its backbone.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a classifier needs num_classes >= 1, got {num_classes}")
        self.backbone = backbone
        self.head = nn.Linear(backbone.cls_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.meta = {**backbone.meta, "num_classes": num_classes}

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, K) of the clips."""
        features: Features = self.backbone(clip)
        return self.head(features.cls)
