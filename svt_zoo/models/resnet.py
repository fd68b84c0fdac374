"""The two-dimensional ResNet that CPC applies to every frame independently.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in torchvision's layout and names. It has two
changes of DPC (Han et al., ICCV workshops 2019). The last stage is as wide as the one before it. The last block
ends without ReLU, so that features may be negative. It has no pooling and no classifier.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32  # pixels per map position, along either side


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, final_relu: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (R, C, h, w) -> (R, width, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(out) if self.final_relu else out


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last four times as wide (ResNet-50 and 101)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, final_relu: bool) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (R, C, h, w) -> (R, 4 * width, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(out) if self.final_relu else out


class FrameResNet(nn.Module):
    """Images (R, 3, H, W) -> maps (R, embed_dim, ceil(H / 32), ceil(W / 32)), whose values may be negative.

    Args:
        block: class of the blocks.
        depths: number of blocks in each of the four stages.
        embed_dim: channels of the last two stages; the first two have a quarter and a half of them.

    Raises:
        ValueError: `embed_dim` cannot be divided accordingly.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        width, rest = divmod(embed_dim, 4 * block.expansion)
        if rest or width < 1:
            raise ValueError(f"embed_dim of this ResNet is a multiple of {4 * block.expansion}, got {embed_dim}")
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, (depth, times, stride) in enumerate(zip(depths, (1, 2, 4, 4), (1, 2, 2, 2), strict=True), 1):
            blocks = []
            for i in range(depth):
                last = stage == 4 and i == depth - 1
                blocks.append(block(inputs, times * width, stride if i == 0 else 1, final_relu=not last))
                inputs = times * width * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps of R images."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x
