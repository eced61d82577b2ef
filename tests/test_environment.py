"""What a process may use: real affinities, folders that cannot be written to, a user without a home, proxies."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import getproxies_environment

import pytest
import requests.utils

from crystalframer import environment
from crystalframer.environment import cores, memory, reach_directly, temporary_folder, variable, without_secret
from crystalframer.errors import UserError
from tests.fixtures.unprivileged import unprivileged

GIB = 2**30


def printed(program: str, *command: str, **variables: str | None) -> str:
    """Run a program in a process of its own and return what it prints."""
    found = {**os.environ, **variables}
    done = subprocess.run(
        [*command, sys.executable, "-c", program],
        env={name: value for name, value in found.items() if value is not None},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_cores() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_slurm_and_quotas_bound_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert cores(tmp_path) == 16
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert cores(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert cores(tmp_path) == 4, "three and a half"
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == 6
    (tmp_path / "cpu.cfs_quota_us").write_text("20000\n")
    assert cores(tmp_path) == 1


def test_the_affinity_bounds_the_cores() -> None:
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{one}}})\n"
    assert printed(program + "from crystalframer.environment import cores; print(cores())") == "1"


def test_threads_are_no_more_than_the_cores() -> None:
    program = "import crystalframer, torch; print(torch.get_num_threads())"
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    assert printed(program, OMP_NUM_THREADS=None, SLURM_CPUS_PER_TASK="1") == "1"
    assert printed(program, OMP_NUM_THREADS="2", SLURM_CPUS_PER_TASK="1") == "2"


def test_slurm_and_limits_bound_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    machine = memory(tmp_path)
    assert machine > GIB // 4
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(tmp_path) == machine
    (tmp_path / "memory.max").write_text("134217728\n")
    assert memory(tmp_path) == GIB // 8
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # version 1 says so of no limit
    assert memory(tmp_path) == machine
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    assert memory(tmp_path) == GIB // 16


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", None), ("  ", None), (" x ", "x")):
        monkeypatch.setenv("CRYSTALFRAMER_DATA", value)
        assert variable("CRYSTALFRAMER_DATA") == expected
    monkeypatch.setenv("CRYSTALFRAMER_DATA", "")
    assert environment.data_folder() == Path.home() / ".cache" / "crystalframer"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a home")
def test_a_user_without_a_home_gets_a_temporary_one() -> None:
    stranger = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    readable = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    program = """
from crystalframer import environment
from ray.tune import Trainable
print(environment.home(), environment.data_folder(), environment.is_homeless())
"""
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp") as place:  # pytest's own folders are for their owner
        Path(place).chmod(0o777)
        found = printed(program, *stranger, *readable, HOME=None, CRYSTALFRAMER_DATA="", TMPDIR=place)
        home = Path(place) / "crystalframer-54321"
        assert found.split() == [str(home), str(home / ".cache" / "crystalframer"), "True"]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_is_not_there_and_cannot_be_made_is_none(tmp_path: Path) -> None:
    closed, temporary = tmp_path / "closed", tmp_path / "temporary"
    closed.mkdir(mode=0o555)
    temporary.mkdir()
    program = "from crystalframer import environment; print(environment.home(), environment.is_homeless())"
    variables = {"HOME": str(closed / "missing"), "TMPDIR": str(temporary)}
    found = printed(program, *unprivileged(), **variables)
    assert found.split() == [str(temporary / f"crystalframer-{os.geteuid()}"), "True"]
    variables["HOME"] = str(tmp_path / "new")
    assert printed(program, *unprivileged(), **variables).split() == [str(tmp_path / "new"), "False"]


def test_a_folder_for_sockets_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert temporary_folder() == long
    assert temporary_folder(longest=25) == Path("/tmp")
    with pytest.raises(UserError, match=r"less than 3 characters for temporary files .* name one with TMPDIR"):
        temporary_folder(longest=3)


KERNELS = """
from pathlib import Path
from crystalframer import environment
environment._BESIDE_KERNELS = Path({beside!r})
print(environment.kernel_cache())
"""


def test_kernels_are_kept_where_that_is_possible(tmp_path: Path) -> None:
    closed, home, named = tmp_path / "closed", tmp_path / "home", tmp_path / "named"
    for folder, mode in ((closed, 0o555), (home, 0o755)):
        folder.mkdir(mode=mode)
    program = KERNELS.format(beside=str(closed / "__pycache__"))
    variables = {"HOME": str(home), "NUMBA_CACHE_DIR": "", "TMPDIR": str(tmp_path)}
    assert printed(KERNELS.format(beside=str(tmp_path / "open")), **variables) == str(tmp_path / "open")
    command = unprivileged()
    assert printed(program, *command, **variables) == str(home / ".cache" / "crystalframer" / "kernels")
    assert printed(program, *command, **{**variables, "NUMBA_CACHE_DIR": str(named)}) == str(named)
    variables |= {"HOME": str(closed)}
    mine = tmp_path / f"crystalframer-{os.geteuid()}"
    for _ in range(2):
        assert printed(program, *command, **variables) == str(mine / "kernels")
        assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    mine.chmod(0o777)  # somebody else may have put something there
    drawn = Path(printed(program, *command, **variables))
    assert drawn.parent.parent == tmp_path
    assert drawn.parent != mine


def test_a_kernel_is_compiled_and_kept_in_the_private_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    program = (
        KERNELS.format(beside=str(closed / "__pycache__"))
        + """
@environment.kept()
def f(x):
    return x + 1
assert f(1) == 2
"""
    )
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "__pycache__").mkdir(mode=0o555)
    run = f"import runpy; runpy.run_path({str(tmp_path / 'program.py')!r})"
    variables = {"HOME": str(closed), "NUMBA_CACHE_DIR": "", "TMPDIR": str(tmp_path)}
    folder = Path(printed(run, *unprivileged(), **variables))
    assert list(folder.rglob("*.nbi"))


@pytest.mark.parametrize(
    ("uri", "ours", "direct"),
    [
        ("http://127.0.0.1:5000", False, True),
        ("http://localhost:5000", False, True),
        ("http://[::1]:5000", False, True),
        ("http://10.1.2.3:5000", False, True),
        ("http://8.8.8.8:5000", False, False),
        ("http://8.8.8.8:5000", True, True),
        ("https://mlflow.example.org", False, False),
    ],
)
def test_near_addresses_go_past_proxies(monkeypatch: pytest.MonkeyPatch, uri: str, ours: bool, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "a.example.org")
    monkeypatch.setenv("http_proxy", "http://user:word@127.0.0.1:9")
    for _ in range(2):
        reach_directly(uri, ours=ours)
    if "::1" not in uri:
        assert requests.utils.should_bypass_proxies(uri, None) == direct
    assert os.environ["no_proxy"].count(",") == direct
    assert getproxies_environment()["no"] == os.environ["no_proxy"]
    assert environment.proxies()["http_proxy"] == "http://127.0.0.1:9"


def test_secrets_are_not_shown() -> None:
    assert without_secret("http://user:word@host:5000/x?y=1") == "http://host:5000/x?y=1"
    assert without_secret("sqlite:///a@b.db") == "sqlite:///a@b.db"
