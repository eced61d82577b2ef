"""What lies beside the package in a checkout, and inside it where it was installed: sweeps, analysis, benchmarks, …"""

import importlib
import sys
from pathlib import Path
from typing import Any

_INSTALLED = Path(__file__).with_name("beside_the_package")
HOME = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).absolute().parents[1]
"""The folder of `sweeps/`, `analysis/`, `benchmarks/`, `clusters/` and `cluster.yaml`."""
OUTPUT = Path("analysis/output")
"""Where tables and figures are written, from the folder that a command is run in."""


def load(module: str) -> Any:
    """Import a module of `analysis` or `benchmarks`, such as ``analysis.make_all``."""
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return importlib.import_module(module)
