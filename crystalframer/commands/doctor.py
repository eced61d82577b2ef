"""Say what a training or a sweep would find here, what is wrong, and what mends it."""

import argparse
import functools
import importlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from crystalframer import __version__, environment
from crystalframer.atomic_files import locked, replace_text
from crystalframer.errors import UserError, one_line
from crystalframer.orchestration.sweeps.arguments import add_runs_argument

DESCRIPTION = """\
Say what a training or a sweep would find on this machine, what is wrong, and the command that mends it: versions,
cores, memory, folders (with a file that is written and flushed), kernels against the reference on each device, data
sets, the tracking server with its login, and Ray. Exit code 1 when something is wrong.

A report of a bug should come with what it prints; no password is in it.
"""
PACKAGES = ("numpy", "torch", "numba", "ray", "mlflow", "optuna", "pandas", "pymatgen")
"""Packages whose versions explain most."""
PYTHONS = ((3, 11), (3, 13))
LEAST_MEMORY, LEAST_SPACE = 3 * 2**30, 2**30
"""Bytes below which a sweep's programs, or its files, hardly find room."""
LEAST_FILES = 1024
"""Open files that a process may have; Ray and MLflow hold hundreds."""
LEAST_PROCESSES = 1024
"""Processes and threads that a user may have; those of a sweep on two cores are some 500."""
NAMES = (
    "CRYSTALFRAMER_",
    "RAY_ADDRESS",
    "RAY_AUTH_",
    "MLFLOW_TRACKING_",
    "SLURM_",
    "OMP_",
    "NUMBA_",
    "CUDA_",
    "TMPDIR",
)
"""Beginnings of the environment variables that matter."""
NVIDIA = Path("/proc/driver/nvidia/version")
"""What NVIDIA's driver says of itself, in containers, too."""
DRIVERS = {"12": 525, "13": 580}
"""The oldest driver (on Linux) for each CUDA that torch may be built for."""
SECRET = ("TOKEN", "PASSWORD", "USERNAME", "SECRET", "KEY")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    wrong: str = ""
    """A sentence, empty where all is well."""
    mend: str = ""
    """The command that mends it."""


