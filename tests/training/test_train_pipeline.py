"""The command line that trains one model."""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crystalframer.cli import parser
from crystalframer.commands.train import overrides
from crystalframer.data.registry import load_task
from crystalframer.resolving import build_trial
from crystalframer.runs.console import Position, on_console
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.training.trained_model import load_model
from crystalframer.training.trainer import Trainer
from pipelines.status import main as status
from pipelines.train import main

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("--frame", "none"),
    *("--set", "data.train_size=40", "--set", "data.val_size=10", "--set", "data.test_size=10"),
    *("--set", "train.epochs=3", "--set", "train.batch_size=8", "--set", "train.average_epochs=1"),
    *("--set", "model.num_blocks=1", "--set", "model.width=8", "--set", "model.num_heads=2"),
    *("--set", "model.ffn_width=8", "--set", "model.num_dist=8", "--set", "model.cutoff=4"),
    *("--set", "train.kernel=reference"),
]


def options(*words: str) -> argparse.Namespace:
    """Return a command line of `train`, read."""
    return parser(["train"]).parse_args(["train", *words])


def errors_of(out: Path) -> list[dict[str, float]]:
    """Return what was recorded of each epoch, without the seconds."""
    return [
        {name: value for name, value in record.values.items() if name != "seconds_per_epoch"}
        for record in RunDirectory(out).records()
    ]


def test_training_ends_with_the_test_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETTINGS, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out.splitlines()
    last = output[-1]
    assert last.startswith("test MAE ")
    assert "eV/atom" in last
    assert last.endswith(f"checkpoint: {tmp_path / 'checkpoint.pt'}")
    epochs = [line for line in output if line.startswith("epoch")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert ["averaged" in line for line in epochs] == [False, False, True]
    recorded = errors_of(tmp_path)
    assert [epoch["averaged"] for epoch in recorded] == [0.0, 0.0, 1.0]
    trained = load_model(tmp_path / "checkpoint.pt")
    assert trained.epoch == 3
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == trained.trial.to_dict()

    assert main([*SETTINGS, "--out", str(tmp_path)]) == 0
    repeated = capsys.readouterr().out.splitlines()
    assert repeated[0].startswith("nothing left to do after epoch 3")
    assert repeated[-1] == last
    assert errors_of(tmp_path) == recorded


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SETTINGS, "--set", "train.epochs=80", "--threads", "1"]
    command = [sys.executable, "pipelines/train.py", *settings, "--out", str(tmp_path / "stopped")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        last = process.stdout.read().splitlines()[-1]
        problems = process.stderr.read()
    assert process.returncode == 130, problems
    assert last.startswith("stopped and saved in ")
    assert last.endswith("to resume, run the same command again")
    assert load_model(tmp_path / "stopped" / "checkpoint.pt").epoch < 80

    assert main([*settings, "--out", str(tmp_path / "stopped")]) == 0
    resumed = capsys.readouterr().out.splitlines()
    assert resumed[0].startswith("resuming after epoch")
    assert main([*settings, "--out", str(tmp_path / "through")]) == 0
    through = capsys.readouterr().out.splitlines()
    assert resumed[-1].partition("; checkpoint")[0] == through[-1].partition("; checkpoint")[0]
    assert errors_of(tmp_path / "stopped") == errors_of(tmp_path / "through")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--frame", "maxx"], "unknown model.frame 'maxx' (did you mean 'max'?)"),
        (["--set", "train.epoch=3"], "unknown setting 'train.epoch' (did you mean 'train.epochs'"),
        (["--set", "train.epochs"], "--set: got 'train.epochs', expected KEY=VALUE"),
        (["--set", "train.epochs=many"], "setting 'train.epochs': got 'many'"),
        (["--set", "data.dataset=2024"], "unknown data set '2024' (known: "),
        (["--set", "model.width=200000"], "setting 'model.width': got 200000, expected a whole number, at most 4,096"),
        (["--minutes", "soon"], "setting 'train.minutes': got 'soon', expected"),
        (["--minutes", "0"], "setting 'train.minutes': got 0"),
        (["--preset", "jarvi"], "unknown train.preset 'jarvi' (did you mean 'jarvis'?)"),
        (["--task", "band_gap"], "data set 'sample' has no task 'band_gap'"),
        (["--set", "data.train_size=100", "--set", "train.batch_size=128"], "'train.batch_size': got 128"),
    ],
)
def test_bad_settings_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert problem in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_training_in_the_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETTINGS, "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*SETTINGS, "--set", "train.seed=5", "--out", str(tmp_path)]) == 2
    assert "train.seed is 5 here and 123 there" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_divergence_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETTINGS, "--set", "train.learning_rate=1e30", "--out", str(tmp_path)]) == 1
    problem = capsys.readouterr().err
    assert problem.startswith("error: training diverged in epoch 1, step 2")
    assert problem.count("\n") == 1


