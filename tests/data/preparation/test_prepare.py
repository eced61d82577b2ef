"""The whole way from a server, a folder or a file to a store; whatever goes wrong is a sentence and no half store."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalframer import published
from crystalframer.config import DataConfig
from crystalframer.data.preparation import download
from crystalframer.data.preparation.download import Policy
from crystalframer.data.registry import load_dataset, load_task
from crystalframer.data.sample import load_sample
from crystalframer.data.store import TABLE, preparing, read_manifest
from pipelines.prepare_data import main
from tests.fixtures.file_server import FileServer, serve
from tests.fixtures.published import jarvis_records, moduli, mp_files, write_all, zipped

FILE = "jdft_3d-8-18-2021.json.zip"
PATH = f"/{FILE}"
JARVIS = zipped(jarvis_records(load_sample(), 300), "jdft_3d-8-18-2021.json")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "POLICY", Policy(stall_s=0.4, first_wait_s=0.01))
    return tmp_path / "data"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as state:
        state.files[PATH] = JARVIS
        yield state


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table that a clean preparation of `JARVIS` writes."""
    folder = tmp_path_factory.mktemp("clean")
    source = write_all({FILE: JARVIS}, folder / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYSTALFRAMER_DATA", str(folder))
        assert main(["jarvis", "--partial", "--processes", "1", "--source", str(source / FILE)]) == 0
    return (folder / "jarvis" / TABLE).read_bytes()


def prepare(server: FileServer, *arguments: str) -> int:
    return main(["jarvis", "--partial", "--processes", "1", "--source", server.address, *arguments])


def test_over_http(server: FileServer, data: Path, expected: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(server) == 0
    printed = capsys.readouterr()
    assert "data set jarvis: 298 crystals" in printed.out
    assert "2 rejected" in printed.out
    assert "terms: NIST data" in printed.out
    assert printed.err == ""
    assert (data / "jarvis" / TABLE).read_bytes() == expected
    assert sorted(path.name for path in data.iterdir()) == [".jarvis.lock", "downloads", "jarvis"]
    assert sorted(path.name for path in (data / "downloads").iterdir()) == [FILE, f"{FILE}.json"]

    dataset, sample = load_dataset("jarvis"), load_sample()
    assert dataset.ids[-1] == "JVASP-0#2"
    for row, original in ((0, 0), (3, 4), (120, 121)):  # Cartesian, plain, with spaces; record 3 was rejected
        assert dataset.ids[row] == f"JVASP-{original}"
        assert dataset[row].atomic_numbers.tolist() == sample[original].atomic_numbers.tolist()
        assert dataset[row].frac_coords == pytest.approx(sample[original].frac_coords, abs=1e-12)
    rejects = [json.loads(line) for line in (data / "jarvis" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["id"] for reject in rejects] == ["JVASP-3", "JVASP-150"]
    manifest = read_manifest(data / "jarvis")
    assert manifest["sources"][0]["figshare"] == 29204826
    hull = load_task(DataConfig(dataset="jarvis", task="e_hull"))
    assert manifest["splits"]["e_hull"]["train"] == len(hull.rows["train"])


@pytest.mark.parametrize("processes", ["2", "3"])
def test_any_number_of_processes_writes_the_same_table(
    server: FileServer, data: Path, expected: bytes, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalframer.data.structures import records

    monkeypatch.setattr(records, "CHUNK", 20_000)  # many chunks
    assert prepare(server, "--processes", processes) == 0
    assert (data / "jarvis" / TABLE).read_bytes() == expected


@pytest.mark.parametrize("faults", [["drop"], ["stall"], ["500", "404", "drop", "503"], ["drop", "stall", "drop"]])
def test_passing_faults_end_in_the_same_store(
    server: FileServer, data: Path, expected: bytes, faults: list[str]
) -> None:
    server.faults[PATH] = faults
    server.ranges = faults != ["500", "404", "drop", "503"]
    assert prepare(server) == 0
    assert (data / "jarvis" / TABLE).read_bytes() == expected
    assert any(server.ranges_of(PATH))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("challenge", "fetch https://figshare.com/ndownloader/files/29204826 with a browser"),
        ("html", "a web page instead of the file"),
        ("500", "the server answers 500"),
        ("404", "the server answers 404"),
        ("stall", "nothing came for 0.4 s"),
        ("truncate", f"downloads/{FILE} and "),
    ],
)
def test_lasting_faults_are_one_sentence_and_leave_the_old_store(
    server: FileServer, data: Path, expected: bytes, fault: str, sentence: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(download, "POLICY", Policy(attempts=2, stall_s=0.4, first_wait_s=0.01))
    server.every[PATH] = fault
    server.pause_s = 0.0
    if fault == "stall":
        server.ranges = False
    assert prepare(server) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert sentence in message
    assert not (data / "jarvis").exists()
    assert [path.name for path in data.glob(".*.tmp-*")] == []
    server.every.clear()
    if fault == "truncate":  # as the sentence says
        (data / "downloads" / FILE).unlink()
        (data / "downloads" / f"{FILE}.json").unlink()
    assert prepare(server) == 0
    assert (data / "jarvis" / TABLE).read_bytes() == expected

    server.every[PATH] = fault
    (data / "downloads" / FILE).unlink()
    assert prepare(server) == 2
    assert (data / "jarvis" / TABLE).read_bytes() == expected


def test_a_file_that_is_not_what_it_was(
    server: FileServer, data: Path, expected: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(server) == 0
    (data / "downloads" / FILE).unlink()
    server.files[PATH] = zipped(jarvis_records(load_sample(), 200), "jdft_3d-8-18-2021.json")
    capsys.readouterr()
    assert prepare(server) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "the server's file has changed or was tampered with" in message
    assert (data / "jarvis" / TABLE).read_bytes() == expected
    assert [path.name for path in (data / "downloads").iterdir()] == [f"{FILE}.json"]
    server.files["/other/bulk_megnet_val.pkl"] = moduli(load_sample(), range(12), "bulk")
    assert main(["mp", "--partial", "--source", f"{server.address}/other/bulk_megnet_val.pkl"]) == 0
    assert list(load_dataset("mp").tasks) == ["bulk_modulus"]


def test_no_server(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jarvis", "--source", "http://127.0.0.1:9/nothing"]) == 2
    assert "no connection (Connection refused)" in capsys.readouterr().err
    assert not (data / "jarvis").exists()


def test_figshare_is_asked_at_both_addresses(
    server: FileServer, data: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [address.split("/")[2] for address in published.FIGSHARE] == ["ndownloader.figshare.com", "api.figshare.com"]
    monkeypatch.setattr(published, "FIGSHARE", (f"{server.address}/files/{{}}", f"{server.address}/v2/{{}}"))
    server.every["/files/29204826"] = "challenge"
    server.files["/v2/29204826"] = JARVIS
    assert main(["jarvis", "--partial", "--processes", "1"]) == 0
    assert (data / "jarvis" / TABLE).read_bytes() == expected
    assert [path for path, _ in server.requests] == ["/files/29204826", "/v2/29204826"]


def test_a_store_is_made_once(
    server: FileServer, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(server) == 0
    first, asked = (data / "jarvis" / TABLE).stat(), len(server.requests)
    capsys.readouterr()
    assert prepare(server) == 0
    assert "it was prepared already and is unchanged; --force makes it again" in capsys.readouterr().out
    assert main(["jarvis", "--partial"]) == 0  # without a source, what is there counts and no network is needed
    assert (data / "jarvis" / TABLE).stat().st_ino == first.st_ino
    assert len(server.requests) == asked
    fingerprint = load_dataset("jarvis").fingerprint
    assert prepare(server, "--force") == 0
    assert "prepared already" not in capsys.readouterr().out.splitlines()[-1]
    assert (data / "jarvis" / TABLE).stat().st_ino != first.st_ino
    assert load_dataset("jarvis").fingerprint == fingerprint
    other = write_all({FILE: zipped(jarvis_records(load_sample(), 200), "x.json")}, data / "other")
    assert main(["jarvis", "--partial", "--source", str(other)]) == 0
    assert len(load_dataset("jarvis")) == 198
    from crystalframer.data.preparation import prepare as module

    inode = (data / "jarvis" / TABLE).stat().st_ino
    monkeypatch.setattr(module, "PREPARATION", 99)
    assert main(["jarvis", "--partial", "--source", str(other)]) == 0
    assert (data / "jarvis" / TABLE).stat().st_ino != inode


def test_two_at_once(server: FileServer, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with preparing(data / "jarvis"):
        assert prepare(server) == 2
    assert "is being prepared by another process: wait for it to end" in capsys.readouterr().err
    leftover = data / ".jarvis.tmp-abc"
    leftover.mkdir()
    (leftover / "lattice").write_text("half")
    assert prepare(server) == 0
    assert not leftover.exists()


def test_mp_from_a_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_all(mp_files(load_sample(), 40), tmp_path / "mp")
    assert main(["mp", "--partial", "--processes", "1", "--source", str(folder)]) == 0
    dataset = load_dataset("mp")
    assert len(dataset) == 40 + 2 * 40
    assert dataset.ids[40] == "bulk:mp-0"
    assert list(dataset.tasks) == ["formation_energy", "bandgap", "bulk_modulus", "shear_modulus"]
    sizes = {
        name: [int((np.isfinite(task.targets) & (task.split == code)).sum()) for code in range(3)]
        for name, task in dataset.tasks.items()
    }
    assert sizes == {
        "formation_energy": [32, 4, 4],
        "bandgap": [32, 4, 4],
        "bulk_modulus": [20, 15, 5],
        "shear_modulus": [20, 15, 5],
    }
    row = dataset.ids.tolist().index("shear:mp-7")
    assert dataset.tasks["shear_modulus"].targets[row] == 1 + 7 / 60
    assert np.isnan(dataset.tasks["bandgap"].targets[row])
    assert load_task(DataConfig(dataset="mp", task="bulk_modulus")).unit == "log10(GPa)"
    capsys.readouterr()

    assert main(["mp", "--source", str(folder)]) == 2
    assert "expected (60000, 5000, 4239)" in capsys.readouterr().err
    (folder / "megnet.json.zip").rename(folder / "elsewhere")
    assert main(["mp", "--source", str(folder)]) == 2
    assert "lacks megnet.json.zip (figshare file 26724977): fetch it from" in capsys.readouterr().err
    assert main(["mp", "--source", str(folder), "--partial"]) == 0
    assert list(load_dataset("mp").tasks) == ["bulk_modulus", "shear_modulus"]
    assert main(["mp", "--source", str(folder / "bulk_megnet_val.pkl"), "--partial"]) == 0
    assert len(load_dataset("mp")) == 15
    assert main(["mp", "--source", str(folder / "bulk_megnet_val.pkl")]) == 2
    assert "bulk_megnet_val.pkl has 15 targets in 15 records, expected 393" in capsys.readouterr().err


def test_moduli_in_another_unit_and_pickles_that_run_things(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mp"
    write_all({"bulk_megnet_train.pkl": moduli(load_sample(), range(30), "bulk", scale=60.0)}, folder)
    assert main(["mp", "--source", str(folder), "--partial"]) == 2
    assert "holds 60, expected log10(GPa) between -3 and 4: if these are GPa" in capsys.readouterr().err

    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/pwned",)

    write_all({"bulk_megnet_train.pkl": pickle.dumps([Call()])}, folder)
    assert main(["mp", "--source", str(folder), "--partial"]) == 2
    assert "asks for posix.system, which is refused" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()
    assert not (data / "mp").exists()


def test_the_documented_examples_run(
    server: FileServer, data: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(server) == 0
    capsys.readouterr()
    text = (root / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    ours = [block for block in blocks if "jarvis" in block]
    assert len(ours) == 2
    for block in ours:
        exec(block.replace("~/.cache/crystalframer", str(data)), {})
    printed = capsys.readouterr().out
    assert printed.startswith("JVASP-0 ")
    assert "count    26" in printed
