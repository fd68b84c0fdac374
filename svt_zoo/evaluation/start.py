"""The line that a run logs at its start: device, network, videos and output path."""

import logging
import os

import torch
from torch import nn

from .. import distributed
from ..device import device_name

_log = logging.getLogger(__name__)


def log_start(
    what: str,
    network: nn.Module,
    *,
    device: torch.device | str,
    precision: str | torch.dtype,
    output: str | os.PathLike[str],
    **facts: object,
) -> None:
    """Log the setup of a run, once, in the main process.

    Args:
        what: the kind of the run, such as "pre-training".
        network: its parameters are counted, including frozen ones.
        device, precision: device and number type of the run.
        output: the folder or file that it writes.
        facts: numbers by name, such as `evaluation_videos=9537, classes=101`; None and 0 are left out.
    """
    if not distributed.is_main():
        return
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    named = [f"{value} {name.replace('_', ' ')}" for name, value in facts.items() if value]
    _log.info(
        "%s on %s, precision %s, %d process(es): %s, network of %.1f M parameters; output: %s",
        what,
        device_name(device),
        str(precision).removeprefix("torch."),
        distributed.world_size(),
        ", ".join(named),
        millions,
        os.fspath(output),
    )
