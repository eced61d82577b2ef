"""A preparation killed at any moment leaves the old store, the new one or none; run again, it ends in the same one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystalframer.data.sample import load_sample
from crystalframer.data.store import TABLE, is_store, read_store
from tests.fixtures.file_server import FileServer, serve
from tests.fixtures.published import jarvis_records, zipped

FILE = "jdft_3d-8-18-2021.json.zip"


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with serve() as state:
        state.files[f"/{FILE}"] = zipped(jarvis_records(load_sample(), 3000), "jdft_3d-8-18-2021.json")
        state.pause_s = 0.01
        yield state


def start(root: Path, data: Path, server: FileServer, *arguments: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from crystalframer.data.structures import records; from pipelines.prepare_data import main;"
        "records.CHUNK = 2**17; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "jarvis", "--partial", "--processes", "2", "--source", server.address, *arguments],
        cwd=root,
        env={**os.environ, "CRYSTALFRAMER_DATA": str(data), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, out + error


def in_session(session: int) -> list[int]:
    """Return the processes that still run in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            if fields[3] == str(session) and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="sees processes through /proc")
def test_ten_kills_at_random_moments(root: Path, tmp_path: Path, server: FileServer) -> None:
    began = time.monotonic()
    finish(start(root, tmp_path / "clean", server))
    whole = time.monotonic() - began
    expected = (tmp_path / "clean" / "jarvis" / TABLE).read_bytes()
    data = tmp_path / "data"
    moments = random.Random(0)
    seen = []
    for number in range(10):
        if number == 5:  # from here on an old store is there
            finish(start(root, data, server))
        process = start(root, data, server, "--force")
        time.sleep(whole * moments.uniform(0.15, 1.0))
        if number % 3 == 2:  # the parent alone: its workers notice and end
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        until = time.monotonic() + 10
        while in_session(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert in_session(process.pid) == []
        seen.append(sorted(path.name.partition(".tmp-")[0] for path in data.glob("*")) if data.exists() else [])
        if is_store(data / "jarvis"):
            assert (data / "jarvis" / TABLE).read_bytes() == expected
            assert len(read_store(data / "jarvis")) == 2998
        else:
            assert not (data / "jarvis").exists()
        if number in (2, 7):  # the download starts anew as well
            shutil.rmtree(data / "downloads", ignore_errors=True)
    assert len({tuple(names) for names in seen}) > 1, f"the kills all came at one moment: {seen}"
    finish(start(root, data, server, "--force"))
    assert (data / "jarvis" / TABLE).read_bytes() == expected
    assert sorted(path.name for path in data.iterdir()) == [".jarvis.lock", "downloads", "jarvis"]
    assert sorted(path.name for path in (data / "downloads").iterdir()) == [FILE, f"{FILE}.json"]


def test_ctrl_c_is_one_line(root: Path, tmp_path: Path, server: FileServer) -> None:
    process = start(root, tmp_path, server)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("downloads/*.part")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "stopped\n")
    assert not list(tmp_path.glob("*.tmp-*"))
    assert not list(tmp_path.glob(".*.tmp-*"))


@pytest.mark.parametrize(("most", "where"), [(50_000, "downloads"), (600_000, "data")])
def test_a_full_disk_is_one_line(root: Path, tmp_path: Path, server: FileServer, most: int, where: str) -> None:
    """A limit on the size of files stands for a disk that is full; the second one lets the download pass."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}));"
        "import sys; from pipelines.prepare_data import main; sys.exit(main(sys.argv[1:]))"
    )
    data = tmp_path / "data"
    source = server.address if where == "downloads" else str(tmp_path / "x.json.zip")
    (tmp_path / "x.json.zip").write_bytes(server.files[f"/{FILE}"])
    done = subprocess.run(
        [sys.executable, "-c", code, "jarvis", "--partial", "--processes", "1", "--source", source],
        cwd=root,
        env={**os.environ, "CRYSTALFRAMER_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{where} (File too large): make room there" in done.stderr
    assert [path.name for path in data.iterdir() if path.name not in ("downloads", ".jarvis.lock")] == []
