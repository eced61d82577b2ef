"""What this process may use, and what its surroundings say: the one place that asks the system and the environment.

Cores and memory are those that are ours, by affinity, Slurm and control group, not those that the machine has. Folders
are such as can be written to. Loopback and private addresses are never asked for through a proxy. An environment
variable that is empty is taken for one that is not set.
"""

import contextlib
import errno
import functools
import ipaddress
import math
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crystalframer.errors import UserError

CONTROL_GROUPS = Path("/sys/fs/cgroup")
DATA_VARIABLE = "CRYSTALFRAMER_DATA"
"""Environment variable that names the folder of prepared data sets and fetched models."""
KERNELS_VARIABLE = "NUMBA_CACHE_DIR"
"""Environment variable that names the folder of compiled kernels."""
PROCESSES = 300
"""What Ray, MLflow's server and a trial are together on one machine, threads included."""
SHORT_PATH = 25
"""Longest path of a folder for sockets: what Ray puts below it must stay under about 100 characters in all."""
_PRIVATE = "crystalframer-"
_BESIDE_KERNELS = Path(__file__).absolute().parent / "kernels" / "__pycache__"


def variable(name: str) -> str | None:
    """Return an environment variable, None where it is not set or empty."""
    return os.environ.get(name, "").strip() or None


