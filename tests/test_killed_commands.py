"""Commands killed at random moments: what they leave is old or new, each part whole, and the same command completes it.

`KILLS=40 pytest tests/test_killed_commands.py` kills each command so often instead of twice.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from analysis import exported
from analysis.make_all import PAGE
from crystalframer.data.registry import load_dataset, load_task
from crystalframer.data.store import VERIFIED, is_store, read_store
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.models import fetch_models
from crystalframer.orchestration.tracking.server import damage
from crystalframer.prediction.loading import read_model
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.trained_model import write_model
from crystalframer.training.trainer import Trainer
from tests.analysis.conftest import TINY
from tests.fixtures.published import jarvis_records
from tests.prediction.conftest import TARGETS, MakeModel, cif_folder, crystals, make_model
from tests.runs.memory_tracker import MemoryTracker

__all__ = ["cif_folder", "crystals", "make_model"]
pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "2"))
"""How often each command is killed: before a change of a file and at a moment of its time, in turns."""
SWEEP = "toy"
OLD = b"old"
Contents = dict[str, bytes]


@dataclass
class Nursery:
    """Runs commands in processes that it forks."""

    process: subprocess.Popen[str]
    data: Path
    """The folder of prepared stores."""

    def run(self, command: list[str], **moment: float) -> dict[str, float]:
        """Run a command, and kill it at a moment."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"arguments": command, **moment}), file=self.process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def complete(self, command: list[str]) -> dict[str, float]:
        """Run a command to its end."""
        took = self.run(command)
        assert took["status"] == 0
        return took

    def killed(self, command: list[str], took: dict[str, float]) -> Iterator[None]:
        """Kill a command that takes so long and changes so many files; yield after each kill."""
        choice, statuses = random.Random(len(command)), []
        for number in range(KILLS):
            if number % 2:
                moment: dict[str, float] = {"seconds": choice.uniform(0.05, 1.0) * took["seconds"]}
            else:
                moment = {"change": choice.randint(1, int(took["changes"]))}
            statuses.append(self.run(command, **moment)["status"])
            yield
        assert -9 in statuses, "every one was over before"
        assert set(statuses) <= {-9, 0}, "what a kill left is in the way of the next"


