"""Measure the training of attentive probes: CPU seconds per step and per training video, on one thread.

    python benchmarks/probe_cost.py --dims 96 384 768

Trains the heads of all default settings of `svt-zoo probe` on random tokens, in batches of the default size.
"""

import argparse
import sys
import time

import torch

from svt_zoo.evaluation.attentive import fresh_head, train_side_by_side
from svt_zoo.evaluation.probe import ProbeConfig

TOKENS, CLASSES, STEPS = 32, 10, 6


def seconds_per_step(dim: int, options: ProbeConfig, steps: int = STEPS) -> float:
    num = options.batch_size * steps
    tokens = torch.randn(num, TOKENS, dim, generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    train_side_by_side(
        fresh_head(dim, CLASSES, 1, 0),
        options.settings(),
        lambda rows: tokens[rows],
        torch.arange(num),
        torch.arange(num) % CLASSES,
        epochs=1,
        batch_size=options.batch_size,
        device=torch.device("cpu"),
    )
    return (time.process_time() - start) / steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[96, 384, 768], help="dimensions of the tokens")
    torch.set_num_threads(1)
    options = ProbeConfig()
    seconds_per_step(32, options, steps=2)  # warms up
    for dim in parser.parse_args().dims:
        step = seconds_per_step(dim, options)
        # The settings are chosen on a model that sees 1 - validation_fraction of the training videos.
        video = step * options.epochs * (1 - options.validation_fraction) / options.batch_size
        print(
            f"{dim} dimensions, {len(options.settings())} settings: {step:.3f} s a step, {video:.3f} s a training video"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
