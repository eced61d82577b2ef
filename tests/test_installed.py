"""What is published, built and installed where there is no checkout, is the whole program, from an empty folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
from pathlib import Path

import pytest
import yaml

from crystalframer.cli import COMMANDS
from tests.fixtures.own_data import cif, small_crystals
from tests.orchestration.conftest import PROSE, TINY

ROOT = Path(__file__).parents[1]
SETTINGS = [f"--set={room}.{key}={value}" for room, part in TINY.items() for key, value in part.items()]


class Installed:
    """An environment that holds the wheel, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        """Build sdist and wheel, and install that into a new environment that sees the libraries of the running one."""
        sdist = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
        subprocess.run(sdist, cwd=ROOT, check=True, capture_output=True)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as content:
            content.extraction_filter = getattr(tarfile, "data_filter", None)  # not before 3.11.4
            content.extractall(folder / "source")
        (self.source,) = (folder / "source").iterdir()
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(self.source))
        (self.wheel,) = folder.glob("*.whl")
        self.folder, environment = folder / "work", folder / "environment"
        self.folder.mkdir()
        venv.create(environment)
        self.bin = environment / "bin"
        pip("--python", str(self.bin / "python"), "install", "--no-deps", "--no-index", str(self.wheel))
        packages = next(environment.glob("lib/python*/site-packages"))
        (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of a user who has nothing but the installed program."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CRYSTALFRAMER", "MLFLOW"))
        }
        return {**kept, "CRYSTALFRAMER_DATA": str(self.folder / "data"), "COLUMNS": "80"}

    def run(self, *words: str, code: int = 0, program: str = "crystalframer") -> str:
        """Run a command in the folder, and return what it printed."""
        command = [str(self.bin / program), *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


def pip(*words: str) -> None:
    """Run pip, which shall need no network."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *quiet, *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Return the installed program."""
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
def test_it_is_the_installed_one_and_complete(installed: Installed) -> None:
    where = "import crystalframer, crystalframer.beside as b; print(crystalframer.__file__, b.HOME)"
    for path in installed.run("-c", where, program="python").split():
        assert Path(path).is_relative_to(installed.bin.parent)
    assert installed.run("-m", "crystalframer", "--version", program="python") == installed.run("--version")
    for command in COMMANDS:
        assert installed.run(command, "--help").startswith(f"usage: crystalframer {command}")
    listed = installed.run("files")
    kinds = ("sweeps/*.yaml", "clusters/*", "cluster.yaml", "docs/*.md")
    shipped = [path for pattern in kinds for path in ROOT.glob(pattern)]
    for file in shipped:
        assert re.search(rf"^{re.escape(file.name)} ", listed, re.MULTILINE)
    assert not list(installed.folder.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a checkout and git")
def test_the_sdist_holds_what_the_checkout_holds(installed: Installed) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    missing = [path for path in listed if path and not (installed.source / path).is_file() and (ROOT / path).is_file()]
    assert missing == [".ci/run"]


@pytest.mark.slow
def test_a_sweep_of_ones_own_from_a_file_that_comes_along(installed: Installed) -> None:
    installed.run("files", "ablation_sample.yaml")
    assert "is there already" in installed.run("files", "ablation_sample.yaml", code=2)
    assert "did you mean 'ablation_sample.yaml'" in installed.run("files", "ablation_sampel.yaml", code=2)
    content = yaml.safe_load((installed.folder / "ablation_sample.yaml").read_text())
    grid = {**content["grid"], "model.frame": ["max"], "train.seed": [0, 1]}  # one attention to compile
    base = {**content["base"], **TINY, "train": {**TINY["train"], "epochs": 6}}
    (installed.folder / "mine.yaml").write_text(yaml.safe_dump({**content, **PROSE, "base": base, "grid": grid}))
    assert installed.run("sweep", "mine", "--dry-run").count("-seed") == 2
    assert "| max" in installed.run("sweep", "mine")
    assert "mine: 2 trials: 2 done" in installed.run("status", "mine")
    made = installed.run("figures", "--sweep", "mine")
    assert "failed" not in made
    page = (installed.folder / "analysis" / "output" / "mine" / "index.html").read_text()
    for command in set(re.findall(r"<code>([^<]*(?:python|crystalframer)[^<]*)</code>", page)):
        assert command.startswith("crystalframer "), command
    assert_shown_in_mlflow(installed, "mine")


def assert_shown_in_mlflow(installed: Installed, sweep: str) -> None:
    command = [str(installed.bin / "crystalframer"), "ui"]
    with subprocess.Popen(
        command, cwd=installed.folder, env=installed.environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        printed = ""
        for line in running.stdout:
            printed += line
            if line.startswith("open "):
                break
        (link,) = re.findall(rf"^{sweep}: (\S+)", printed, re.MULTILINE)
        with urllib.request.urlopen(link) as answer:
            assert answer.status == 200
        running.send_signal(signal.SIGINT)
    assert running.returncode == 0


@pytest.mark.slow
def test_crystals_of_ones_own_are_prepared_trained_on_and_predicted(installed: Installed) -> None:
    folder = installed.folder / "my_crystals"
    folder.mkdir()
    crystals = small_crystals(30)
    for crystal in crystals:
        (folder / f"{crystal.id}.cif").write_text(cif(crystal))
    rows = [f"{crystal.id},{crystal.num_atoms}" for crystal in crystals]
    (folder / "id_prop.csv").write_text("\n".join(rows) + "\n")
    printed = installed.run("prepare", "my_crystals", "--unit", "target=1")
    (command,) = re.findall("^train with: crystalframer (.*)", printed, re.MULTILINE)
    small = [word for word in SETTINGS if "=data." not in word and "epochs" not in word and "batch" not in word]
    installed.run(*command.split(), *small, "--out", "trained")
    table = installed.run("predict", "trained", "my_crystals")
    assert len(table.splitlines()) > 30
    assert "bulk_modulus" in installed.run("predict", "mp-bulk-modulus", "my_crystals").partition("\n")[0]
    assert installed.run("evaluate", "trained").startswith("target, 3 crystals of the test split: MAE ")


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        answer = tmp_path / "answer"
        variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
        variables["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
        command = [sys.executable, "-m", "crystalframer"]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, check=True)
        return sorted(word.strip() for word in answer.read_text().split("\n"))

    assert completed("crystalframer sw") == ["sweep"]
    assert completed("crystalframer train --fr") == ["--frame"]
    assert completed("crystalframer evaluate x --split t") == ["test", "train"]
