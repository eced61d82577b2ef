"""Two versions of the program are timed in turns; here they are the same one."""

import json
from pathlib import Path

import pytest

from benchmarks.cpu_pieces import PIECES, main


@pytest.mark.slow
def test_a_version_against_itself(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pieces.json"
    case = ["--frame", "none", "--cutoff", "4", "--crystals", "2", "--rounds", "2"]
    assert main([*case, "--against", str(root), "--output", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    for name in ("this", "other"):
        assert len(found["rounds"][name]) == 2
        assert all(found["ms_per_crystal"][name][piece] > 0 for piece in PIECES)
        assert found["ms_per_crystal"][name]["step"] > found["ms_per_crystal"][name]["predict"]
    assert all(0.2 < found["times_faster"][piece] < 5 for piece in PIECES)
    assert found["about"]["torch"]
    assert len(found["load"]) == 2
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PIECES)
