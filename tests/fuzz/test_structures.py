"""A short run over damaged structure files, and whatever failed once."""

from itertools import islice
from pathlib import Path

from tests.fuzz.structures import SEEDS, Case, cases, corpus, problem_of

NUM_CASES = 600


def test_inputs_that_failed_once_do_not_fail_again(tmp_path: Path) -> None:
    problems = {case.text: problem for case in corpus() if (problem := problem_of(case, tmp_path))}
    assert problems == {}


def test_damaged_structure_files_of_one_seed(tmp_path: Path) -> None:
    problems = [(case, problem) for case in islice(cases(0), NUM_CASES) if (problem := problem_of(case, tmp_path))]
    assert problems == []


def test_a_silent_difference_is_found(tmp_path: Path) -> None:
    lines = SEEDS["alloy"].text.splitlines()
    text = "\n".join(line for line in lines if "formula" not in line and "density" not in line)
    case = Case("alloy", text.replace("Cl1 Cl", "Br1 Br"), single=True)
    assert "silently holds" in problem_of(case, tmp_path)
    larger = "\n".join(line.replace("4.05", "4.2") for line in lines if "volume" not in line and "density" not in line)
    assert "silently has a volume" in problem_of(Case("alloy", larger, single=True), tmp_path)
