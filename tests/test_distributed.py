"""What processes say to each other; alone, nothing changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_processes
from torch.testing import assert_close

from svt_zoo import distributed
from svt_zoo.config import KNNRecipe, ModelConfig, Recipe
from svt_zoo.evaluation.run import load_network
from svt_zoo.training.run import build_backbone

PROGRAM = """
import json, torch
from svt_zoo import distributed as d
device = d.init("cpu")
d.init("cpu")
mine = torch.tensor([[1.0, 10.0]]) * (d.rank() + 1)
d.barrier()
result = {
    "rank": d.rank(), "local_rank": d.local_rank(), "world_size": d.world_size(), "is_main": d.is_main(),
    "mean": d.all_mean(mine).tolist(), "mine": mine.tolist(), "device": str(device),
}
d.shutdown()
print(json.dumps(result))
"""

IN_TURN = """
import json, os, pathlib, time
from svt_zoo import distributed as d
d.init("cpu")
result = {"before_me": [], "errors": []}

def load(name, failing=None):
    time.sleep(0 if d.rank() else 0.3)  # the main process is the slow one
    path = pathlib.Path("FOLDER", name)
    result["before_me"].append(path.exists())
    path.touch()
    if d.rank() == failing:
        raise ValueError(f"{name} cannot be had")
    return d.rank()

result["loaded"] = [d.in_turn(lambda: load("on one machine"))]
os.environ["LOCAL_RANK"] = "0"
result["loaded"].append(d.in_turn(lambda: load("on two machines")))
for failing in (0, 1):
    try:
        d.in_turn(lambda: load(f"file {failing}", failing))
    except ValueError as error:
        result["errors"].append(str(error))
d.shutdown()
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def result() -> list[dict[str, Any]]:
    return run_processes(PROGRAM)


def test_each_process_knows_its_place(result: list[dict[str, Any]]) -> None:
    assert [(s["rank"], s["local_rank"], s["world_size"], s["is_main"]) for s in result] == [
        (0, 0, 2, True),
        (1, 1, 2, False),
    ]


def test_the_mean_is_over_all_processes_and_leaves_the_tensor_alone(result: list[dict[str, Any]]) -> None:
    assert [s["mean"] for s in result] == [[[1.5, 15.0]]] * 2
    assert result[1]["mine"] == [[2.0, 20.0]]


def test_the_main_process_loads_first_and_an_error_of_one_is_raised_in_all(tmp_path: Path) -> None:
    main, other = run_processes(IN_TURN.replace("FOLDER", str(tmp_path)))
    assert (main["loaded"], other["loaded"]) == ([0, 0], [1, 1])
    assert main["before_me"] == [False] * 4
    assert other["before_me"] == [True] * 3  # where the main process failed, the other did not begin
    assert main["errors"] == other["errors"] == ["file 0 cannot be had", "file 1 cannot be had"]


def test_the_networks_of_training_and_evaluation_are_loaded_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(distributed, "in_turn", lambda load: called.append(load) or load())
    tiny = ModelConfig("svt_vitt", {"depth": 1, "embed_dim": 12, "num_heads": 2})
    build_backbone(Recipe(init="random", model=tiny))
    load_network(KNNRecipe(init="random", model=tiny))
    assert len(called) == 2


def test_alone_everything_is_itself() -> None:
    tensor = torch.arange(3.0, requires_grad=True)
    assert distributed.init("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert_close(distributed.all_mean(tensor), tensor.detach())
    assert not distributed.all_mean(tensor).requires_grad
    assert distributed.in_turn(lambda: 3) == 3
    distributed.barrier()
    distributed.shutdown()


def test_a_process_without_a_gpu_of_its_own_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"process 1 of this machine has no GPU, torch found 1; .*--nproc-per-node"):
        distributed.init("cuda")
