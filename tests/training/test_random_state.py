import io
import random

import numpy as np
import torch

from svt_zoo.training.random_state import random_state, seed_all, set_random_state

CPU = torch.device("cpu")


def draw() -> list[float]:
    rng = np.random
    return [torch.rand(()).item(), torch.randn(()).item(), rng.rand(), rng.randn(), random.random(), random.gauss(0, 1)]


def test_all_generators_go_on_from_a_state_that_went_through_a_file() -> None:
    seed_all(3)
    draw()  # leaves the second half of a Gaussian pair behind in numpy and Python
    file = io.BytesIO()
    torch.save(random_state(CPU), file)
    expected = draw()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True), CPU)
    assert draw() == expected


def test_each_seed_and_process_draws_its_own_numbers() -> None:
    drawn = []
    for seed, process in ((0, 0), (0, 1), (1, 0)):
        seed_all(seed, process)
        drawn.append(draw())
    assert all(len(set(values)) == 3 for values in zip(*drawn, strict=True))
    seed_all(0, 0)
    assert draw() == drawn[0]
