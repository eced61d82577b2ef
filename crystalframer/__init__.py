"""CrystalFramer: crystal property prediction with dynamic, interaction-aware frames."""

import importlib
import os
from typing import Any

from crystalframer.environment import settle

__version__ = "0.2.0"

# Threads that wait for others spin, by OpenMP's default for milliseconds. Where another program needs the core, the
# thread that is waited for then cannot run: two threads on two busy cores trained some ten times slower than one.
# A short spin costs little on free cores. It must be set before torch loads OpenMP; a setting of the user's prevails.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
settle()

__all__ = ["finetune", "load", "models", "train"]


def __getattr__(name: str) -> Any:
    """Return what the package offers, imported when it is first asked for: `import crystalframer` itself is instant."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("crystalframer.api"), name)


def __dir__() -> list[str]:
    """Return the names of the package, those that are not imported yet included."""
    return sorted({*globals(), *__all__})
