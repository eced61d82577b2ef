"""The doctor in bad circumstances: a closed folder, one core, a server that is not there or refuses the login."""

import base64
import http.server
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crystalframer import environment
from crystalframer.cli import main
from crystalframer.commands import doctor
from crystalframer.commands.doctor import Finding, lines_of
from tests.fixtures.unprivileged import unprivileged

QUICK = tuple(check for check in doctor.CHECKS if check is not doctor.devices)
"""All but the kernels, whose compilation takes a minute."""


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set, no data set is prepared, and the kernels are looked at in a test of their own."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "CRYSTALFRAMER_RUNS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "CHECKS", QUICK)


def examined(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """Return the doctor's findings by what they are about."""
    assert main(["doctor", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["wrong"] == sum(bool(finding["wrong"]) for finding in report["findings"])
    return {finding["what"]: finding for finding in report["findings"]}


def test_a_healthy_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = examined(capsys)
    assert not any(finding["wrong"] or finding["mend"] for finding in found.values())
    assert f"{tmp_path}/runs (not there yet)" in found["runs"]["found"]
    assert "sample: 6,175 crystals" in found["data set"]["found"]
    assert not list(tmp_path.iterdir()), "it leaves nothing"
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nnothing is wrong\n")


@pytest.mark.slow
def test_kernels_are_held_against_the_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from crystalframer import kernels

    (devices, kernel, *_) = list(doctor.devices(tmp_path))
    assert devices.found.startswith("cpu")
    assert (kernel.what, kernel.wrong) == ("on cpu", "")
    exact = kernels.cpu.attend
    monkeypatch.setattr(kernels.cpu, "attend", lambda *arguments: exact(*arguments) * 1.001)
    (_, kernel, *_) = list(doctor.devices(tmp_path))
    assert "frame max: out is off by 1.0e-03 (relative RMS; allowed 1.0e-05)" in kernel.wrong
    assert kernel.mend.startswith("rm -r ")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (None, "a GPU is expected here, but there is no NVIDIA driver"),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30\nGCC version: gcc version 12.3.0",
            "there is an NVIDIA driver (570), but torch 2.13.0, built for CUDA 13.0, sees no GPU: "
            "it needs driver 580 or newer",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
            "there is an NVIDIA driver (580), but torch 2.13.0, built for CUDA 13.0, sees no GPU",
        ),
    ],
)
def test_a_gpu_that_torch_cannot_use(
    said: str | None, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a cloud's machine with another driver; this one is told that its torch was built for CUDA."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "version")
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    if said is not None:
        (tmp_path / "version").write_text(said)
    assert main(["doctor", "--gpu", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["wrong"] == wrong
    assert finding["mend"].startswith("nvidia-smi ")


@pytest.mark.parametrize(
    ("number", "what", "mend"),
    [(resource.RLIMIT_NOFILE, "open files", "ulimit -n 8192"), (resource.RLIMIT_NPROC, "processes", "ulimit -u 8192")],
)
def test_few_files_or_processes(number: int, what: str, mend: str, tmp_path: Path) -> None:
    before = resource.getrlimit(number)
    resource.setrlimit(number, (500, before[1]))
    try:
        (finding,) = (one for one in doctor.machine(tmp_path) if one.what == what)
    finally:
        resource.setrlimit(number, before)
    assert (finding.found, finding.mend) == ("500", mend)
    assert finding.wrong.startswith(f"Ray and MLflow may run out of {what}")


def test_a_closed_folder_and_one_core(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    one = str(min(os.sched_getaffinity(0)))
    program = "from crystalframer.commands import doctor; doctor.CHECKS = (doctor.machine, doctor.folders)\n"
    program += "from crystalframer.cli import main; raise SystemExit(main(['doctor']))"
    bound = ["taskset", "-c", one] if shutil.which("taskset") else []
    done = subprocess.run(
        [*unprivileged(), *bound, sys.executable, "-c", program],
        cwd=closed, env={**os.environ, "COLUMNS": "400"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"runs       {closed}/runs (not there yet)\n   WRONG:  it cannot be written to (Permission denied)\n" in (
        done.stdout
    )
    assert "   mend:   export CRYSTALFRAMER_RUNS=DIR" in done.stdout
    assert done.stdout.endswith("\n1 thing is wrong\n")
    if bound:
        assert "cores      1 of " in done.stdout


def test_servers_that_are_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    found = examined(capsys, code=1)
    assert found["MLflow"]["wrong"].startswith("no MLflow server answers at http://127.0.0.1:9; ")
    assert found["MLflow"]["mend"].startswith("unset MLFLOW_TRACKING_URI")
    assert found["Ray"]["wrong"].startswith("no Ray cluster answers at RAY_ADDRESS '127.0.0.1:9'")
    assert found["Ray"]["mend"].startswith("unset RAY_ADDRESS")
    assert "secret@" not in json.dumps(found)
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:9" in found["variables"]["found"]


@pytest.fixture
def guarded() -> Iterator[str]:
    """A server that lets in who brings a name and a password, and has no experiments."""
    brought = "Basic " + base64.b64encode(b"me:word").decode()

    class Guard(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            welcome = self.headers.get("Authorization") == brought
            self.send_response(200 if welcome else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}" if welcome else b"who are you?")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Guard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_login_that_is_refused(
    guarded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:wrong-word@{guarded}")
    found = examined(capsys, code=1)
    assert found["MLflow"]["wrong"].startswith(f"the MLflow server at http://{guarded} refuses the login: set MLFLOW_")
    assert found["MLflow"]["mend"] == "export MLFLOW_TRACKING_USERNAME=NAME MLFLOW_TRACKING_PASSWORD=WORD"
    assert "wrong-word" not in json.dumps(found)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:word@{guarded}")
    assert examined(capsys)["MLflow"]["found"] == f"http://{guarded} answers"


def test_damaged_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path in (tmp_path / "runs" / "mlflow.db", *(tmp_path / "data" / "mine" / name for name in STORE)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"this is neither a database nor a table, whatever its name may say")
    found = examined(capsys, code=1)
    assert found["MLflow"]["wrong"] == "the database is damaged: file is not a database"
    assert found["MLflow"]["mend"].startswith("mv runs/mlflow.db runs/mlflow.db.damaged")
    assert found["data set"]["mend"] == "crystalframer prepare mine"


STORE = ("manifest.json", "crystals.arrow", "rejects.jsonl")


def test_lines_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    finding = Finding("runs", "a folder with blanks " * 4, "it cannot be written to " * 3, "export " + "x" * 60)
    *lines, command = lines_of(finding)
    assert max(map(len, lines)) <= 40
    assert command == f"   mend:   export {'x' * 60}", "it can be pasted"
    assert environment.variable("COLUMNS") == "40"
