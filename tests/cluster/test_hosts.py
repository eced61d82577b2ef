"""Labs beside one another."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import hosts

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_lab_that_ends_leaves_the_shared_storage_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.require_namespaces()
    shared = Path("/", f"shared-{tmp_path.parent.name}-{tmp_path.name}")
    monkeypatch.setattr(hosts, "SHARED", shared)
    monkeypatch.setattr(hosts, "MOUNT_POINTS", (*hosts.MOUNT_POINTS[:-1], shared))
    with ExitStack() as labs:
        first = labs.enter_context(ExitStack())
        first.enter_context(hosts.lab(tmp_path / "first"))
        second = labs.enter_context(hosts.lab(tmp_path / "second"))
        host = second.add("host", "10.77.0.10")
        host.run("touch", f"{shared}/kept")
        first.close()
        assert host.run("ls", str(shared)).stdout == "kept\n"
    shared.rmdir()
