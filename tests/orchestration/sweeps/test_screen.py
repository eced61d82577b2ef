"""What a user sees: lines in a file, a table on a terminal, the closing summary."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType

import pytest
from rich.console import Console

from crystalframer.orchestration.sweeps.screen import Screen, closing_view, live_view
from crystalframer.runs.contents import TrialResult
from crystalframer.runs.status import Tally, TrialStatus, duration
from crystalframer.runs.trial import TrialProgress


def result(test_mae: float) -> TrialProgress:
    values: TrialResult = {
        "trial": "",
        "unit": "eV/atom",
        "val_mae": 0.2,
        "test_mae": test_mae,
        "test_rmse": 1.0,
        "baseline_mae": 0.8,
        "tags": {},
        "final": {"step": 100, "time_ms": 0, "values": {}},
    }
    return TrialProgress(100, 100, 0.2, 1.0, values)


@pytest.fixture
def trials() -> dict[str, TrialStatus]:
    """Four trials of two frames."""
    names = [(f"{frame}-{seed}", frame) for seed in (0, 1) for frame in ("none", "max")]
    return {name: TrialStatus(name, "sample formation_energy", frame, "eV/atom", 100) for name, frame in names}


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100, color_system=None), text


def calls_of(action: Callable[[], object]) -> int:
    """Return how many Python functions an action calls, generators' steps included."""
    count = 0

    def heard(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(heard)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_lines_say_start_tenths_end_and_failure(trials: dict[str, TrialStatus]) -> None:
    to, text = console(terminal=False)
    with Screen(to, trials) as screen:
        screen.change("none-0", "running")
        for epoch in range(1, 101):
            screen.change("none-0", "running", TrialProgress(epoch, 100, 1 / epoch, 1.0))
        screen.change("none-0", "running", result(0.4))
        screen.change("max-0", "running")
        screen.change("max-0", "interrupted", reason="its worker process died; it will resume from its last checkpoint")
        screen.change("max-0", "failed", reason="OSError: no space left")
    lines = text.getvalue().splitlines()
    assert (
        lines[0]
        == "none-0: started (where this program is new, it compiles the attention first: a minute of a free core)"
    )
    assert [line.split(", about")[0] for line in lines[1:11]] == [
        f"none-0: epoch {epoch}/100, val MAE {1 / epoch:.4f} eV/atom" for epoch in range(10, 101, 10)
    ]
    assert lines[11].startswith("none-0: done, test MAE 0.4000 eV/atom (1 done, 3 not started")
    assert lines[12:] == [
        "max-0: started",
        "max-0: its worker process died; it will resume from its last checkpoint",
        "max-0: failed: OSError: no space left",
    ]


def test_the_live_table_shows_running_trials_and_the_best_of_each_frame(trials: dict[str, TrialStatus]) -> None:
    to, text = console(terminal=True)
    with Screen(to, trials) as screen:
        screen.change("max-0", "running")
        screen.change("max-0", "running", TrialProgress(40, 100, 0.25, 1.5))
        screen.change("none-0", "running", result(0.4))
        screen.change("none-1", "running", TrialProgress(50, 100, 0.1, 1.0))
    shown = text.getvalue()
    assert "4 trials: 1 done, 2 running, 1 not started" in shown
    assert "max-0" in shown
    assert "40/100" in shown
    assert "0.2500 eV/atom" in shown
    assert "best so far" in shown
    assert {trial.frame: trial.val_mae for trial in screen.summary().best()}["none"] == 0.1


def test_the_summary_has_means_ratios_and_counts(trials: dict[str, TrialStatus]) -> None:
    to, text = console(terminal=False)
    screen = Screen(Console(quiet=True), trials)
    for name, mae in (("none-0", 0.3), ("none-1", 0.5), ("max-0", 0.2)):
        screen.change(name, "running", result(mae))
    screen.change("max-1", "failed", reason="OSError: no space left")
    to.print(closing_view(screen.summary()))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines == [
        "sample formation_energy: test MAE (eV/atom)",
        "frame mean ± std trials baseline / MAE",
        "none 0.4000 ± 0.1414 2 2.00",
        "max 0.2000 1 4.00",
        "max-1: failed: OSError: no space left",
        "4 trials: 3 done, 1 failed",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12)])
