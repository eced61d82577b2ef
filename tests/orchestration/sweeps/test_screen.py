"""What a user sees: lines in a file, a table on a terminal, the closing summary."""

import io

import pytest
from rich.console import Console

from crystalframer.config import build_trial
from crystalframer.orchestration.sweeps.screen import Board, LineScreen, LiveScreen, duration, screen_for, summary
from crystalframer.runs.trial import Trial, TrialProgress

TRIALS = [
    Trial(f"{frame}-{seed}", build_trial({"model.frame": frame, "train.seed": seed, "train.epochs": 100}))
    for seed in (0, 1)
    for frame in ("none", "max")
]


def result(test_mae: float) -> TrialProgress:
    values = {"val_mae": 0.2, "test_mae": test_mae, "baseline_mae": 0.8}
    return TrialProgress(100, 100, 0.2, 1.0, values)


@pytest.fixture
def board() -> Board:
    """Four trials of two frames."""
    return Board.of(TRIALS, {trial.name: "eV/atom" for trial in TRIALS})


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100, color_system=None), text


def test_lines_say_start_tenths_end_and_failure(board: Board) -> None:
    to, text = console(terminal=False)
    with screen_for(to, board) as screen:
        assert isinstance(screen, LineScreen)
        screen.started("none-0")
        for epoch in range(1, 101):
            screen.progressed("none-0", TrialProgress(epoch, 100, 1 / epoch, 1.0))
        screen.progressed("none-0", result(0.4))
        screen.started("max-0")
        screen.retried("max-0", "its worker process died; it will go on from its last checkpoint")
        screen.failed("max-0", "OSError: no space left")
    lines = text.getvalue().splitlines()
    assert lines[0] == "none-0: started"
    assert [line.split(", about")[0] for line in lines[1:11]] == [
        f"none-0: epoch {epoch}/100, val MAE {1 / epoch:.4f} eV/atom" for epoch in range(10, 101, 10)
    ]
    assert lines[11].startswith("none-0: done, test MAE 0.4000 eV/atom (1 done, 3 waiting")
    assert lines[12:] == [
        "max-0: started",
        "max-0: its worker process died; it will go on from its last checkpoint",
        "max-0: failed: OSError: no space left",
    ]


def test_the_live_table_shows_running_trials_and_the_best_of_each_frame(board: Board) -> None:
    to, text = console(terminal=True)
    with screen_for(to, board) as screen:
        assert isinstance(screen, LiveScreen)
        screen.started("max-0")
        screen.progressed("max-0", TrialProgress(40, 100, 0.25, 1.5))
        screen.progressed("none-0", result(0.4))
        screen.progressed("none-1", TrialProgress(50, 100, 0.1, 1.0))
    shown = text.getvalue()
    assert "4 trials: 1 done, 2 running, 1 waiting" in shown
    assert "max-0" in shown
    assert "40/100" in shown
    assert "0.2500 eV/atom" in shown
    assert "best so far" in shown
    assert board.best_by_frame()["sample formation_energy", "none"].val_mae == 0.1


def test_the_summary_has_means_ratios_and_fates(board: Board) -> None:
    for name, mae in (("none-0", 0.3), ("none-1", 0.5), ("max-0", 0.2)):
        board.progress(name, result(mae))
    board.rows["max-1"].state, board.rows["max-1"].reason = "failed", "OSError: no space left"
    to, text = console(terminal=False)
    to.print(summary(board))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines == [
        "sample formation_energy: test MAE (eV/atom)",
        "frame mean ± std trials baseline / MAE",
        "none 0.4000 ± 0.1414 2 2.00",
        "max 0.2000 1 4.00",
        "max-1: failed: OSError: no space left",
        "4 trials: 3 done, 1 failed",
    ]


def test_a_resumed_trial_does_not_count_the_epochs_of_its_past(board: Board) -> None:
    board.waiting("max-0", 90)
    assert board.seconds_left() is None
    board.progress("max-0", TrialProgress(91, 100, 0.1, 1.0))
    board.progress("max-0", TrialProgress(95, 100, 0.1, 1.0))
    assert board.epochs_run == 4
    board.progress("max-0", TrialProgress(92, 100, 0.1, 1.0))  # killed, and back at its checkpoint
    assert board.epochs_run == 4
    rate, left = board.rate(), board.seconds_left()
    assert rate is not None
    assert left is not None
    assert left == pytest.approx(308 / rate, rel=0.5)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(45.4, "45 s"), (100, "2 min"), (720, "12 min"), (12000, "3 h 20 min"), (359990, "100 h 0 min")],
)
def test_durations_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said
