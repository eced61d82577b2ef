"""Work in several processes comes back in order, a little at a time; what goes wrong there is raised here."""

import os
import pty
import signal
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import pytest

from crystalframer.data import progress
from crystalframer.data.parallel import in_order
from crystalframer.data.progress import on_stderr
from crystalframer.errors import UserError


def square(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0.0)
    return number * number


def refuse_five(number: int) -> int:
    if number == 5:
        raise UserError("five is right out")
    return number


def kill_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_items_are_taken_as_needed(processes: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = in_order(square, items(), processes)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + 2 * processes
    assert list(results) == [number * number for number in range(3, 40)]


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_of_the_function_are_raised_here(processes: int) -> None:
    results = in_order(refuse_five, range(100), processes)
    with pytest.raises(UserError, match="five is right out"):
        list(results)


def test_a_killed_process_is_a_sentence() -> None:
    with pytest.raises(UserError, match="one of the 2 processes was killed, perhaps for want of memory: use fewer"):
        list(in_order(kill_itself, range(20), 2))


def test_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with on_stderr("reading x", 3000, "records") as update:
        update(1000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with on_stderr("reading x", 3000, "records") as update:
        update(1000)
    with on_stderr("fetching y", None, "MB") as update:
        update(2_500_000)
    assert capsys.readouterr().err == "reading x: 1,000 of 3,000 records\nfetching y: 2.5 MB\n"


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with TextIOWrapper(os.fdopen(follower, "wb", buffering=0), encoding="utf-8", write_through=True) as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with on_stderr("reading x", 3000, "records") as update:
            update(1500)
            time.sleep(0.3)
        seen = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "reading x" in seen
    assert "1,500 of 3,000 records" in seen
