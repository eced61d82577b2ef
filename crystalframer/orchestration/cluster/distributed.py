"""The processes of one training as Ray actors, on one host or several."""

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crystalframer.environment import cores, require_processes
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.session import ray_session
from crystalframer.orchestration.cluster.surroundings import check_visible, find_address
from crystalframer.training.launch import Ending, Show, TrainingFunction, ending_of, supervise
from crystalframer.training.processes import Channel, joined

POLL_SECONDS = 0.5
"""How often the driver asks the actors how they stand."""
_IOCTL_ADDRESS = 0x8915
"""SIOCGIFADDR: the address of a network interface (Linux)."""


def launch_on_ray(
    function: TrainingFunction,
    arguments: Sequence[Any],
    size: int,
    device: str = "cpu",
    show: Show = print,
    *,
    threads: int = 1,
    out: Path,
) -> int:
    """Do what `crystalframer.training.launch.launch` does on the cluster of RAY_ADDRESS, or a Ray of our own.

    The first process runs on this host if there is room.

    Args:
        function: what each process does.
        arguments: further arguments, which can be pickled.
        size: number of processes.
        device: ``cpu``, or ``cuda`` for one GPU per process.
        show: takes what the first process has to say.
        threads: CPU cores that a process occupies.
        out: absolute folder that all hosts share.

    Raises:
        UserError: a process raised it, the cluster is too small, or its hosts do not share `out`.
        TrainingDivergedError: a process raised it.
        LostProcessError: a process or its host died.
    """
    address = find_address(None)
    own = max(cores(), size * threads) if address is None else None
    if own is not None:
        require_processes()
    with ray_session(address, own):
        _require_room(size, threads, device)
        if address is not None:
            out.mkdir(parents=True, exist_ok=True)
            check_visible(out)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        resources = {"max_concurrency": 3, "num_cpus": threads, "num_gpus": 1 if device == "cuda" else 0}
        remote: Any = ray.remote(_TrainingActor)
        actors = [
            remote.options(**resources, **({"scheduling_strategy": here} if rank == 0 else {})).remote()
            for rank in range(size)
        ]
        try:
            meeting = ray.get(actors[0].open_meeting.remote())
            processes = [
                _ActorProcess(actor, actor.run.remote(function, list(arguments), rank, size, meeting, device))
                for rank, actor in enumerate(actors)
            ]
            return supervise(processes, show, POLL_SECONDS)
        finally:
            for actor in actors:
                ray.kill(actor)


class _TrainingActor:
    """One process of a training; the work, stopping and reading run in threads of their own."""

    def __init__(self) -> None:
        self._stop_requested = threading.Event()
        self._said: list[Any] = []

    def open_meeting(self) -> str:
        """Return an address on this host where the processes can meet."""
        host = _own_address()
        with closing(socket.socket()) as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def run(
        self, function: TrainingFunction, arguments: list[Any], rank: int, size: int, meeting: str, device: str
    ) -> Ending:
        """Do the work and return how it ended."""
        import torch

        _use_interface(_own_address())
        channel = Channel(self._said.append, self._stop_requested.is_set)

        def together() -> int:
            with joined(rank, size, meeting, torch.device(device)) as processes:
                return function(processes, device, channel, *arguments)

        return ending_of(together)

    def said(self, start: int) -> list[Any]:
        """Return what was said from entry `start` on."""
        return self._said[start:]

    def stop(self) -> None:
        """Let the work end after the step under way."""
        self._stop_requested.set()


class _ActorProcess:
    """A process of a training on some host of the cluster."""

    def __init__(self, actor: Any, run: Any) -> None:
        self._actor = actor
        self._run = run
        self._heard = 0

    def messages(self) -> list[Any]:
        try:
            said: list[Any] = ray.get(self._actor.said.remote(self._heard))
        except RayActorError:
            return []  # `ending` says so
        self._heard += len(said)
        return said

    def ending(self) -> Ending | None:
        if not ray.wait([self._run], timeout=0)[0]:
            return None
        try:
            ending: Ending = ray.get(self._run)
        except RayActorError:
            return Ending(sentence="died, or its host did")
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            return Ending(sentence=f"failed ({type(cause).__name__}: {' '.join(str(cause).split())})")
        return ending

    def stop(self) -> None:
        self._actor.stop.remote()


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