Check = Callable[[Path], Iterator[Finding]]
"""Looks at something; it is told the folder of results."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer doctor`."""
    parser.description = DESCRIPTION
    add_runs_argument(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--gpu", action="store_true", help="look at nothing but the GPU, and expect one")


def run(options: argparse.Namespace) -> int:
    """Look at everything, print it, and return 1 when something is wrong."""
    found = []
    for check in (expected_gpu,) if options.gpu else CHECKS:
        for finding in check(options.runs):
            found.append(finding)
            if not options.json:
                print("\n".join(lines_of(finding)), flush=True)
    wrong = sum(bool(finding.wrong) for finding in found)
    if options.json:
        print(json.dumps({"wrong": wrong, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        print("nothing is wrong" if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong")
    return 1 if wrong else 0


def lines_of(finding: Finding) -> list[str]:
    """Return a finding as it is printed."""
    width = max(30, shutil.get_terminal_size().columns)

    def wrapped(text: str, first: str) -> list[str]:
        return textwrap.wrap(
            text, width, initial_indent=first, subsequent_indent=11 * " ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    lines = wrapped(finding.found, f"{finding.what:10} ") or [finding.what]
    lines += wrapped(finding.wrong, "   WRONG:  ")
    return [*lines, *([f"   mend:   {finding.mend}"] if finding.mend else [])]  # a command stays in one piece


def versions(_: Path) -> Iterator[Finding]:
    """Look at the programs."""
    version = platform.python_version()
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    wrong = "" if fits else f"Python {version} is not one of 3.11 to 3.13"
    yield Finding("python", f"{version} ({sys.executable}) on {platform.platform()}", wrong)
    known, missing = [f"crystalframer {__version__}"], []
    for name in PACKAGES:
        try:
            known.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    wrong = f"not installed: {', '.join(missing)}" if missing else ""
    yield Finding("packages", ", ".join(known), wrong, f"pip install {' '.join(missing)}" if missing else "")


def machine(_: Path) -> Iterator[Finding]:
    """Look at cores, memory and limits."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    yield Finding("cores", f"{environment.cores()} of {environment.all_cores()}{load}")
    memory = environment.memory()
    wrong = f"a sweep with Ray and MLflow needs about {LEAST_MEMORY / 2**30:.0f} GiB" if memory < LEAST_MEMORY else ""
    mend = "crystalframer train    # one training alone needs less" if wrong else ""
    yield Finding("memory", f"{memory / 2**30:.1f} GiB", wrong, mend)
    there = environment.has_semaphores()
    wrong = "" if there else "/dev/shm is read-only or missing: one process reads files, and Ray's memory lies on disk"
    yield Finding("semaphores", "there" if there else "none", wrong, "" if there else "mount -o remount,rw /dev/shm")
    import resource

    for what, number, least, option, holders in (
        ("open files", resource.RLIMIT_NOFILE, LEAST_FILES, "n", "open files"),
        ("processes", resource.RLIMIT_NPROC, LEAST_PROCESSES, "u", "processes, of which each thread is one"),
    ):
        most = resource.getrlimit(number)[0]
        few = most != resource.RLIM_INFINITY and most < least
        wrong = f"Ray and MLflow may run out of {holders}, expected at least {least}" if few else ""
        found = "no limit" if most == resource.RLIM_INFINITY else str(most)
        yield Finding(what, found, wrong, f"ulimit -{option} 8192" if few else "")


def folders(runs: Path) -> Iterator[Finding]:
    """Look at the folders: can they be written to, flushed and locked, is there room?"""
    homeless = environment.is_homeless()
    wrong = "this user has no home, so data sets and models would be kept in a temporary folder" if homeless else ""
    yield Finding("home", str(environment.home()), wrong, "export HOME=DIR" if homeless else "")
    yield _folder("runs", runs, "export CRYSTALFRAMER_RUNS=DIR    # or --runs DIR")
    yield _folder("data", environment.data_folder(), f"export {environment.DATA_VARIABLE}=DIR")
    sockets = functools.partial(environment.temporary_folder, environment.SHORT_PATH)
    finders: list[tuple[str, Callable[[], Path], str]] = [
        ("temporary", environment.temporary_folder, "TMPDIR"),
        ("sockets", sockets, "TMPDIR"),
        ("kernels", environment.kernel_cache, environment.KERNELS_VARIABLE),
    ]
    for what, find, name in finders:
        try:
            yield _folder(what, find(), f"export {name}=DIR")
        except UserError as error:
            yield Finding(what, "none", str(error), f"export {name}=DIR")


def _folder(what: str, folder: Path, mend: str) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    found = str(folder.absolute()) + ("" if folder.exists() else " (not there yet)")
    try:
        place = Path(tempfile.mkdtemp(prefix=".doctor-", dir=there))
        try:
            started = time.perf_counter()
            with locked(place / "lock"):
                replace_text(place / "file", "written, flushed and put in place\n")
            took = time.perf_counter() - started
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        return Finding(what, found, f"it cannot be written to ({error.strerror})", mend)
    free = shutil.disk_usage(there).free
    wrong = f"less than {LEAST_SPACE / 2**30:.0f} GiB are free" if free < LEAST_SPACE else ""
    found += f", {free / 2**30:.1f} GiB free, a file flushed in {1000 * took:.0f} ms"
    return Finding(what, found, wrong, mend if wrong else "")


def variables(_: Path) -> Iterator[Finding]:
    """Look at the environment, without its secrets."""
    found = []
    for name in sorted(name for name in os.environ if name.startswith(NAMES)):
        value = environment.variable(name)
        secret = any(word in name for word in SECRET) and not name.endswith("_PATH")
        shown = "(secret)" if secret else environment.without_secret(value or "")
        found.append(f"{name}={shown}" if value else f"{name} is empty: as if not set")
    yield Finding("variables", ", ".join(found) or "none")
    proxies = [f"{name}={value}" for name, value in environment.proxies().items()]
    yield Finding("proxies", ", ".join(proxies) or "none")
    size, encoding = shutil.get_terminal_size(), getattr(sys.stdout, "encoding", None)
    yield Finding("terminal", f"{size.columns} columns, {encoding}")


def devices(_: Path) -> Iterator[Finding]:
    """Look for GPUs, and hold each device's kernel against the reference."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("devices", "none", one_line(error), "pip install --force-reinstall torch")
        return
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    wrong = "" if names or not NVIDIA.exists() else _unseen(torch)
    mend = "nvidia-smi    # which CUDA does the driver know? install the torch for that one" if wrong else ""
    yield Finding("devices", ", ".join(["cpu", *names]), wrong, mend)
    for device in ["cpu", *(["cuda"] if names else [])]:
        yield _kernel(device)


def expected_gpu(runs: Path) -> Iterator[Finding]:
    """Expect a GPU that torch can use: a cluster's setup ends here where there is none."""
    finding = next(devices(runs))
    if finding.found == "cpu" and not finding.wrong:
        wrong = "a GPU is expected here, but there is no NVIDIA driver"
        mend = "nvidia-smi    # `crystalframer files clusters.md` names machine images"
        finding = replace(finding, wrong=wrong, mend=mend)
    yield finding


def _unseen(torch: Any) -> str:
    """Return why torch may see no GPU where there is a driver."""
    cuda = torch.version.cuda
    built = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    found = re.search(r"\b(\d{3,})\.\d+", NVIDIA.read_text(encoding="utf-8"))
    driver, least = found.group(1) if found else "?", DRIVERS.get((cuda or "").partition(".")[0])
    need = f": it needs driver {least} or newer" if least and found and int(driver) < least else ""
    return f"there is an NVIDIA driver ({driver}), but torch {torch.__version__}, {built}, sees no GPU{need}"


def _kernel(device: str) -> Finding:
    import torch

    from crystalframer.config import FRAMES, ModelConfig
    from crystalframer.kernels import get_kernel, resolve_kernel
    from crystalframer.kernels.parity import compare, random_crystal

    what, mend = (
        f"on {device}",
        f"rm -r {shlex.quote(str(environment.kernel_cache()))}    # compiled kernels are made anew",
    )
    started = time.perf_counter()
    try:
        name = resolve_kernel("auto", torch.device(device))
        crystals = [random_crystal(4), random_crystal(6, seed=1)]
        errors = [
            (error, frame)
            for frame in FRAMES
            for error in compare(
                get_kernel(name), crystals, ModelConfig(frame=frame, cutoff=5.0), device=device,
                leave_out_undecided=True,
            )
        ]  # fmt: skip
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what is wrong with the kernel)
        return Finding(what, "attention kernel", one_line(error), mend)
    wrong = "; ".join(f"frame {frame}: {error}" for error, frame in errors if not error.ok)
    largest = max(error.error for error, _ in errors)
    took = time.perf_counter() - started
    found = f"attention kernel {name}, {largest:.1e} from the reference at most (relative RMS), checked in {took:.0f} s"
    return Finding(what, found, wrong, mend if wrong else "")


def data_sets(_: Path) -> Iterator[Finding]:
    """Look at the prepared data sets."""
    from crystalframer.data.registry import load_dataset, own_datasets
    from crystalframer.data.store import is_store
    from crystalframer.published import PUBLISHED

    prepared = [name for name in PUBLISHED if is_store(environment.data_folder() / name)]
    for name in ["sample", *prepared, *own_datasets()]:
        try:
            dataset = load_dataset(name)
        except UserError as error:
            yield Finding("data set", name, str(error), f"crystalframer prepare {name}")
        else:
            yield Finding("data set", f"{name}: {len(dataset):,} crystals, {', '.join(dataset.tasks)}")


def tracking(runs: Path) -> Iterator[Finding]:
    """Look for the MLflow that records, and sign in."""
    from crystalframer.orchestration.tracking.addresses import tracking_address
    from crystalframer.orchestration.tracking.client import check_server
    from crystalframer.orchestration.tracking.server import damage

    address = None
    try:
        address = tracking_address()
        if address is not None:
            check_server(address)
            yield Finding("MLflow", f"{address} answers")
            return
    except UserError as error:
        login = "export MLFLOW_TRACKING_USERNAME=NAME MLFLOW_TRACKING_PASSWORD=WORD"
        mend = login if "refuses the login" in str(error) else "unset MLFLOW_TRACKING_URI    # for a server of its own"
        yield Finding("MLflow", address or "MLFLOW_TRACKING_URI", str(error), mend)
        return
    database = runs / "mlflow.db"
    found = f"a server of its own on {database}" + ("" if database.exists() else " (not there yet)")
    problem = damage(database) if database.exists() else ""
    wrong = f"the database is damaged: {problem}" if problem else ""
    mend = shlex.join(["mv", str(database), f"{database}.damaged"])
    yield Finding("MLflow", found, wrong, mend if wrong else "")


def cluster(_: Path) -> Iterator[Finding]:
    """Look for Ray."""
    try:
        importlib.import_module("ray")
    except (ImportError, OSError) as error:
        yield Finding("Ray", "none", one_line(error), "pip install --force-reinstall 'ray[tune]'")
        return
    from crystalframer.orchestration.cluster.session import require_listener
    from crystalframer.orchestration.cluster.surroundings import find_address

    address = environment.variable("RAY_ADDRESS")
    try:
        if find_address(None) is not None:
            require_listener(str(address))
    except UserError as error:
        yield Finding("Ray", str(address), str(error), "unset RAY_ADDRESS    (for a Ray of its own)")
    else:
        yield Finding("Ray", f"the cluster at {address}" if address else "one of its own on this machine")


CHECKS: tuple[Check, ...] = (versions, machine, folders, variables, data_sets, devices, tracking, cluster)
