"""The benchmark of preparation: its sources are valid, its measurements are of what it says."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.prepare_scale import run
from benchmarks.synthetic_source import write_source
from crystalframer.data.store import read_manifest
from tests.data.structures.test_records import read_records


def test_a_synthetic_source_is_prepared_and_measured(tmp_path: Path) -> None:
    source = tmp_path / "oqmd.json.zip"
    size = write_source("oqmd", 1500, source)
    assert 1500 * 1200 < size < 1500 * 2600  # the published file has about 1.8 kB a record
    assert len(list(read_records(source))) == 1500
    command = [sys.executable, "pipelines/prepare_data.py", "oqmd", "--partial", "--source", str(source)]
    found = run([*command, "--processes", "2"], {**os.environ, "CRYSTALFRAMER_DATA": str(tmp_path)})
    manifest = read_manifest(tmp_path / "oqmd")
    assert manifest["crystals"] + manifest["rejects"] == 1500
    assert manifest["rejects"] == 0
    assert found["wall"] > 0.1
    assert found["cpu"] > 0.1
    assert 2**25 < found["peak"] < 2**31


def test_a_preparation_that_fails_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 2"):
        run(
            [sys.executable, "pipelines/prepare_data.py", "oqmd", "--source", str(tmp_path / "none.json")],
            {**os.environ, "CRYSTALFRAMER_DATA": str(tmp_path)},
        )
