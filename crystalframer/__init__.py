"""CrystalFramer: crystal property prediction with dynamic, interaction-aware frames."""

import os

__version__ = "0.1.0"

# Threads that wait for others spin, by OpenMP's default for milliseconds. Where another program needs the core, the
# thread that is waited for then cannot run: two threads on two busy cores trained some ten times slower than one.
# A short spin costs little on free cores. It must be set before torch loads OpenMP; a setting of the user's prevails.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
