"""`pipelines/prepare_data.py`: a source becomes a store that a trial loads; mistakes are one line and exit code 2."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalframer.config import DataConfig
from crystalframer.data.registry import load_dataset, load_task
from crystalframer.data.store import read_manifest
from pipelines.prepare_data import main


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def make_records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "jid": f"JVASP-{i}",
            "atoms": {
                "lattice_mat": [[3.0 + i / 100, 0.0, 0.0], [0.3, 4.0, 0.0], [0.0, 0.2, 5.0]],
                "coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
                "elements": ["Na", "Cl "],
                "cartesian": False,
            },
            "formation_energy_peratom": i / 10,
            "optb88vdw_total_energy": -i / 10,
            "optb88vdw_bandgap": 0.0,
            "mbj_bandgap": "na",
            "ehull": i / 7 if i % 3 else "na",
        }
        for i in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(records))
    return str(path)


def test_a_source_becomes_a_store(tmp_path: Path, data_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(60)
    records[7]["atoms"]["coords"][1] = [0.0, 0.0, 1.001]  # on top of its neighbour
    records[9]["atoms"]["elements"][0] = "Nq"
    records[11]["jid"] = "JVASP-10"  # an id that occurs twice
    source = write(tmp_path / "records.json", records)
    assert main(["jarvis", "--source", source, "--partial"]) == 0
    printed = capsys.readouterr()
    assert "58 crystals, 116 atoms (at most 2 in one), 2 elements up to Cl, 2 rejected" in printed.out
    assert "not the published split (--partial)" in printed.out
    assert printed.err == ""

    rejects = [json.loads(line) for line in (data_directory / "jarvis" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["id"] for reject in rejects] == ["JVASP-7", "JVASP-9"]
    assert "overlap: 0.005 Å apart" in rejects[0]["reason"]
    assert "'Nq' is not an element" in rejects[1]["reason"]

    dataset = load_dataset("jarvis")
    assert "JVASP-10#2" in dataset.ids.tolist()
    assert list(dataset.tasks) == ["formation_energy", "total_energy", "bandgap_opt", "e_hull"]
    position = dataset.ids.tolist().index("JVASP-20")
    assert dataset[position].lattice[0].tolist() == [3.2, 0, 0]
    assert dataset.tasks["formation_energy"].targets[position] == 2.0
    # rejected records count in the split's shuffle: of 60 rows, 48, 6 and 6, less the two that were left out
    split = dataset.tasks["formation_energy"].split
    assert [int((split == code).sum()) for code in range(3)] == [
        count - sum(full_split()[row] == code for row in (7, 9)) for code, count in enumerate((48, 6, 6))
    ]
    assert (split == np.delete(full_split(), [7, 9])).all()
    hull = load_task(DataConfig(dataset="jarvis", task="e_hull"))
    assert np.isfinite(hull.targets[hull.rows["train"]]).all()
    assert len(hull.rows["train"]) <= 32

    manifest = read_manifest(data_directory / "jarvis")
    assert manifest["published_split"] is False
    assert manifest["records"] == 60
    assert main(["jarvis", "--source", source, "--partial"]) == 0
    assert read_manifest(data_directory / "jarvis") == manifest


def full_split() -> Any:
    import random

    order = list(range(60))
    random.Random(123).shuffle(order)
    split = np.full(60, -1)
    split[order[:48]], split[order[48:54]], split[order[54:]] = 0, 1, 2
    return split


def test_the_sample_is_verified_and_summarised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample"]) == 0
    printed = capsys.readouterr().out
    assert "data set sample: 6,175 crystals, 69,115 atoms" in printed
    assert "fingerprint a90f927e" in printed
    assert main(["sample", "--source", "x"]) == 2
    assert "has no source: leave out --source" in capsys.readouterr().err


def test_mistakes_end_in_one_line(tmp_path: Path, data_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "records.json", make_records(30))
    cases = [
        (["jarvs"], "unknown data set 'jarvs' (did you mean 'jarvis'?)"),
        (["jarvis", "--source", str(tmp_path / "none.json")], "none.json does not exist"),
        (["jarvis", "--source", source], "30 of 30 records have a finite target, which splits into (24, 3, 3)"),
        (["mp", "--source", source, "--partial"], "record 0 has no id in field 'id' (it has: atoms, ehull"),
        (["jarvis", "--source", write(tmp_path / "e.json", []), "--partial"], "none of the 0 records has a target"),
    ]
    for arguments, expected in cases:
        assert main(arguments) == 2, arguments
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert expected in message
    assert [path.name for path in data_directory.iterdir() if not path.name.endswith(".lock")] == []


def test_a_source_without_valid_crystals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(30)
    for record in records:
        record["atoms"] = None
    assert main(["jarvis", "--source", write(tmp_path / "r.json", records), "--partial"]) == 2
    assert "got no crystals, expected at least one" in capsys.readouterr().err