@contextlib.contextmanager
def holding(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def for_python(**variables: str) -> dict[str, str]:
    """Return the environment of a Python started here, which finds this package also where it is not installed."""
    root = str(Path(__file__).absolute().parents[1])
    path = os.pathsep.join(filter(None, [root, variable("PYTHONPATH")]))
    return {**os.environ, **variables, "PYTHONPATH": path}


def cores(control_groups: Path = CONTROL_GROUPS) -> int:
    """Return how many cores this process may use: by its affinity, Slurm's word and its control group's quota."""
    return max(1, min([len(_affinity()), *_numbers("SLURM_CPUS_PER_TASK"), *_of_groups(control_groups, "cpu", _quota)]))


def all_cores() -> int:
    """Return how many cores the machine has, ours or not."""
    return os.cpu_count() or 1


def settle() -> None:
    """Set what libraries read from the environment when they are imported, and what processes started here inherit.

    Pools of threads follow the affinity alone: they get no more threads than `cores`, unless the user chose a number. A
    user without a home, as in some containers, gets a private temporary one, since Ray and others insist on one.
    """
    if variable("OMP_NUM_THREADS") is None and cores() < len(_affinity()):
        os.environ["OMP_NUM_THREADS"] = str(cores())
    try:
        usable = Path.home().is_dir() or is_writable(Path.home())
    except RuntimeError:
        usable = False
    if not usable:
        with contextlib.suppress(UserError):  # said by whoever needs a temporary folder
            os.environ["HOME"] = str(private_folder())


def memory(control_groups: Path = CONTROL_GROUPS) -> int:
    """Return how many bytes of memory this process may use: the machine's, Slurm's word, its control group's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    slurm = [megabytes * 2**20 for megabytes in _numbers("SLURM_MEM_PER_NODE")]
    return min([machine, *slurm, *_of_groups(control_groups, "memory", _limit)])


def require_processes() -> None:
    """Check that this user may start the processes of a Ray of our own, of which each thread is one (``ulimit -u``).

    Raises:
        UserError: fewer; some of what is started would end at once, and the rest wait for it.
    """
    import resource  # not on Windows

    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most == resource.RLIM_INFINITY or os.geteuid() == 0:  # root is not bound
        return
    running = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if process.stat().st_uid == os.geteuid():
                running += sum(1 for _ in (process / "task").iterdir())
    if most - running < PROCESSES:
        raise UserError(
            f"this user has {running} of at most {most} processes and threads, a sweep needs {PROCESSES} more: end "
            "other programs, or allow more with `ulimit -u 8192`"
        )


def home() -> Path:
    """Return the user's home; see `settle` for those without one."""
    return Path.home()


def is_homeless() -> bool:
    """Return whether the home is the temporary one that `settle` gave."""
    return home().parent == Path(tempfile.gettempdir()) and home().name.startswith(_PRIVATE)


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home."""
    return Path(path).expanduser()


def data_folder() -> Path:
    """Return the folder of prepared data sets: ``$CRYSTALFRAMER_DATA``, or ``~/.cache/crystalframer``."""
    return expanded(variable(DATA_VARIABLE) or home() / ".cache" / "crystalframer")


def temporary_folder(longest: int | None = None) -> Path:
    """Return a folder for temporary files: ``$TMPDIR`` or the system's.

    Args:
        longest: characters that its path may have; where it has more, /tmp or /dev/shm takes its place.

    Raises:
        UserError: none can be written to.
    """
    with contextlib.suppress(FileNotFoundError):
        chosen = Path(tempfile.gettempdir())
        others = [Path("/tmp"), Path("/dev/shm")]
        for folder in [chosen, *(others if longest is not None else [])]:
            if is_writable(folder) and (longest is None or len(str(folder)) < longest):
                return folder
    limit = "" if longest is None else f" whose path has less than {longest} characters"
    raise UserError(f"no folder{limit} for temporary files can be written to: name one with TMPDIR")


def private_folder() -> Path:
    """Return a temporary folder that nobody else can enter, the same for all processes of this user where possible.

    What lies there is run: a folder that somebody else put in its place is not used.
    """
    folder = temporary_folder() / f"{_PRIVATE}{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return _drawn_folder()


def has_semaphores() -> bool:
    """Return whether processes can share locks and memory: not where /dev/shm is read-only or missing."""
    from multiprocessing import get_context

    try:
        get_context("spawn").Lock()
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS):
            raise
        return False
    return True


def kernel_cache() -> Path:
    """Return where compiled kernels are kept: ``$NUMBA_CACHE_DIR``, beside the code, in the user's cache, or temporary.

    Raises:
        UserError: no folder can be written to.
    """
    named = variable(KERNELS_VARIABLE)
    wanted = [*([Path(named)] if named else []), _BESIDE_KERNELS, home() / ".cache" / "crystalframer" / "kernels"]
    return next((folder for folder in wanted if is_writable(folder)), None) or private_folder() / "kernels"


def kept(**options: Any) -> Any:
    """Return Numba's decorator for a function whose compiled form is kept in `kernel_cache`, with such options."""
    import numba

    folder = kernel_cache()
    if folder != _BESIDE_KERNELS:  # that one Numba finds by itself
        os.environ[KERNELS_VARIABLE] = str(folder)
        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
    return numba.njit(cache=True, error_model="numpy", **options)


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or the folder itself can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def reach_directly(uri: str, *, ours: bool = False) -> None:
    """Have this process, and what it starts, reach a near address, or one of `ours` anywhere, past any proxy."""
    host = urlsplit(uri).hostname or ""
    if not (ours or _is_near(host)):
        return
    for name in ("NO_PROXY", "no_proxy"):
        exempt = [entry for entry in (variable(name) or "").split(",") if entry]
        if host not in exempt and "*" not in exempt:
            os.environ[name] = ",".join([*exempt, host])


def proxies() -> dict[str, str]:
    """Return the proxies that the environment names, without the passwords in their addresses."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    found = {name: variable(name) or variable(name.upper()) for name in names}
    return {name: without_secret(value) for name, value in found.items() if value}


def without_secret(address: str) -> str:
    """Return an address without the user and the password that it may hold."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else address


def _is_near(host: str) -> bool:
    """Return whether a host is this one, or has an address that only a private network knows."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _affinity() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(all_cores())


def _numbers(name: str) -> list[int]:
    text = variable(name) or ""
    return [int(text)] if text.isdecimal() and int(text) else []


@functools.cache
def _drawn_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=temporary_folder()))


def _of_groups(root: Path, controller: str, read: Callable[[Path], list[int]]) -> Iterator[int]:
    """Yield what the control groups of this process allow (Linux, version 2 or 1), those above them included."""
    try:
        names = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for group in {line.split(":", 2)[2].lstrip("/") for line in names} | {""}:
        for folder in (root / group, root / controller / group):
            for path in (folder, *folder.parents):
                if path.is_relative_to(root):
                    with contextlib.suppress(OSError):
                        yield from read(path)


def _quota(group: Path) -> list[int]:
    """Return how many cores' time a control group allows, rounded up."""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    else:
        quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
        period = (group / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    return [math.ceil(int(quota) / int(period))] if quota.isdecimal() and int(quota) else []


def _limit(group: Path) -> list[int]:
    """Return how many bytes a control group allows."""
    path = group / "memory.max"
    limit = (path if path.exists() else group / "memory.limit_in_bytes").read_text(encoding="ascii").strip()
    return [int(limit)] if limit.isdecimal() else []
