"""A program that outlives its screen: a pipe nobody reads, a terminal that knows ASCII alone, a hangup."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from crystalframer.cli import COMMANDS, main
from crystalframer.command_line import reports_user_errors

PROGRAM = """
import signal, sys, time
from pathlib import Path
from crystalframer.command_line import outliving_the_screen, reports_user_errors

@reports_user_errors
@outliving_the_screen()
def main():
    print("0.1 ± 0.2 …", flush=True)
    sys.stdin.readline()
    for number in range(3000):
        print("line", number)
        print("line", number, file=sys.stderr)
    Path(sys.argv[1]).write_text("to its end")
    return 7

before = signal.getsignal(signal.SIGHUP)  # ignored already under nohup
code = main()
assert signal.getsignal(signal.SIGHUP) is before
sys.exit(code)
"""


def start(mark: Path, **options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PROGRAM, str(mark)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_who_reads_the_output_may_leave(tmp_path: Path) -> None:
    program = start(tmp_path / "mark", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert program.stdout.readline().decode() == "0.1 ± 0.2 …\n"  # type: ignore[union-attr]
    program.stdout.close()  # type: ignore[union-attr]
    program.stdin.write(b"\n")  # type: ignore[union-attr]
    program.stdin.close()  # type: ignore[union-attr]
    assert program.wait(60) == 7
    assert (tmp_path / "mark").read_text() == "to its end"


def test_a_hangup_and_a_terminal_of_ascii_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = start(tmp_path / "mark", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert program.stdout.readline() == b"0.1 ? 0.2 ?\n"  # type: ignore[union-attr]
    program.send_signal(signal.SIGHUP)
    output, _ = program.communicate(b"\n", timeout=60)
    assert program.returncode == 7
    assert output.count(b"line") == 3000


def test_no_output_at_all(tmp_path: Path) -> None:
    command = 'exec "$0" "$@" >&- 2>&-'
    arguments = ["sh", "-c", command, sys.executable, "-c", PROGRAM, str(tmp_path / "mark")]
    assert subprocess.run(arguments, stdin=subprocess.DEVNULL, check=False, timeout=60).returncode == 7
    assert (tmp_path / "mark").read_text() == "to its end"


def test_a_short_answer_that_nobody_reads_ends_quietly() -> None:
    command = [sys.executable, "-u", "-m", "crystalframer", "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 141


def test_an_answer_in_letters_that_the_screen_lacks() -> None:
    command = [sys.executable, "-m", "crystalframer", "models"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert b"eV" in done.stdout
    assert rb"\xd7" in done.stdout, "nothing is lost in a file"
    assert done.stderr == b""


def test_what_a_process_has_none_left_of_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_user_errors
    def fail(number: int) -> int:
        raise OSError(number, os.strerror(number))

    assert fail(errno.EMFILE) == fail(errno.EAGAIN) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: Too many open files; allow more open files: ulimit -n 8192"
    assert second.startswith("error: Resource temporarily unavailable; no further process or thread can be started")
    with pytest.raises(OSError, match="No space"):  # of what, nobody knows: a defect of ours
        fail(errno.ENOSPC)


def test_a_place_that_is_closed_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @reports_user_errors
    def write(path: str) -> int:
        Path(path).write_text("x")
        return 0

    assert write(str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory; make room, or name another place\n"
    with pytest.raises(FileNotFoundError):  # may be a defect of ours
        write("/no/such/folder/file")


@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_command_in_the_help_can_be_pasted(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def commands(width: str) -> list[str]:
        monkeypatch.setenv("COLUMNS", width)
        pages = "".join(map(printed_help, COMMANDS))
        return re.findall(r"^ +(crystalframer .*)", re.sub(r" \\\n +", " ", pages), re.MULTILINE)

    expected = commands("1000")
    assert len(expected) > 40
    assert set(expected) <= set(commands(columns))


def printed_help(name: str) -> str:
    """Return what a command's --help prints."""
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        main([name, "--help"])
    return text.getvalue()


def test_nothing_said_is_a_wish_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: crystalframer [options] COMMAND ...")