def test_help_is_quick_and_teaches() -> None:
    code = "import sys; from pipelines.train import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    check = "print([name for name in ('torch', 'numpy', 'pandas', 'pymatgen') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_minutes_are_a_setting() -> None:
    assert build_trial(overrides(options("--minutes", "0.5"))).train.minutes == 0.5
    assert build_trial(overrides(options())).train.minutes is None


@pytest.mark.parametrize(
    ("preset", "epochs", "batch_size", "average_epochs"),
    [("jarvis", 2000, 256, 50), ("mp", 800, 128, 50), ("oqmd", 200, 1024, 20)],
)
def test_a_preset_is_the_published_training_on_its_data_set(
    preset: str, epochs: int, batch_size: int, average_epochs: int
) -> None:
    trial = build_trial(overrides(options("--preset", preset, "--set", "model.num_blocks=8")))
    assert trial.data.dataset == preset
    assert (trial.data.task, trial.model.frame, trial.model.num_blocks) == ("formation_energy", "max", 8)
    train = trial.train
    assert (train.epochs, train.batch_size, train.average_epochs) == (epochs, batch_size, average_epochs)
    other = build_trial(overrides(options("--preset", preset, "--dataset", "sample")))
    assert other.data.dataset == "sample"


def test_a_place_where_nothing_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETTINGS, "--out", "/proc/x"]) == 2
    said = "error: cannot write to /proc/x (No such file or directory): choose another --out\n"
    assert capsys.readouterr().err == said


def test_several_targets_end_with_the_error_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETTINGS, "--task", "formation_energy,e_hull", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" test MAE")[0] for line in lines[-2:]] == ["formation_energy:", "e_hull:"]
    assert all("eV/atom" in line for line in lines[-2:])
    epoch = [line for line in lines if line.startswith("epoch ")][-1]
    assert [part.split()[0] for part in epoch.split("  ") if part.startswith(("formation", "e_hull"))] == [
        "formation_energy",
        "e_hull",
    ]


def test_mistakes_of_several_processes_are_one_sentence_too(tmp_path: Path) -> None:
    bad = ["--set", "data.train_size=100", "--set", "train.batch_size=128", "--out", str(tmp_path / "out")]
    command = [sys.executable, "pipelines/train.py", *SETTINGS, *bad, "--processes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: setting 'train.batch_size': got 128")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_single_run_is_a_run_directory_like_those_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYSTALFRAMER_RUNS", raising=False)
    assert main(SETTINGS) == 0
    (out,) = (path for path in (tmp_path / "runs" / "single").iterdir() if path.is_dir())
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        *("attempt", "checkpoint.pt", "config.json", "config.yaml", "done.json", "lock", "metrics.jsonl"),
        *("model_card.md", "predictions/test.csv", "state.json"),
    }
    state = RunDirectory(out).state()
    assert state is not None
    assert (state.state, state.epoch) == ("done", 3)
    assert RunDirectory(out).result() is not None
    capsys.readouterr()
    assert status(["single", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "single: 1 trials: 1 done"
    assert lines[-1].startswith(f"  {out.name}: done, test MAE ")


def test_a_single_run_under_way_is_said_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYSTALFRAMER_RUNS", raising=False)
    assert main([*SETTINGS, "--out", "runs/single/mine"]) == 0
    (tmp_path / "runs" / "single" / "mine" / "done.json").unlink()
    directory = RunDirectory(tmp_path / "runs" / "single" / "mine")
    trial = build_trial(overrides(options(*SETTINGS)))
    with directory.attempt(trial, load_task(trial.data).fingerprint) as attempt:
        attempt.write_state("running", 3)
        capsys.readouterr()
        assert status(["single"]) == 0
        assert "mine: running, epoch 3 of 3 done" in capsys.readouterr().out
    assert status(["single"]) == 0
    assert "mine: interrupted after epoch 3 of 3" in capsys.readouterr().out


def test_what_version_0_1_left_of_a_single_training_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    through, old = tmp_path / "through", tmp_path / "old"
    assert main([*SETTINGS, "--out", str(through)]) == 0
    trial = build_trial(overrides(options(*SETTINGS)))
    trainer = Trainer(trial, load_task(trial.data))
    next(trainer.fit())
    trainer.save(old / "checkpoint.pt")  # beside it, that version wrote config.yaml and train.log, which nobody reads
    (old / "train.log").write_text("epoch    1/3 ...")
    capsys.readouterr()
    assert main([*SETTINGS, "--set", "train.seed=5", "--out", str(old)]) == 2
    assert "train.seed is 5 here and 123 there" in capsys.readouterr().err
    assert not (old / "config.json").exists()
    assert main([*SETTINGS, "--out", str(old)]) == 0
    assert capsys.readouterr().out.startswith("resuming after epoch 1: ")
    assert errors_of(old) == errors_of(through)


def test_a_training_under_way_is_not_started_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = build_trial(overrides(options(*SETTINGS)))
    with RunDirectory(tmp_path / "out").attempt(trial, load_task(trial.data).fingerprint):
        assert main([*SETTINGS, "--out", str(tmp_path / "out")]) == 2
    assert "out is in use by another training; stop it first" in capsys.readouterr().err


def test_a_pipe_that_closes_ends_no_training(tmp_path: Path) -> None:
    command = [sys.executable, "pipelines/train.py", *SETTINGS, "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert RunDirectory(tmp_path).result() is not None


def test_between_epochs_the_console_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crystalframer.runs.console.EVERY_SECONDS", 0.0)
    with on_console() as show:
        show(Position(epoch=2, epochs=800, batch=30, batches=400, seconds_left=4000.0))
        show("epoch    3/800")
    assert capsys.readouterr().out == "epoch 3/800, batch 30/400, about 67 min left\nepoch    3/800\n"


def test_the_time_left_does_not_count_what_only_the_first_step_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crystalframer.runs.console.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("crystalframer.runs.single.POSITION_SECONDS", 0.0)
    assert main([*SETTINGS, "--out", str(tmp_path)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if ", batch " in line]
    assert ["about" in line for line in said] == [False] + [True] * (len(said) - 1)
    assert len(said) > 3
