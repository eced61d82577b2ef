"""Training that starts from a trained model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.prediction.loading import load_predictor
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.inference import evaluate_split
from crystalframer.training.snapshot import write_snapshot
from crystalframer.training.trained_model import load_model, write_model
from crystalframer.training.trainer import Trainer

MakeTrial = Callable[[dict[str, Any]], TrialConfig]


@pytest.fixture(scope="module")
def other_task(data: TaskData) -> TaskData:
    """The same crystals with another target."""
    return replace(data, task="e_hull", targets=data.dataset.tasks["e_hull"].targets, fingerprint="e_hull")


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def test_the_same_target_keeps_all_weights_and_starts_where_the_model_was(
    make_trial: MakeTrial, data: TaskData, trained: Path
) -> None:
    trainer = Trainer(make_trial({"train.start_from": str(trained)}), data)
    trainer.prepare()
    model = load_model(trained).model
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights(trainer).items())
    fresh = Trainer(make_trial({}), data).evaluate("val").mae
    assert trainer.evaluate("val").mae < fresh
    assert next(trainer.fit()).val_mae < fresh


def test_another_target_gets_a_new_head_and_scale(
    make_trial: MakeTrial, data: TaskData, other_task: TaskData, trained: Path
) -> None:
    trainer = Trainer(make_trial({"data.task": "e_hull", "train.start_from": str(trained)}), other_task)
    fresh = weights(Trainer(make_trial({"data.task": "e_hull"}), other_task))
    trainer.prepare()
    old = load_model(trained).model.state_dict()
    for name, value in weights(trainer).items():
        assert torch.equal(value, fresh[name] if name.startswith("head") else old[name]), name
    values = other_task.targets[data.rows["train"]]
    assert trainer.targets[0].mean == pytest.approx(values.mean())
    losses: list[float] = []
    list(trainer.fit(after_step=losses.append))
    assert sum(losses[-4:]) < sum(losses[:4])


def test_frozen_blocks_and_the_embedding_stay_as_they_are(
    make_trial: MakeTrial, other_task: TaskData, trained: Path, tmp_path: Path
) -> None:
    settings = {"data.task": "e_hull", "train.start_from": str(trained), "train.frozen_blocks": 1}
    trainer = Trainer(make_trial(settings), other_task)
    trainer.prepare()
    before = weights(trainer)
    list(trainer.fit())
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(("embedding.", "blocks.0.")) for name in changed)
    assert any(name.startswith("blocks.1.") for name in changed)
    trainer.save(tmp_path / "checkpoint.pt")
    resumed = Trainer(make_trial(settings), other_task)
    resumed.restore(tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in weights(resumed).items())


def test_a_resumed_training_needs_the_file_no_more(
    make_trial: MakeTrial, data: TaskData, trained: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes(trained.read_bytes())
    trial = make_trial({"train.start_from": str(start)})
    first = Trainer(trial, data)
    next(first.fit())
    first.save(tmp_path / "checkpoint.pt")
    start.unlink()
    resumed = Trainer(trial, data)
    resumed.restore(tmp_path / "checkpoint.pt")
    assert len(list(resumed.fit())) == 3


def test_a_model_file_will_do(make_trial: MakeTrial, data: TaskData, trained: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model.pt", load_model(trained))
    trainer = Trainer(make_trial({"train.start_from": str(tmp_path / "model.pt")}), data)
    expected = Trainer(make_trial({"train.start_from": str(trained)}), data).evaluate("test").predictions
    assert trainer.evaluate("test").predictions.tolist() == expected.tolist()


def test_the_content_of_the_file_is_part_of_the_identity_and_its_path_is_not(
    make_trial: MakeTrial, trained: Path, tmp_path: Path
) -> None:
    one, copy, other = (tmp_path / name for name in ("one.pt", "copy.pt", "other.pt"))
    for path in (one, copy):
        path.write_bytes(trained.read_bytes())
    other.write_bytes(trained.read_bytes() + b" ")
    names = [make_trial({"train.start_from": str(path)}).fingerprint() for path in (one, copy, other)]
    assert names[0] == names[1] != names[2]
    assert make_trial({}).fingerprint() not in names


def test_a_file_that_changed_meanwhile_is_refused(
    make_trial: MakeTrial, data: TaskData, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "start.pt"
    path.write_bytes(trained.read_bytes())
    trial = make_trial({"train.start_from": str(path)})
    path.write_bytes(trained.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"start\.pt' has changed since these settings were made"):
        Trainer(trial, data).prepare()


def test_another_architecture_is_refused_with_what_differs(
    make_trial: MakeTrial, data: TaskData, trained: Path
) -> None:
    settings = {"train.start_from": str(trained), "model.frame": "none", "model.cutoff": 3.5}
    with pytest.raises(UserError, match="another architecture") as caught:
        Trainer(make_trial(settings), data).prepare()
    assert "model.frame is 'none' here and 'max' there, model.cutoff is 3.5 here and 4.0 there" in str(caught.value)


@pytest.mark.parametrize(
    ("differences", "problem"),
    [
        ({"train.frozen_blocks": 1}, "'train.frozen_blocks': got 1, expected 0 without train.start_from"),
        ({"train.start_from": "nowhere.pt"}, "'train.start_from': cannot read 'nowhere.pt'"),
    ],
)
def test_settings_that_make_no_sense(make_trial: MakeTrial, differences: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make_trial(differences)


def test_no_more_blocks_are_frozen_than_there_are(make_trial: MakeTrial, trained: Path) -> None:
    with pytest.raises(UserError, match=r"'train.frozen_blocks': got 3, expected at most model.num_blocks \(2\)"):
        make_trial({"train.start_from": str(trained), "train.frozen_blocks": 3})


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize(("average_epochs", "epochs"), [(0, 4), (2, 1), (2, 3), (4, 4)])
def test_every_way_a_model_is_saved_is_loaded(
    make_trial: MakeTrial, data: TaskData, trained: Path, tmp_path: Path, frozen: int, average_epochs: int, epochs: int
) -> None:
    settings = {"train.start_from": str(trained), "train.frozen_blocks": frozen, "train.average_epochs": average_epochs}
    trainer = Trainer(make_trial(settings), data)
    for result in trainer.fit():
        if result.epoch == epochs:
            break
    expected = trainer.evaluate("test").predictions
    checkpoint, snapshot, model = (tmp_path / name for name in ("checkpoint.pt", "snapshot.pt", "model.pt"))
    trainer.save(checkpoint)
    write_snapshot(checkpoint, snapshot)
    write_model(model, load_model(checkpoint))
    for path in (checkpoint, snapshot, model):
        loaded = load_model(path)
        assert loaded.averaged == (average_epochs > 0 and epochs > 4 - average_epochs), path.name
        loader = BatchLoader(data, cutoff=loaded.trial.model.cutoff)
        found = evaluate_split(loaded.model, loader, data, "test", loaded.targets)
        assert found.predictions.tolist() == expected.tolist(), path.name
        assert len(load_predictor(path).predict([data.dataset[0]]).values) == 1
    resumed = Trainer(trainer.trial, data)
    resumed.restore(checkpoint)
    assert resumed.evaluate("test").predictions.tolist() == expected.tolist()


def test_a_trial_records_what_its_model_learned_before_and_resumes_without_that_model(
    make_trial: MakeTrial, other_task: TaskData, trained: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes(trained.read_bytes())
    config = make_trial({"data.task": "e_hull", "train.start_from": str(start)})
    directory = RunDirectory(tmp_path / "run")

    def progress(stop_requested: bool) -> None:
        trial, stop = Trial("run", config), lambda: stop_requested
        list(run_trial(TrialJob(trial, directory), other_task, Tracker(), Trainer, stop_requested=stop))

    progress(stop_requested=True)
    assert directory.result() is None
    start.unlink()
    progress(stop_requested=False)
    result = directory.result()
    assert result is not None
    assert result["tags"]["start_data"] == f"{load_model(trained).trial.data.dataset}:formation_energy"
