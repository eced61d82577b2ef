"""What every test shares: quiet, single-threaded third parties, and the folder of development data."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Two workers on two cores: each keeps to one thread, and starts of servers do not call home.
for name, value in {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(name, value)

# Shells let background jobs, and whatever those start, ignore Ctrl-C; the programs under test are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the checkout; tests that need it skip where it is not there."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the development data in ../shared, which is not there")
    return folder
