"""The shape of the house: which part may import which, and what importing must not do."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "svt_zoo"

# Who may import whom, module level. Everything may import itself; nothing imports what is not listed.
ALLOWED = {
    "batch": set(),
    "device": set(),
    "files": set(),
    "lock": {"files"},
    "options": set(),
    "config": {"methods", "data", "options"},
    "distributed": {"lock"},
    "schedules": set(),
    "signatures": set(),
    "models": set(),
    "video": {"files", "signatures"},
    "data": {"files", "lock", "video", "batch", "options"},
    "methods": {"models", "batch", "distributed", "options", "schedules"},
    "hub": {"files", "models", "options", "signatures"},
    "training": {
        *("files", "video", "methods", "models", "data", "hub", "evaluation"),
        *("batch", "config", "device", "distributed", "options", "schedules"),
    },
    "evaluation": {"files", "models", "video", "data", "hub", "batch", "config", "device", "distributed", "options"},
    "inference": {"files", "lock", "models", "video", "data", "hub", "evaluation", "device"},
    "demo": {"files", "models", "video", "data", "hub", "training", "evaluation", "inference", "config"},
    "cli": {
        *("config", "data", "demo", "device", "distributed", "evaluation", "files"),
        *("hub", "inference", "models", "options", "training", "video"),
    },
    "__main__": {"cli"},
}
# The options of training and of the evaluations are in modules that import no recipe.
OPTIONS = {("config.py", "evaluation"), ("config.py", "training")}
# A network and a weights row know their transform and how to save themselves, but load that code only when asked.
WHEN_ASKED = {
    ("models/base.py", "hub"),
    ("models/base.py", "data"),
    ("models/__init__.py", "hub"),
    ("hub/weights.py", "data"),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def relative_imports(path: Path) -> list[tuple[str, bool]]:
    """(part of the package imported, at module level?) for every relative import that leaves the file's own part."""
    tree = ast.parse(path.read_text())
    parts = path.relative_to(PACKAGE).parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = parts[: len(parts) - node.level]
            target = (*up, *(node.module or "").split("."))
            names = [target[0]] if target[0] else [alias.name for alias in node.names]
            found += [(name, node in tree.body) for name in names if name != parts[0].removesuffix(".py")]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    part = name.split("/")[0].removesuffix(".py")
    for target, at_module_level in relative_imports(path):
        if target in ALLOWED[part] or (name, target) in OPTIONS:
            continue
        assert (name, target) in WHEN_ASKED, f"{name} imports {target}"
        assert not at_module_level, f"{name} imports {target} at module level"


def imported_modules(path: Path) -> set[Path]:
    """The modules of the package that `path` imports at module level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [folder / alias.name for alias in node.names]
            places = [name.with_suffix(".py") for name in names] + [name / "__init__.py" for name in names]
            submodules = {place for place in places if place.is_file()}
            module = folder.with_suffix(".py")
            found |= submodules or ({module} if module.is_file() else {folder / "__init__.py"})
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({path: imported_modules(path) for path in modules()}).prepare()  # raises CycleError


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in names if name.split(".")[0] == "svt_zoo"]


def test_top_level_names_cannot_clash_with_other_peoples() -> None:
    tracked = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    assert tracked == {"hubconf.py", "setup.py", "svt_zoo"}


def test_importing_the_package_loads_no_video_library_and_changes_nothing() -> None:
    program = """
import logging, os, random, sys, warnings
import numpy, torch
warnings.simplefilter("error")
before = dict(os.environ), random.getstate(), torch.get_rng_state(), list(logging.root.handlers)
import svt_zoo
for name in ("create_model", "get_weights", "load_model", "svt_vitb_k400", "from_pretrained"):
    getattr(svt_zoo, name)
svt_zoo.create_model  # the registry
heavy = [name for name in sys.modules if name.split(".")[0] in ("av", "torchvision", "pytorchvideo")]
assert not heavy, heavy
assert before[0] == dict(os.environ)
assert before[1] == random.getstate()
assert torch.equal(before[2], torch.get_rng_state())
assert before[3] == logging.root.handlers and not logging.getLogger("svt_zoo").handlers
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    program = "import sys, svt_zoo; dir(svt_zoo); print([m for m in ('torch', 'numpy', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_a_command_loads_other_parts_only_when_it_runs() -> None:
    light = {"__init__.py": {"hub"}}  # one_line, of a module that loads nothing
    for path in (PACKAGE / "cli").glob("*.py"):
        eager = {target for target, at_module_level in relative_imports(path) if at_module_level}
        assert eager == light.get(path.name, set())


@pytest.mark.parametrize("path", [*modules(), PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_holds_one_idea(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350, f"{path.name} has {text.count(chr(10))} lines: do two ideas live here?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or 0) - node.lineno + 1
            assert size <= 70, f"{path.name}:{node.lineno} {node.name} has {size} lines"


def test_every_public_name_is_documented_and_loads() -> None:
    import svt_zoo

    for name in svt_zoo.__all__:
        assert getattr(svt_zoo, name).__doc__, name
    assert set(svt_zoo.__all__) == set(svt_zoo._HOME) == set(dir(svt_zoo))
    assert set(svt_zoo.list_weights()) <= set(svt_zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = svt_zoo.nonsense


def test_every_module_imports_where_python_lacks_what_windows_lacks() -> None:
    program = """
import importlib, os, pkgutil, signal, sys
import multiprocessing.forkserver, av, filelock, fvcore.common.config, iopath, matplotlib
import pytorchvideo.data, torchvision
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "pthread_sigmask", "sigwaitinfo", "SIG_BLOCK", "SIG_SETMASK"):
    delattr(signal, name)
for name in ("fork", "getuid", "killpg", "mkfifo", "sched_getaffinity", "uname"):
    delattr(os, name)
for name in ("fcntl", "pwd", "resource", "termios"):
    sys.modules[name] = None
import svt_zoo
for module in pkgutil.walk_packages(svt_zoo.__path__, "svt_zoo."):
    # inference/hf_*.py are copied into folders for transformers, and need transformers
    if not module.name.endswith("__main__") and ".hf_" not in module.name:
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
