"""The house keeps its shape: imports point one way, help is instant, pins fit, nothing names one machine."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE, ANALYSIS, PIPELINES = ROOT / "crystalframer", ROOT / "analysis", ROOT / "pipelines"
BENCHMARKS = ROOT / "benchmarks"
TRACKING = ("ray", "mlflow", "optuna")
HEAVY = (*TRACKING, "torch", "pandas", "pymatgen")
FRONT_DOOR = PACKAGE / "cli.py"
"""The console script: the one module outside orchestration that may call it."""
SOURCES = sorted(path for folder in (PACKAGE, ANALYSIS, PIPELINES, BENCHMARKS) for path in folder.rglob("*.py"))
CORE = [path for path in SOURCES if path.is_relative_to(PACKAGE) and "orchestration" not in path.parts]


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside a function; ``from a import b`` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def offences(paths: list[Path], *forbidden: str) -> list[str]:
    """Files that import a forbidden module or one of its parts."""
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in paths
        for module in sorted(imports(path))
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


def tracked_files() -> list[Path]:
    """The files of the repository, as git lists them."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("needs a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_imports_are_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import ray.tune\ndef f():\n    from crystalframer import orchestration\n")
    assert imports(module) == {"ray.tune", "crystalframer", "crystalframer.orchestration"}
    assert len(CORE) > 10


def test_the_core_knows_neither_ray_nor_mlflow_nor_optuna() -> None:
    assert offences(CORE, *TRACKING) == []


def test_the_core_does_not_know_orchestration() -> None:
    assert offences([path for path in CORE if path != FRONT_DOOR], "crystalframer.orchestration") == []


def test_the_package_knows_no_scripts() -> None:
    paths = [path for path in SOURCES if path.is_relative_to(PACKAGE)]
    assert offences(paths, "pipelines", "analysis", "benchmarks", "tests") == []


def test_benchmarks_measure_the_core() -> None:
    paths = [path for path in SOURCES if path.is_relative_to(BENCHMARKS)]
    assert offences(paths, *TRACKING, "crystalframer.orchestration", "pipelines", "analysis", "tests") == []


def test_analysis_reads_and_never_trains() -> None:
    paths = [path for path in SOURCES if path.is_relative_to(ANALYSIS)]
    assert offences(paths, "ray", "optuna", "crystalframer.training.trainer", "pipelines", "tests") == []


def test_analysis_is_the_checkouts_own(tmp_path: Path) -> None:
    # the scripts find it by the editable install, here and in the environment of `make`
    code = "import analysis; print(analysis.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == ANALYSIS / "__init__.py"


def test_sweeps_are_declarations() -> None:
    others = [path.name for path in (ROOT / "sweeps").rglob("*") if path.suffix != ".yaml" and path.name != "README.md"]
    assert others == []


def scripts() -> list[Path]:
    """Every script a person starts."""
    return [
        path
        for path in SOURCES
        if "__main__" in path.read_text(encoding="utf-8") and path.parent != PACKAGE / "orchestration"
    ]


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_help_comes_at_once(script: Path) -> None:
    code = f"""
import atexit, runpy, sys
sys.argv = [{str(script)!r}, "--help"]
sys.path.insert(0, {str(script.parent)!r})
atexit.register(lambda: print("heavy:", *sorted(set({HEAVY!r}) & set(sys.modules))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    allowed = {ANALYSIS: {"pandas"}, BENCHMARKS: {"pandas", "pymatgen", "torch"}}.get(script.parent, set())
    heavy = set(done.stdout.splitlines()[-1].split()[1:])
    assert heavy <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_no_file_names_one_machine() -> None:
    place = re.compile(r"(?<![\w.~/-])/(work|root|Users|home(?!/ray))/")  # ray's container images live in /home/ray
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a data file or a picture
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if place.search(line)
        ]
    assert found == []


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.name != project["name"]:
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, requirement
            assert requirement.specifier.contains(version), (requirement, version)


def test_the_texts_link_to_what_exists() -> None:
    for text in [path for path in tracked_files() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#]+)", text.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (text.parent / target).exists(), f"{text.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")]
)
def test_waiting_threads_soon_give_way_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = (
        "import sys, os, crystalframer; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT', ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
