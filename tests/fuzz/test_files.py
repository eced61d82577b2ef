"""A short run over damaged files of every other kind, and whatever failed once."""

from itertools import islice
from pathlib import Path

from tests.fuzz.files import KINDS, Case, cases, corpus, problem_of, sound

NUM_CASES = 300


def test_inputs_that_failed_once_do_not_fail_again(tmp_path: Path) -> None:
    problems = {case.path: problem for case in corpus() if (problem := problem_of(case, tmp_path / "files"))}
    assert problems == {}


def test_sound_files_are_read(tmp_path: Path) -> None:
    for kind in KINDS:
        path, content = next(iter(sound(kind).items()))
        assert problem_of(Case(kind, path, content), tmp_path / "files") == ""
        KINDS[kind].read(tmp_path / "files")


def test_damaged_files_of_one_seed(tmp_path: Path) -> None:
    tried = list(islice(cases(0), NUM_CASES))
    assert {case.kind for case in tried} == KINDS.keys()
    problems = {case: problem for case in tried if (problem := problem_of(case, tmp_path / "files"))}
    assert problems == {}
