"""What people install is whole, and nothing but the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import svt_zoo

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / "tests" / "wheel_check.py"


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing appears in the checkout."""
    pytest.importorskip("setuptools", reason="needs setuptools, to build without network")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("svt_zoo", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")])
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_recipe_the_types_mark_and_the_license_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "svt_zoo").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert "svt_zoo/py.typed" in names
    assert [name for name in names if name.endswith(".safetensors")] == ["svt_zoo/hub/svt_tiny_motion.safetensors"]
    recipes = {f"svt_zoo/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert {name for name in names if name.endswith(".yaml")} == recipes
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"svt_zoo"}


def test_an_installed_wheel_embeds_a_clip_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    said = run([sys.executable, str(CHECK)], cwd=tmp_path, env=environment)
    assert f"in {tmp_path / 'site' / 'svt_zoo'}: feature of 32 numbers" in said


def test_an_installed_wheel_finds_its_recipes_and_their_bases(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "svt_zoo", "recipes"]
    assert run(command, cwd=tmp_path, env=environment) == run(command, cwd=ROOT)
    said = run([*command, "knn/ucf101", "--dump"], cwd=tmp_path, env=environment)
    assert "dataset: UCF-101" in said  # of its base


def test_an_installed_wheel_brings_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "svt-zoo = svt_zoo.cli:main" in archive.read(name).decode()


@pytest.mark.slow
@pytest.mark.network
def test_an_empty_environment_needs_nothing_but_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run([python, "-m", "pip", "install", "--quiet", str(wheel)], env=environment)
    said = run([python, str(CHECK), "--commands"], cwd=tmp_path, env=environment)
    assert "feature of 32 numbers" in said
    assert "svt/vitb_k400 " in said
    assert "decoder of av1: " in said
    assert f"the report: {tmp_path / 'runs' / 'demo_quick' / 'report.html'}" in said


def test_all_places_say_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited
    assert project["version"] == svt_zoo.__version__ == cited[1]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_pins_every_dependency_by_hash_and_names_no_server() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE))
    for dependency in project["dependencies"]:
        requirement = Requirement(dependency)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
    assert len(pinned) == len(re.findall(r"^\w.*==", lock, re.MULTILINE))
    assert "://" not in lock


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_files_that_exist(page: Path) -> None:
    folders = "tools|configs|benchmarks|examples" + ("" if page.name == "CHANGELOG.md" else "|svt_zoo|tests")
    for target in re.findall(rf"\b((?:{folders})/[\w/.-]+\.(?:py|sh|yaml))", page.read_text("utf-8")):
        assert "NAME" in target or (ROOT / target).exists(), target


def test_make_docs_shows_every_module() -> None:
    said = run(["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/ready", "docs"], cwd=ROOT)
    named = set(said.splitlines()[-1].split())
    for path in (ROOT / "svt_zoo").glob("*/*.py"):
        package = f"svt_zoo.{path.parent.name}"
        lists_names = "__all__" in (path.parent / "__init__.py").read_text()  # then its modules are named one by one
        wanted = f"{package}.{path.stem}" if lists_names and path.stem != "__init__" else package
        assert wanted in named, "add it to MODULES in the Makefile"


@pytest.mark.slow
def test_the_reference_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="needs pdoc (the extra docs)")
    said = run(["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/ready", "docs"], cwd=ROOT)
    command = shlex.split(said.splitlines()[-1].replace("build/docs", shlex.quote(str(tmp_path))))
    run([sys.executable, *command[1:]], cwd=ROOT)
    assert "Features" in (tmp_path / "svt_zoo" / "models.html").read_text()
    assert (tmp_path / "svt_zoo" / "hub" / "weights.html").exists()
    assert (tmp_path / "svt_zoo" / "data" / "video.html").exists()


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel (the extra dev)")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel (the extra dev)")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "Features" in said
