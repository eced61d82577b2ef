"""The processes of one training as Ray actors, on one host or several."""

import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crystalframer.command_line import on_stop_signals
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.session import ray_session
from crystalframer.orchestration.cluster.surroundings import check_visible, find_address
from crystalframer.training.launch import GRACE_SECONDS, Report, Work, explain, reported
from crystalframer.training.processes import Post, joined

POLL_SECONDS = 0.5
"""How often the driver asks for what the first process has to say."""
_IOCTL_ADDRESS = 0x8915
"""SIOCGIFADDR: the address of a network interface (Linux)."""


def launch_on_ray(
    work: Work,
    arguments: Sequence[Any],
    size: int,
    *,
    device: str = "cpu",
    address: str | None = None,
    threads: int = 1,
    out: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Run `work` in `size` processes on a Ray cluster, or a Ray of our own, and return the first one's exit code.

    The first process runs on this host if there is room. The first SIGINT or SIGTERM lets all of them stop after the
    step under way, the second one ends them at once.

    Args:
        work: ``work(processes, device, *arguments, post)``, as each process does it.
        arguments: further arguments, which can be pickled.
        size: number of processes.
        device: ``cpu``, or ``cuda`` for one GPU per process.
        address: the cluster; None for what RAY_ADDRESS names, else a Ray of our own.
        threads: CPU cores that a process occupies.
        out: absolute folder that all hosts share.
        say: what to do with the first process' lines.

    Raises:
        UserError: a process raised it, the cluster is too small, or its hosts do not share `out`.
        TrainingDivergedError: a process raised it.
        LostProcessError: a process or its host died.
    """
    address = find_address(address)
    own = max(os.cpu_count() or 1, size * threads) if address is None else None
    with ray_session(address, own):
        _require_room(size, threads, device)
        if address is not None:
            out.mkdir(parents=True, exist_ok=True)
            check_visible(out)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        remote: Any = ray.remote(Member)
        resources = {"max_concurrency": 3, "num_cpus": threads, "num_gpus": 1 if device == "cuda" else 0}
        members = [
            remote.options(**resources, **({"scheduling_strategy": here} if rank == 0 else {})).remote(rank, size)
            for rank in range(size)
        ]
        try:
            meeting = ray.get(members[0].open_meeting.remote())
            runs = [member.run.remote(work, list(arguments), meeting, device) for member in members]
            with _stops_on_signals(members):
                return _outcome(members, runs, say)
        finally:
            for member in members:
                ray.kill(member)


class Member:
    """One process of a training; the work, stopping and reading run in threads of their own."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self._stopping = threading.Event()
        self._lines: list[str] = []

    def open_meeting(self) -> str:
        """Return an address on this host where the processes can meet."""
        host = _own_address()
        with closing(socket.socket()) as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def run(self, work: Work, arguments: list[Any], meeting: str, device: str) -> Report:
        """Do the work and return how it ended."""
        import torch

        _use_interface(_own_address())
        post = Post(say=self._lines.append, stopping=self._stopping.is_set)

        def together() -> int:
            with joined(self._rank, self._size, meeting, torch.device(device)) as processes:
                return work(processes, device, *arguments, post)

        return reported(together)

    def lines(self, start: int) -> list[str]:
        """Return what was said from line `start` on."""
        return self._lines[start:]

    def stop(self) -> None:
        """Let the work end after the step under way."""
        self._stopping.set()


def _outcome(members: Sequence[Any], runs: Sequence[Any], say: Callable[[str], None]) -> int:
    """Pass on what the first process says until all are done or one has failed."""
    running = {run: rank for rank, run in enumerate(runs)}
    reports: dict[int, Report | str] = {}
    deadline = float("inf")
    said = 0
    while running and time.monotonic() < deadline:
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL_SECONDS)
        for run in ended:
            rank = running.pop(run)
            reports[rank] = _end_of(run)
            if isinstance(report := reports[rank], str) or report.kind:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        said += _pass_on(members[0], said, say)
    if deadline == float("inf"):
        first = reports[0]
        assert isinstance(first, Report), "every process has reported"
        return first.code
    dead = [rank for rank, report in reports.items() if isinstance(report, str)] or list(reports)
    how = report if isinstance(report := reports[dead[0]], str) else "failed"
    spoken = [found if isinstance(found := reports.get(rank), Report) else None for rank in range(len(members))]
    raise explain(
        spoken, f"process {dead[0] + 1} of {len(members)} {how}, so the training stopped; start it again to go on"
    )


def _end_of(run: Any) -> Report | str:
    """Return a process' report, or in words how it ended without one."""
    try:
        report: Report = ray.get(run)
    except RayActorError:
        return "died, or its host did"
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"failed ({type(cause).__name__}: {' '.join(str(cause).split())})"
    return report


def _pass_on(member: Any, said: int, say: Callable[[str], None]) -> int:
    try:
        lines: list[str] = ray.get(member.lines.remote(said))
    except RayActorError:
        return 0  # its end is noticed where the work is waited for
    for line in lines:
        say(line)
    return len(lines)


def _require_room(size: int, threads: int, device: str) -> None:
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for what, needed in (("CPU", size * threads), ("GPU", size if device == "cuda" else 0)):
        if needed > there.get(what, 0.0):
            raise UserError(
                f"--processes {size}: asks for {needed} {what}s, but the Ray cluster has {there.get(what, 0.0):g}; "
                "start fewer processes, or add nodes"
            )


def _own_address() -> str:
    """Return this host's address in the cluster."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _use_interface(host: str) -> None:
    """Let gloo and NCCL talk through the interface that has this host's address in the cluster."""
    for _, name in socket.if_nameindex():
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            try:
                answer = fcntl.ioctl(probe, _IOCTL_ADDRESS, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an address
        if socket.inet_ntoa(answer[20:24]) == host:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


@contextmanager
def _stops_on_signals(members: Sequence[Any]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop all processes in good order, and the second one at once."""
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        for member in members:
            member.stop.remote()

    with on_stop_signals(stop):
        yield
