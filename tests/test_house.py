"""The house keeps its shape: imports point one way, help is instant, pins fit, nothing names one machine."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crystalframer.commands.files import coming_along

ROOT = Path(__file__).parents[1]
PACKAGE, ANALYSIS, PIPELINES = ROOT / "crystalframer", ROOT / "analysis", ROOT / "pipelines"
BENCHMARKS = ROOT / "benchmarks"
TRACKING = ("ray", "mlflow", "optuna")
HEAVY = (*TRACKING, "torch", "pandas", "pymatgen")
COMMANDS = PACKAGE / "commands"
FRONT_DOORS = (COMMANDS, PACKAGE / "api.py")
"""The program's commands and what `import crystalframer` offers: they may call all rooms, and no room calls them."""
SOURCES = sorted(path for folder in (PACKAGE, ANALYSIS, PIPELINES, BENCHMARKS) for path in folder.rglob("*.py"))
WRITERS = (COMMANDS / "files.py", ANALYSIS / "results_page.py")
"""Modules that name pages as files to read or write."""
CORE = [path for path in SOURCES if path.is_relative_to(PACKAGE) and not {"orchestration", "commands"} & {*path.parts}]
ROOMS = """
geometry
data                    geometry
data.structures         data geometry
data.preparation        data.structures data geometry
kernels                 data geometry
nn                      kernels data geometry
pictures                data geometry
training                nn kernels data geometry
prediction              pictures training nn kernels data.structures data geometry
runs                    prediction training nn data
pretrained              runs prediction pictures training data.preparation data.structures data geometry
orchestration.tracking  runs prediction training nn data
orchestration.cluster   orchestration.tracking runs training data
orchestration.sweeps    orchestration.cluster orchestration.tracking runs training data
orchestration.search    orchestration.sweeps orchestration.cluster orchestration.tracking runs training data
orchestration           orchestration.tracking
"""
"""Each room of the package, and the rooms it may import; all may import the modules beside the rooms."""
ARROWS = {room: set(allowed) for room, *allowed in map(str.split, ROOMS.strip().splitlines())}
LIBRARIES = {"mlflow": "orchestration.tracking", "ray": "orchestration.cluster", "optuna": "orchestration.search"}
"""The libraries that one room alone may import."""


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


def module_name(path: Path) -> str:
    """Return what a file of ours is called when it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCE_MODULES = {module_name(path) for path in SOURCES}
PACKAGE_MODULES = {name for name in SOURCE_MODULES if name.startswith("crystalframer")}


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


def test_the_core_does_not_know_orchestration_and_no_room_knows_the_commands() -> None:
    assert offences([path for path in CORE if path not in FRONT_DOORS], "crystalframer.orchestration") == []
    inner = [path for path in SOURCES if path.is_relative_to(PACKAGE) and not path.is_relative_to(COMMANDS)]
    assert offences(inner, "crystalframer.commands") == []


def room_of(module: str) -> str:
    """Return the innermost room a module of the package lies in, "" for those beside the rooms."""
    parts = module.split(".")[1:]
    while parts and not (PACKAGE / Path(*parts)).is_dir():
        parts.pop()
    return ".".join(parts)


def test_arrows_between_rooms_point_one_way() -> None:
    inner = [path for path in SOURCES if path.is_relative_to(PACKAGE) and not {path, path.parent} & {*FRONT_DOORS}]
    wrong = []
    for path in inner:
        here = room_of(module_name(path))
        for module in sorted(imports(path) & PACKAGE_MODULES):
            there = room_of(module)
            if here != there and there and there not in ARROWS.get(here, ()):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_every_room_states_its_arrows() -> None:
    rooms = {room for path in PACKAGE.rglob("*.py") if (room := room_of(module_name(path)))}
    assert rooms == {*ARROWS, COMMANDS.name}


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_room_alone_imports(library: str) -> None:
    others = [path for path in SOURCES if room_of(module_name(path)) != LIBRARIES[library]]
    assert offences([path for path in others if path.is_relative_to(PACKAGE)], library) == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {module_name(path): imports(path) & SOURCE_MODULES - {module_name(path)} for path in SOURCES}
    for module, found in graph.items():  # `from package import module` names the package, too; its own file is meant
        graph[module] = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_two_modules_have_one_name() -> None:
    inner = [path for path in SOURCES if path.parent not in (COMMANDS, PIPELINES)]  # these are named after commands
    names = Counter(path.stem for path in inner if path.stem != "__init__")
    assert {name for name, number in names.items() if number > 1} == set()


def test_the_package_knows_no_scripts() -> None:
    paths = [path for path in SOURCES if path.is_relative_to(PACKAGE)]
    assert offences(paths, "pipelines", "analysis", "benchmarks", "tests") == []


def test_benchmarks_measure_the_core() -> None:
    whole = BENCHMARKS / "one_machine.py"  # how the whole program grows, sweeps and MLflow among it
    paths = [path for path in SOURCES if path.is_relative_to(BENCHMARKS) and path != whole]
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
        if "__main__" in path.read_text(encoding="utf-8") and PACKAGE / "orchestration" not in path.parents
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
    allowed = {ANALYSIS: {"pandas"}, BENCHMARKS: {"pandas", "pymatgen", "torch"}}.get(
        next(folder for folder in (ANALYSIS, BENCHMARKS, PIPELINES, PACKAGE) if script.is_relative_to(folder)), set()
    )
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


def test_one_place_asks_the_system_and_the_environment() -> None:
    asking = re.compile(
        r"os\.environ\.get|os\.getenv|\bif .*os\.environ\[|cpu_count|sched_getaffinity|gettempdir|Path\.home|expanduser"
        r"|cache=True"
    )
    found = [
        f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
        for path in SOURCES
        if path != PACKAGE / "environment.py" and not path.is_relative_to(BENCHMARKS)
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asking.search(line)
    ]
    assert found == []


def texts_in(path: Path) -> set[str]:
    """Return the texts of a file that are no docstrings: what a person may come to read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in plain]
    return {node.value for node in constants if isinstance(node.value, str)}


def test_messages_name_pages_as_they_come_along() -> None:
    texts = {text for path in SOURCES if path not in WRITERS for text in texts_in(path)}
    named = {name for text in texts for name in re.findall(r"crystalframer\sfiles\s([\w.]+\.\w+)", text)}
    assert "training.md" in named
    assert named <= {*coming_along()}
    assert [text for text in texts if re.search(r"\bdocs/|(README|CONTRIBUTING)\.md", text)] == []


def test_what_comes_along_names_pages_as_they_are_called_there() -> None:
    files = [path for path in coming_along().values() if path.suffix != ".md"]
    assert [path.name for path in files if "docs/" in path.read_text(encoding="utf-8")] == []


def test_the_texts_link_to_what_exists() -> None:
    for text in [path for path in tracked_files() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#]+)", text.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (text.parent / target).exists(), f"{text.relative_to(ROOT)} links to {target}"


def test_the_map_of_tests_names_those_there_are() -> None:
    folder = Path(__file__).parent
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (folder / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    for file, name in named:
        assert f"def {name}(" in (folder / file).read_text(encoding="utf-8"), f"{file} has no {name}"


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
