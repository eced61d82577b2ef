"""A sweep and its figures in a container whose files are read-only, as another user, without a home."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.orchestration.conftest import PROSE, ROOT, TINY

pytestmark = pytest.mark.slow

NOBODY = 65534
CONTAINER = """
set -e
place=$1; shift
mount --make-rprivate /
mkdir "$place/kept"
n=0
for path in $NEEDED; do n=$((n + 1)); mkdir "$place/kept/$n"; mount --bind "$path" "$place/kept/$n"; done
if [ -n "$CLOSED" ]; then mount -t tmpfs -o mode=755 tmpfs "$CLOSED"; fi
n=0
for path in $NEEDED; do
    n=$((n + 1)); mkdir -p "$path"; mount --bind "$place/kept/$n" "$path"; mount -o remount,ro,bind "$path"
done
for path in "$place" $SHARED; do mount --bind "$path" "$path"; done
for path in $SHARED $CLOSED /; do mount -o remount,ro,bind "$path"; done
cd "$place"
exec setpriv --reuid "$NOBODY" --regid "$NOBODY" --clear-groups --bounding-set=-all -- "$@"
"""
"""Makes all but one folder read-only in a mount namespace, and leaves it to nobody what is needed below closed ones."""


@pytest.fixture
def place() -> Iterator[Path]:
    """The folder that can be written to; its path is short, as Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp") as folder:
        os.chown(folder, NOBODY, NOBODY) if os.geteuid() == 0 else None
        yield Path(folder)


def in_container(place: Path, *command: str, shared_memory: bool) -> tuple[int, str]:
    """Run a command of the program there; return its exit code and what it printed."""
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in ("unshare", "setpriv", "mount")):
        pytest.skip("needs root, unshare, setpriv and mount to make a container")
    needed = list(dict.fromkeys(map(str, (ROOT, Path(sys.prefix), Path(sys.base_prefix)))))
    closed = {
        str(parent) for path in needed for parent in Path(path).parents if not parent.stat().st_mode & 0o001
    }  # nobody cannot pass through
    names = ("HOME", "XDG_CACHE_HOME", "CRYSTALFRAMER_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "NUMBA_CACHE_DIR")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in names},
        "NEEDED": " ".join(needed),
        "CLOSED": min(closed, key=len, default=""),
        "SHARED": "" if shared_memory else "/dev/shm",
        "NOBODY": str(NOBODY),
        "TMPDIR": str(place),
        "PYTHONPATH": str(ROOT),
    }
    mounting = ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", str(place)]
    done = subprocess.run(
        [*mounting, sys.executable, "-m", "crystalframer", *command],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    shutil.rmtree(place / "kept")
    return done.returncode, done.stdout


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shm", "closed-shm"])
def test_a_sweep_in_a_read_only_container_without_a_home(place: Path, *, shared_memory: bool) -> None:
    train = {**TINY["train"], "epochs": 1, "average_epochs": 1}
    (place / "one.yaml").write_text(
        yaml.safe_dump({**PROSE, "base": {**TINY, "train": train}, "grid": {"model.frame": ["max"]}})
    )
    stub = ["--trainer", "tests.orchestration.stub_training:StubTrainer"]
    code, said = in_container(place, "sweep", "one.yaml", *stub, shared_memory=shared_memory)
    assert code == 0, said
    assert "| max | " in (place / "analysis" / "output" / "one" / "ablation_table.md").read_text()
    if shared_memory:  # figures are drawn in the poorer one
        return
    code, said = in_container(place, "figures", "--runs", "runs", "--output", "pages", shared_memory=shared_memory)
    assert code == 0, said
    assert list((place / "pages").glob("*/index.html")), said
