"""The commands of docs/clusters.md, as the page has them: the tests of clusters type these."""

import re

from tests.fixtures.pages import Page

PAGE = Page("clusters.md")
OWN_MACHINES = "2. Machines of your own"
SLURM = "3. Slurm"
CLOUD = "4. A cloud"
JOBS = "Start, watch, stop, resume"
NOT_TYPED = {
    "pip install -c constraints.txt -e '.[cluster]'": "the hosts reach no package index; they share this environment",
    "aws sts get-caller-identity": "asks the real AWS who one is",
    "sbatch clusters/slurm.sbatch": "needs Slurm",
    "sbatch clusters/slurm.sbatch sweeps/ablation_frames.yaml --set resources.gpus_per_trial=0.5": "needs Slurm",
}
"""Lines that no test types, and why."""


def jobs() -> dict[str, list[str]]:
    """Return the commands to start, watch, stop … a sweep, by what they are for."""
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", PAGE.section(JOBS), re.MULTILINE)
    return {purpose: re.findall(r"`((?:ray|python) [^`]+)`", cell) for purpose, cell in rows}
