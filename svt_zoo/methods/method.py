"""What every objective offers to the training loop."""

from torch import Tensor, nn

from ..batch import Batch
from ..models import Backbone


class Method(nn.Module):
    """An objective that owns its networks: its forward is the loss, one `state_dict` resumes all of it.

    In a step the loop calls `forward` and backward, once for each batch that is accumulated, then `before_step`, clips
    gradients, calls the optimizer, then `after_step`. All get the same `epoch`, the only clock there is: steps done
    divided by steps in an epoch, 0.0 at the first step of a run.

    Attributes:
        backbone: the network that is exported and evaluated.
    """

    backbone: Backbone

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The losses of `batch` by name, which the loop sums.

        The batch's views are floating point (B, 3, T, H, W), normalized, on the device of the networks.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch, epoch) -> losses")

    def before_step(self, epoch: float) -> None:
        """What is to happen behind backward, before gradients are clipped; nothing by default."""

    def after_step(self, epoch: float) -> None:
        """What is to happen behind the optimiser, such as moving a teacher; nothing by default."""

    def metrics(self) -> dict[str, float | Tensor]:
        """Numbers of the last step that a monitor shows, without gradient; tensors stay on the device, unread."""
        return {}


def check_views(batch: Batch, method: str, least: int) -> list[Tensor]:
    """The views of `batch`, if they are what a method can use.

    Raises:
        ValueError: fewer than `least` views, or views that are not floating point (B, 3, T, H, W) of one B.
    """
    if len(batch.views) < least:
        raise ValueError(f"{method} needs at least {least} views of a video, got {len(batch.views)}")
    for index, view in enumerate(batch.views):
        if view.ndim != 5 or not view.is_floating_point() or len(view) != len(batch.views[0]):
            raise ValueError(
                f"{method}: view {index} must be floating point (B, C, T, H, W) with B = {len(batch.views[0])} videos, "
                f"got {tuple(view.shape)} of {view.dtype}; uint8 frames go through data.augment first"
            )
    return batch.views
