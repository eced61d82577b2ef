"""A finished training goes on with more epochs, and is then the training that was asked for them at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer import cli
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.training.checkpoint import Checkpoint, read_checkpoint

SETTINGS: Mapping[str, Any] = {
    "data.train_size": 40,
    "data.val_size": 10,
    "data.test_size": 10,
    "train.batch_size": 8,
    "train.average_epochs": 0,
    "train.keep": "best",
    "train.kernel": "reference",
    "model.num_blocks": 1,
    "model.width": 8,
    "model.num_heads": 2,
    "model.ffn_width": 8,
    "model.num_dist": 8,
    "model.num_angl": 4,
    "model.cutoff": 4.0,
}


def train(out: Path, **settings: Any) -> Path:
    chosen = {**SETTINGS, **{f"train.{key}": value for key, value in settings.items()}}
    words = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    assert cli.main(["train", *words, "--out", str(out)]) == 0
    return out


def lengthen(run: Path, *settings: str) -> int:
    return cli.main(["train", "--lengthen", str(run), *(word for one in settings for word in ("--set", one))])


def state(run: Path) -> Checkpoint:
    return read_checkpoint(RunDirectory(run).checkpoint)


def values(run: Path) -> list[dict[str, float]]:
    """The epochs' metrics, times left out."""
    return [
        {key: value for key, value in record.values.items() if key != "seconds_per_epoch"}
        for record in RunDirectory(run).records()
    ]


def test_a_longer_training_is_bit_by_bit_the_one_asked_for_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole = train(tmp_path / "run", epochs=2), train(tmp_path / "whole", epochs=5)
    before = (run / "checkpoint.pt").read_bytes()
    assert lengthen(run, "train.epochs=5") == 0
    assert "asked for so many epochs at once, bit by bit" in capsys.readouterr().out
    longer = tmp_path / "run-5-epochs"
    assert values(longer) == values(whole)
    one, other = state(longer), state(whole)
    for name, weight in other.model.items():
        assert torch.equal(one.model[name], weight), name
    assert one.best is not None
    assert other.best is not None
    assert one.best["epoch"] == other.best["epoch"]
    results = [RunDirectory(place).result() for place in (longer, whole)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0]["test_mae"] == results[1]["test_mae"]
    assert (run / "checkpoint.pt").read_bytes() == before
    assert lengthen(run, "train.epochs=5") == 0
    assert "nothing left to do after epoch 5" in capsys.readouterr().out


def test_an_average_is_taken_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", epochs=3, average_epochs=2)
    assert state(run).average["count"] == 10
    assert lengthen(run, "train.epochs=6") == 0
    assert "not quite the training" in capsys.readouterr().out
    longer = tmp_path / "run-6-epochs"
    assert state(longer).average["count"] == 10  # of epochs 5 and 6
    assert [epoch["averaged"] for epoch in values(longer)] == [0, 1, 1, 0, 1, 1]
    rates = [epoch["learning_rate"] for epoch in values(longer)]
    assert rates[3] < rates[2] == rates[1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["train.epochs=2"], "is over after 2 epochs with train.epochs=2 and train.patience=0"),
        (["train.epochs=5", "train.learning_rate=1"], "may differ in train.epochs, train.patience"),
        (["train.epoch=5"], "may differ in train.epochs, train.patience"),
        (["train.epochs=many"], "train.epochs"),
    ],
)
def test_what_cannot_be_lengthened_has_one_sentence(
    settings: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "run", epochs=2)
    capsys.readouterr()
    assert lengthen(run, *settings) == 2
    message = capsys.readouterr().err
    assert problem in message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert lengthen(tmp_path / "nowhere", "train.epochs=5") == 2
    assert "holds no finished training" in capsys.readouterr().err