@pytest.fixture(scope="module")
def nursery(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A nursery with a folder of its own to work in."""
    here = tmp_path_factory.mktemp("nursery")
    environment = {
        **os.environ, "PYTHONPATH": str(root), "CRYSTALFRAMER_DATA": str(here / "data"), "SOURCE_DATE_EPOCH": "0"
    }  # fmt: skip
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "tests.nursery"]
    with subprocess.Popen(
        command, cwd=here, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process, here / "data")
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def model(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the small model, for crystals of the sample; its kernel need not be compiled."""
    trained = make_model(targets=TARGETS[:1])
    few, plain = replace(trained.trial.data, test_size=20), replace(trained.trial.train, kernel="reference")
    trial = replace(trained.trial, data=few, train=plain)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    write_model(path, replace(trained, trial=trial))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a sweep of one trial, trained and done."""
    runs = tmp_path_factory.mktemp("runs")
    config = build_trial({**TINY, "model.frame": "max"})
    trial = Trial(f"{config.data.task}-max-seed0-{config.fingerprint()}", config)
    directory = RunDirectory(runs / SWEEP / trial.name)
    for _ in run_trial(TrialJob(trial, directory), load_task(config.data), MemoryTracker({}), Trainer):
        pass
    return runs


@pytest.fixture(scope="module")
def results(nursery: Nursery, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that sweep, exported."""
    folder = tmp_path_factory.mktemp("results") / SWEEP
    nursery.complete(["export", SWEEP, "--runs", str(runs), "--output", str(folder)])
    return folder


def contents(folder: Path) -> Contents:
    """Return the content of each file that has its final name."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".tmp") and ".tmp/" not in name}


def require_old_or_new(nursery: Nursery, command: list[str], folder: Path, *, grows: str = "") -> None:
    """Kill a command that writes files into a folder where every other one is there already, an old one.

    A page that grows while it is made may be whole in between, and says that it is not finished.
    """
    took = nursery.complete(command)
    new = contents(folder)
    before = dict.fromkeys(list(new)[::2], OLD)
    assert before
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in before.items():
        (folder / name).write_bytes(content)
    for _ in nursery.killed(command, took):
        found = contents(folder)
        if grows in found and b"Sections not made yet" in found[grows]:
            assert found.pop(grows).endswith(b"</html>\n")
        assert all(content in (before.get(name), new[name]) for name, content in found.items())
    nursery.complete(command)
    assert contents(folder) == new


def test_predict(nursery: Nursery, model: Path, cif_folder: Path, tmp_path: Path) -> None:
    command = ["predict", str(model), str(cif_folder), "--output", str(tmp_path / "out" / "table.csv")]
    (tmp_path / "out").mkdir()
    require_old_or_new(nursery, command, tmp_path / "out")


def test_evaluate(nursery: Nursery, model: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(model), "--allow-other-data", "--output", str(tmp_path / "out")]
    require_old_or_new(nursery, command, tmp_path / "out")


def test_figures(nursery: Nursery, results: Path, tmp_path: Path) -> None:
    command = ["figures", "--results", str(results), "--output", str(tmp_path)]
    require_old_or_new(nursery, command, tmp_path / SWEEP, grows=PAGE)


def test_convert(nursery: Nursery, shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted.pt"
    command = ["convert", str(shared / "golden" / "official_style_none.ckpt"), "--output", str(output)]
    took = nursery.complete(command)
    output.unlink()
    for _ in nursery.killed(command, took):
        if output.exists():
            read_model(output)
            output.unlink()
    nursery.complete(command)
    read_model(output)


def test_register_in_a_folder(nursery: Nursery, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "served"
    command = ["register", str(model), "--folder", str(folder)]
    took = nursery.complete(command)
    new = contents(folder).keys()
    shutil.rmtree(folder)
    for _ in nursery.killed(command, took):
        assert not folder.exists() or contents(folder).keys() == new
        shutil.rmtree(folder, ignore_errors=True)
    nursery.complete(command)
    assert contents(folder).keys() == new


def test_register(nursery: Nursery, model: Path, tmp_path: Path) -> None:
    """In MLflow: each version that is there can be fetched."""
    database = tmp_path / "mlflow.db"
    command = ["register", str(model), "--name", "energies", "--tracking-uri", f"sqlite:///{database}"]
    took = nursery.complete(command)
    for _ in nursery.killed(command, took):
        assert not damage(database)
    nursery.complete(command)
    found = MlflowClient(f"sqlite:///{database}").search_model_versions("name='energies'")
    versions = sorted(int(version.version) for version in found)
    assert versions[:2] == [1, 2]
    assert len(versions) <= 2 + KILLS
    for version in versions:
        (file,) = fetch_models(f"models:/energies/{version}", f"sqlite:///{database}", tmp_path / str(version))
        read_model(file)


def test_export(nursery: Nursery, runs: Path, results: Path, tmp_path: Path) -> None:
    folder = tmp_path / SWEEP
    new = exported.read(results)
    command = ["export", SWEEP, "--runs", str(runs), "--output", str(folder)]
    took = nursery.complete(command)
    exported.write(folder, replace(new, record=replace(new.record, description="old")))
    for _ in nursery.killed(command, took):
        exported.read.cache_clear()
        try:
            assert exported.read(folder).record.description in ("old", new.record.description)
        except UserError as error:
            assert "export the results again" in str(error)  # noqa: PT017 (it need not be raised)
    nursery.complete(command)
    assert contents(folder) == contents(results)


def test_import(nursery: Nursery, results: Path, tmp_path: Path) -> None:
    """In the end the trial is there once, and nothing in it twice."""
    through = recorded(nursery, results, tmp_path / "through.db", kill=False)
    assert recorded(nursery, results, tmp_path / "killed.db", kill=True) == through
    (run,) = through
    assert run["status"] == "FINISHED"


def recorded(nursery: Nursery, results: Path, database: Path, *, kill: bool) -> list[dict[str, Any]]:
    """Import results into a database, and return what is found of each MLflow run."""
    command = ["import", str(results), "--tracking-uri", f"sqlite:///{database}"]
    took = nursery.complete(command)
    if kill:
        database.unlink()
        for _ in nursery.killed(command, took):
            assert not database.exists() or not damage(database)
        nursery.complete(command)
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name(SWEEP)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return [
        {
            "status": run.info.status,
            "params": run.data.params,
            "files": sorted(entry.path for entry in client.list_artifacts(run.info.run_id, "predictions")),
            "metrics": {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        }
        for run in found
    ]


def test_prepare(nursery: Nursery, cif_folder: Path, tmp_path: Path) -> None:
    """Their own crystals: the store is the old one, without the last of them, or the new one."""
    folder = Path(shutil.copytree(cif_folder, tmp_path / "mine"))
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"{name},{number}" for number, name in enumerate(names)]
    table = tmp_path / "targets.csv"
    command = ["prepare", str(folder), "--targets", str(table)]
    table.write_text("\n".join(["file,gap", *rows[:-1]]) + "\n")
    nursery.complete(command)
    before = (nursery.data / "mine" / "manifest.json").read_text()
    table.write_text("\n".join(["file,gap", *rows]) + "\n")
    require_store(nursery, command, "mine", before)


def test_prepare_published(nursery: Nursery, tmp_path: Path) -> None:
    """A published set: a store made again with the same source is left as it is, so that it must be whole."""
    records = jarvis_records(load_dataset("sample"), 60)
    source = tmp_path / "jarvis.json"
    command = ["prepare", "jarvis", "--partial", "--source", str(source), "--processes", "1"]
    source.write_text(json.dumps(records[:50]))
    nursery.complete(command)
    before = (nursery.data / "jarvis" / "manifest.json").read_text()
    source.write_text(json.dumps(records))
    require_store(nursery, command, "jarvis", before)


def require_store(nursery: Nursery, command: list[str], name: str, before: str) -> None:
    """Kill a preparation over a store with this manifest, and over none."""
    store = nursery.data / name
    old = Path(shutil.copytree(store, store.with_name(f"old-{name}")))
    took = nursery.complete(command)
    new = store_of(store)
    fingerprints = {json.loads(text)["fingerprint"] for text in (before, new["manifest.json"])}
    assert len(fingerprints) == 2
    for first in (True, False):
        shutil.rmtree(store)
        if not first:
            shutil.copytree(old, store)
        for _ in nursery.killed(command, took):
            assert is_store(store) or first
            assert not is_store(store) or read_store(store).fingerprint in fingerprints
        nursery.complete(command)
        assert store_of(store) == new
        assert not list(nursery.data.glob(f".{name}.tmp-*"))


def store_of(folder: Path) -> Contents:
    """Return a store's files but the note on which file was verified."""
    return {name: content for name, content in contents(folder).items() if name != VERIFIED}
