"""What a measurement depends on besides the code: machine, versions, commit, load."""

import datetime as dt
import os
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from crystalframer import __version__
from crystalframer.environment import cores

ROOT = Path(__file__).absolute().parents[1]


@cache
def provenance(device: str) -> dict[str, str]:
    """Return date (UTC), commit, machine and versions, one column of the CSV each."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "machine": _processor(),
        "cores": str(cores()),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,  # says which build, too
        "numba": _version("numba"),
        "triton": _version("triton"),
        "crystalframer": __version__,
    }


def load() -> str:
    """Return the machine's load over the last minute; well above the threads in use, it was not quiet."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Return the checkout's commit, ``-dirty`` if it was edited; "unknown" outside a checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
