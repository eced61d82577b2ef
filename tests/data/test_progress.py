"""A long job says where it is on stderr, and in the end how much it was."""

import pytest

from crystalframer.data import progress


def test_the_last_line_tells_the_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that takes long to its first structure read as one of 17,314."""
    with progress.on_stderr("reading structures", None, "structures") as update:
        monkeypatch.setattr(progress, "EVERY", 0.0)
        update(1)
        monkeypatch.setattr(progress, "EVERY", 60.0)
        for count in range(2, 17_315):
            update(count)
    assert capsys.readouterr().err == "reading structures: 1 structures\nreading structures: 17,314 structures\n"


def test_a_short_job_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.on_stderr("reading", 5, "records") as update:
        update(5)
    assert capsys.readouterr().err == ""
