"""The power is cut before and after every call that a write is made of: what is found is the old or the new, whole."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import exported
from analysis.documents import Document, Table, write
from crystalframer.atomic_files import new_folder, replace_text
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import CrystalDataset, Task, TaskData
from crystalframer.data.store import is_store, read_store, write_store
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction.predictions import Predictions
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import TrialStatus, append_plan, read_plan, write_plan
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.safe_files import write_archive
from crystalframer.training.trainer import Trainer
from tests.power_cut import KINDS, lay_out, recording
from tests.runs.conftest import one_thread, tiny_config, tiny_data
from tests.runs.memory_tracker import MemoryTracker

__all__ = ["one_thread", "tiny_config", "tiny_data"]
RESULTS = Path(__file__).parents[1] / "results"
Write = Callable[[Path, float], None]


def predictions(path: Path, value: float) -> None:
    nothing = ("",) * 20
    Predictions(
        tuple(map(str, range(20))), nothing, ("e",), ("eV",), np.full((20, 1), value), None, nothing, nothing
    ).write(path)


def table(path: Path, value: float) -> None:
    write(Document("title", [Table("table", ["a"], [[f"{value}"]] * 5)]), path.parent, path.stem)


def archive(path: Path, value: float) -> None:
    write_archive(path, {"weight": torch.full((50,), value)})


WRITERS: dict[str, Write] = {
    "report.json": lambda path, value: replace_text(path, json.dumps([value] * 100)),
    "predictions.csv": predictions,
    "predictions.parquet": predictions,
    "predictions.json": predictions,
    "table.md": table,
    "checkpoint.pt": archive,
}


def in_place(path: Path, value: float) -> None:
    path.write_text(f"{value}" * 100)


def without_flush(path: Path, value: float) -> None:
    path.with_suffix(".new").write_text(f"{value}" * 100)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_old_or_new(name: str, first: bool, tmp_path: Path) -> None:
    allowed, wrong, at_the_end = _cuts(WRITERS[name], name, first, tmp_path)
    assert not wrong
    assert at_the_end == {allowed[-1]}


@pytest.mark.parametrize("careless", [in_place, without_flush])
def test_careless_writing_is_found(careless: Write, tmp_path: Path) -> None:
    assert _cuts(careless, "file", False, tmp_path)[1]


def _cuts(
    write: Write, name: str, first: bool, folder: Path
) -> tuple[list[bytes | None], set[bytes | None], set[bytes | None]]:
    """Return what may be found under a name, what is found after some cut but must not, and what is in the end."""
    path = folder / name
    if not first:
        write(path, 1.0)
    old = None if first else path.read_bytes()
    with recording(folder) as recorder:
        write(path, 2.0)
    allowed = [old, path.read_bytes()]
    found = {state.get(name) for state in recorder.every_state}
    return allowed, found - set(allowed), {recorder.states[kind][-1].get(name) for kind in KINDS}


@pytest.mark.parametrize("first", [True, False])
def test_a_store_is_old_or_new(first: bool, tmp_path: Path) -> None:
    old, new = _dataset(1.0), _dataset(2.0)
    root = tmp_path / "disk"
    root.mkdir()
    if not first:
        write_store(root / "toy", old, {})
    with recording(root) as recorder:
        write_store(root / "toy", new, {})
    allowed = {"nothing" if first else old.fingerprint, new.fingerprint}
    for number, state in enumerate(recorder.every_state):
        found = lay_out(state, tmp_path / str(number)) / "toy"
        fingerprint = read_store(found).fingerprint if is_store(found) else "nothing"
        assert fingerprint in allowed
        if fingerprint == new.fingerprint:  # or the next preparation would find nothing to do
            assert json.loads((found / "manifest.json").read_text())["fingerprint"] == fingerprint
    for kind in KINDS:
        found = lay_out(recorder.states[kind][-1], tmp_path / f"last {kind}") / "toy"
        assert read_store(found).fingerprint == new.fingerprint


def _dataset(target: float) -> CrystalDataset:
    crystals = [Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([11]), f"Na {number}") for number in range(3)]
    task = Task("energy", "eV", np.full(3, target), np.array([0, 1, 2], dtype=np.int8))
    return CrystalDataset.from_crystals("toy", crystals, [task])


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, new_folder(tmp_path / "model") as folder:
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "weights").write_text("w" * 100)
        (folder / "MLmodel").write_text("m" * 100)
    whole = {"model/MLmodel": b"m" * 100, "model/data/weights": b"w" * 100}
    for state in recorder.every_state:
        assert {name: content for name, content in state.items() if name.startswith("model")} in ({}, whole)
    assert all(recorder.states[kind][-1] == whole for kind in KINDS)


def test_recorded_results_are_old_or_new_or_refused(tmp_path: Path) -> None:
    source = next(path.parent for path in sorted(RESULTS.glob("*/sweep.json")))
    new = exported.read(source)
    old = dataclasses.replace(new, record=dataclasses.replace(new.record, description="old"))
    root = tmp_path / "disk"
    exported.write(root, old)
    with recording(root) as recorder:
        exported.write(root, new)
    outcomes = []
    for number, state in enumerate(recorder.every_state):
        try:
            outcomes.append(exported.read(lay_out(state, tmp_path / str(number))).record.description)
        except UserError as error:
            outcomes.append(str(error).rpartition(", or ")[2])
    assert set(outcomes) == {"old", new.record.description, "export the results again"}
    assert exported.read(lay_out(recorder.states["nothing"][-1], tmp_path / "last")).record == new.record


def test_a_run_directory_resumes_from_every_cut(tiny_config: TrialConfig, tiny_data: TaskData, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    trial = Trial("a-trial", dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, epochs=2)))
    with recording(root) as recorder:
        done = _result(trial, tiny_data, root)
    checked: set[bytes] = set()
    for number, state in enumerate(recorder.every_state):
        directory = RunDirectory(lay_out(state, tmp_path / str(number)) / trial.name)
        epochs = [record.step for record in directory.records()]
        assert epochs == list(range(1, len(epochs) + 1))
        content = state.get(f"{trial.name}/checkpoint.pt", b"")
        if directory.checkpoint.exists() and content not in checked:
            checked.add(content)
            assert len(read_checkpoint(directory.checkpoint).history) <= len(epochs)
        directory.state()
        directory.identity()
        if (result := directory.result()) is not None:
            assert result == done
            assert directory.predictions.read_bytes() == (root / trial.name / "predictions/test.csv").read_bytes()
    for kind in KINDS:
        half_way = lay_out(recorder.states[kind][len(recorder.states[kind]) // 2], tmp_path / kind)
        assert _result(trial, tiny_data, half_way)["test_mae"] == done["test_mae"]


def _result(trial: Trial, data: TaskData, folder: Path) -> dict[str, object]:
    directory = RunDirectory(folder / trial.name)
    for _ in run_trial(TrialJob(trial, directory, checkpoint_seconds=0.0), data, MemoryTracker({}), Trainer):
        pass
    result = directory.result()
    assert result is not None
    return dict(result)


def test_a_plan_holds_what_was_added_and_takes_more_after_any_cut(tmp_path: Path) -> None:
    one, two, three = (TrialStatus(f"trial-{number}", "sample energy", "max", "eV", 10) for number in range(3))
    live = tmp_path / "live"
    live.mkdir()
    with recording(live) as recorder:
        write_plan(live, [one])
        append_plan(live, two)
    found = set()
    for number, state in enumerate(recorder.every_state):
        folder = tmp_path / str(number)
        folder.mkdir()
        lay_out(state, folder)
        append_plan(folder, three)
        planned, remarks = read_plan(folder)
        assert not remarks
        found.add(tuple(trial.name for trial in planned))
    assert found == {("trial-2",), ("trial-0", "trial-2"), ("trial-0", "trial-1", "trial-2")}
    assert recorder.states["nothing"][-1]["plan.jsonl"] == (live / "plan.jsonl").read_bytes(), "safe, once it is added"