def test_a_small_terminal_shows_what_fits(width: int, height: int) -> None:
    names = [f"formation_energy-max-num_blocks{blocks}-seed{seed}-1a2b3c4d" for blocks in (1, 2) for seed in range(20)]
    trials = {name: TrialStatus(name, "sample formation_energy", "max", "eV/atom", 100) for name in names}
    screen = Screen(Console(quiet=True), trials)
    for name in names:
        screen.change(name, "running")
        screen.change(name, "running", TrialProgress(40, 100, 0.25, 1.5))
    text = io.StringIO()
    to = Console(file=text, force_terminal=True, width=width, height=height, color_system=None)
    to.print(live_view(screen.summary(), to))
    lines = text.getvalue().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("40 trials: 40 running")
    assert " more" in text.getvalue()
    assert "seed0-1a2b3c4d" in text.getvalue()
    assert "num_blocks2" in text.getvalue()


def test_each_setting_that_varies_has_a_row() -> None:
    names = [f"formation_energy-max-num_blocks{blocks}-seed{seed}-1a2b3c4d" for blocks in (1, 2) for seed in (0, 1)]
    screen = Screen(Console(quiet=True), {name: TrialStatus(name, "sample", "max", "eV", 100) for name in names})
    for name, mae in zip(names, (0.2, 0.4, 0.1, 0.1), strict=True):
        screen.change(name, "running", result(mae))
    to, text = console(terminal=False)
    to.print(closing_view(screen.summary()))
    rows = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert rows[2:4] == ["max, num_blocks1 0.3000 ± 0.1414 2 2.67", "max, num_blocks2 0.1000 ± 0.0000 2 8.00"]


def test_a_resumed_trial_does_not_count_the_epochs_of_its_past(trials: dict[str, TrialStatus]) -> None:
    trials["max-0"] = replace(trials["max-0"], standing="interrupted", epoch=90)
    screen = Screen(Console(quiet=True), trials)
    assert screen.summary().tally.seconds_left() is None
    for epoch in (91, 95, 92):  # killed, and back at its checkpoint
        screen.change("max-0", "running", TrialProgress(epoch, 100, 0.1, 0.5))
    assert screen.summary().tally.rate() == 2.0
    assert screen.summary().tally.seconds_left() == pytest.approx(308 / 2.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(45.4, "45 s"), (100, "2 min"), (720, "12 min"), (12000, "3 h 20 min"), (359990, "100 h 0 min")],
)
def test_durations_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_a_change_costs_does_not_grow_with_the_trials() -> None:
    steps = {}
    for size in (200, 2000):
        names = [f"trial-{number}" for number in range(size)]
        screen = Screen(
            Console(quiet=True), {name: TrialStatus(name, "sample", "max", "eV", 100) for name in names[:-1]}
        )
        screen.trials[names[-1]] = TrialStatus(names[-1], "sample", "max", "eV", 100)  # a search adds some
        screen.change("trial-0", "running")
        steps[size] = calls_of(partial(screen.change, "trial-0", "running", TrialProgress(10, 100, 0.5, 1.0)))
    assert steps[2000] == steps[200]


def test_what_is_kept_while_trials_change_is_what_is_counted_anew(trials: dict[str, TrialStatus]) -> None:
    screen = Screen(Console(quiet=True), trials)
    kept = Tally(trials.values())
    for name, progress in (("none-0", TrialProgress(3, 100, 0.5, 2.0)), ("max-1", TrialProgress(7, 100, 0.4, 4.0))):
        for change in (
            (name, "running"),
            (name, "running", progress),
            (name, "interrupted"),
            (name, "running", progress),
        ):
            screen.change(*change)
            for _ in range(2):  # noted again, a trial counts once
                kept.note(screen.trials[name])
            anew = screen.summary().tally
            assert (kept.counts(), kept.speed(), kept.running) == (anew.counts(), anew.speed(), anew.running)
            assert kept.waits_for_its_first_epoch() == anew.waits_for_its_first_epoch()
    screen.change("none-0", "running", result(0.4))
    assert screen.summary().counts() == "1 done, 1 running, 2 not started"
