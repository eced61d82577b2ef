"""Each fault, injected into a sweep of real trials on four hosts: nothing is lost, nothing is there twice.

`python -m tests.cluster.chaos --times 5` does the same more often and prints the table of docs/clusters.md.
"""

import os
import shutil

import pytest

from tests.cluster.chaos import FAULTS, HEADER, jump_clock, run_faults
from tests.cluster.hosts import require_namespaces

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module", autouse=True)
def hosts_can_be_made() -> None:
    """Skip where they cannot."""
    require_namespaces()


def test_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [fault for fault, inject in FAULTS.items() if inject is not jump_clock or shutil.which("cc")]
    found = run_faults(faults, int(os.environ.get("CHAOS_TIMES", "1")))
    with capsys.disabled():
        print("\n" + "\n".join([HEADER, *(damage.row() for damage in found)]))
    assert [damage.row() for damage in found if not damage.none] == []
